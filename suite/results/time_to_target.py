"""What each run spent to reach a level of its metric: the costs behind every table and verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from suite.results.frame import Records, metric_columns, once
from suite.results.levels import TARGET, levels
from suite.results.run import TRAINED

Array = npt.NDArray[np.float64]

UNITS = {"steps": "step", "seconds": "seconds", "grad_equivalents": "grad_equivalents"}
OWN, ISOLATED, SHARED = "own clock", "steps x exclusive timing", "shared machine"
KNOWN = ("optimizer", "seed", "status", "hardware")
COLUMNS = (
    *KNOWN,
    *UNITS,
    *(f"{unit}_{kind}" for unit in UNITS for kind in ("before", "spent")),
    "source",
)
TOTAL_COLUMNS = ["problem", *KNOWN, "source", *UNITS]
LEVEL_COLUMNS = ["problem", *KNOWN, "source", "level", "value", *UNITS]
FLOATS = dict.fromkeys(UNITS, float)


class Clock(NamedTuple):
    """The origin of a run's seconds.

    Attributes:
        parallel: whether the run shared the machine.
        isolated: the seconds of a step timed in isolation, or NaN.
    """

    parallel: bool
    isolated: float

    @property
    def source(self) -> str:
        """Where its seconds come from."""
        if not self.parallel:
            return OWN
        return ISOLATED if self.isolated > 0 else SHARED

    def spent(self, history: pd.DataFrame) -> dict[str, Array]:
        """What the run had spent at every row of its history, by unit."""
        amounts = {unit: history[name].to_numpy(dtype=float) for unit, name in UNITS.items()}
        if self.source == ISOLATED:
            amounts["seconds"] = amounts["steps"] * self.isolated
        return amounts


def costs_of(
    history: pd.DataFrame, metric: str, direction: str, values: Sequence[float], clock: Clock
) -> list[dict[str, Any]]:
    """What one run had spent when it was first at each level or better, as in `costs`."""
    observed = _observed(history, metric)
    amounts = clock.spent(history)
    reached_at = []
    for value in values:
        hits = np.flatnonzero(observed >= value if direction == "max" else observed <= value)
        first = int(hits[0]) if len(hits) else None
        evaluated = np.flatnonzero(~np.isnan(observed[:first]))
        last = int(evaluated[-1]) if len(evaluated) else None
        reached_at.append({**_cost(amounts, first, last), "source": clock.source})
    return reached_at


def costs(records: Records, problem: str, level: float) -> pd.DataFrame:
    """A row per run of a problem, under its index in `records.frame`: its cost to reach a level.

    Columns: optimizer, seed, status, hardware; steps, seconds, grad_equivalents (`inf` where the
    level was never reached); the same with `_before`, at the last evaluation before, so that the
    true cost lies between the two; with `_spent`, up to the level or the end of the run; source
    (of the seconds). Seconds of runs that shared the machine are steps times what `suite.time`
    measured for a step, where that is known. A run of a pair that does not fit (`unsupported`) has
    no row.
    """
    runs = _fitting(records.of(problem))
    rows = [
        {
            **_known(run),
            **costs_of(records.histories[index], *_metric(run), [level], _clock(run))[0],
        }
        for index, run in _runs(runs)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), index=runs.index)


@once
def level_costs(records: Records) -> pd.DataFrame:
    """A row per run and level of every problem: the cost to reach it, `inf` where it never was.

    Columns: problem, those of `KNOWN`, source, level, its value, and the three units.
    """
    values = {problem: levels(records, problem) for problem in records.problems}
    rows: list[dict[str, Any]] = []
    for index, run in _runs(_fitting(records.frame)):
        own = values[run["problem"]]
        spent = costs_of(records.histories[index], *_metric(run), list(own.values()), _clock(run))
        rows += [
            {"problem": run["problem"], **_known(run), "level": level, "value": value, **cost}
            for (level, value), cost in zip(own.items(), spent, strict=True)
        ]
    return pd.DataFrame(rows, columns=LEVEL_COLUMNS).astype({"value": float, **FLOATS})


def total_costs(records: Records) -> pd.DataFrame:
    """A row per run, under the records' index: all that it spent, whatever it reached.

    Columns as in `TOTAL_COLUMNS`; runs of pairs that do not fit and runs without a history have no
    row.
    """
    rows: dict[int, dict[str, Any]] = {}
    for index, run in _runs(_fitting(records.frame)):
        history, clock = records.histories[index], _clock(run)
        if len(history):
            total = {unit: float(spent[-1]) for unit, spent in clock.spent(history).items()}
            rows[index] = {
                "problem": run["problem"],
                **_known(run),
                "source": clock.source,
                **total,
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=TOTAL_COLUMNS).astype(FLOATS)


def step_seconds(records: Records) -> pd.DataFrame:
    """A row per run with seconds of a step: problem, optimizer, seed, hardware, seconds, source."""
    frame = records.frame[records.frame["status"].isin(TRAINED)]
    clocks = [
        Clock(*pair)
        for pair in zip(frame["parallel"], frame["exclusive_seconds_per_step"], strict=True)
    ]
    source = pd.Series([clock.source for clock in clocks], index=frame.index, dtype=object)
    seconds = frame["seconds_per_step"].where(
        source != ISOLATED, frame["exclusive_seconds_per_step"]
    )
    known = frame[["problem", "optimizer", "seed", "hardware"]]
    return known.assign(seconds=seconds, source=source)[seconds > 0]


def roughly_timed(costs: pd.DataFrame) -> pd.Series:
    """Which of some costs have seconds of a shared machine.

    A run that never reached the level has cost infinity by any clock.
    """
    rough: pd.Series = (costs["source"] == SHARED) & np.isfinite(costs["seconds"])
    return rough


def times(records: Records, unit: str, level: str = TARGET) -> pd.DataFrame:
    """A row a problem, a column an optimizer: the median cost over its runs, failures as `inf`.

    NaN where none ran.
    """
    table = pd.DataFrame(
        index=pd.Index([], name="problem"), columns=records.optimizers, dtype=float
    )
    for problem in records.problems:
        if level in (known := levels(records, problem)):
            spent = costs(records, problem, known[level]).groupby("optimizer")[unit].median()
            table.loc[problem] = spent.reindex(records.optimizers).astype(float)
    return table


def common_level(reached: pd.DataFrame, against: str) -> str | None:
    """The hardest level of a problem that all of the baseline's runs reached.

    The target where there is none. The target is the median of the baseline's own runs, so about
    half of them never reach it.

    Args:
        reached: the rows of `level_costs` on one problem.
        against: the baseline's label.
    """
    own = reached[reached["optimizer"] == against]
    if own.empty:
        return None
    by_all = np.isfinite(own["steps"]).groupby(own["level"], sort=False).all()
    value = dict(zip(own["level"].astype(str), own["value"].astype(float), strict=True))
    # the shares come in the order in which they get harder
    shares = [value[name] for name in value if name != TARGET]
    harder = 1.0 if not shares or shares[-1] >= shares[0] else -1.0
    names = sorted(value, key=lambda name: (harder * value[name], name == TARGET), reverse=True)
    fallback = TARGET if TARGET in names else names[0]
    return next((name for name in names if bool(by_all[name])), fallback)


def _fitting(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of pairs that fit."""
    return frame[frame["status"] != "unsupported"]


def _runs(frame: pd.DataFrame) -> list[tuple[int, dict[str, Any]]]:
    """Each run's index and what the frame knows of it."""
    wanted = ["problem", *KNOWN, "metric", "direction", "parallel", "exclusive_seconds_per_step"]
    rows: list[dict[str, Any]] = frame[wanted].to_dict("records")  # type: ignore[assignment]
    return list(zip(map(int, frame.index), rows, strict=True))


def _known(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in KNOWN}


def _metric(run: Mapping[str, Any]) -> tuple[str, str]:
    return run["metric"], run["direction"]


def _clock(run: Mapping[str, Any]) -> Clock:
    return Clock(run["parallel"], run["exclusive_seconds_per_step"])


def _cost(amounts: Mapping[str, Array], first: int | None, last: int | None) -> dict[str, float]:
    """The costs in every unit of a run that reached a level in row `first`, or never.

    `last` is the row of the last evaluation before.
    """
    cost: dict[str, float] = {}
    for unit, spent in amounts.items():
        total = float(spent[-1]) if len(spent) else 0.0
        cost[unit] = math.inf if first is None else float(spent[first])
        cost[f"{unit}_before"] = 0.0 if last is None else float(spent[last])
        cost[f"{unit}_spent"] = total if first is None else float(spent[first])
    return cost


def _observed(history: pd.DataFrame, metric: str) -> Array:
    """The metric on the validation split, NaN where it was not evaluated."""
    column = metric_columns(metric)["val"]
    if column not in history:
        return np.full(len(history), math.nan)
    return history[column].to_numpy(dtype=float)
