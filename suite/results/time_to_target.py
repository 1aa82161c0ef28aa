"""What it cost each run to reach a level of its metric.

The frame behind verdicts, profiles and target tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from suite.config import targets as levels_on_disk
from suite.config import task_file
from suite.errors import ConfigError
from suite.results.frame import Records, metric_columns
from suite.results.load import as_number

UNITS = {"steps": "step", "seconds": "seconds", "grad_equivalents": "grad_equivalents"}
# the level of the metric that counts as solved; the others are shares of a baseline's improvement
TARGET = "target"
OWN, EXCLUSIVE, SHARED = "own clock", "steps x exclusive timing", "shared machine"
ILLUSTRATIONS = (
    "tasks.functions."  # test functions show how methods behave; no overall rank counts them
)
KNOWN = ("optimizer", "seed", "status", "hardware")
COLUMNS = (
    *KNOWN,
    *UNITS,
    *(f"{unit}_{kind}" for unit in UNITS for kind in ("before", "spent")),
    "source",
)


def is_illustration(records: Records, problem: str) -> bool:
    """Whether a problem is a test function: shown beside the others, left out of every aggregate."""
    return records.problem_settings[problem].get("_target_", "").startswith(ILLUSTRATIONS)


def levels(records: Records, problem: str) -> dict[str, float]:
    """The levels set for a problem, by name: `target`, and `50 %`, `80 %` .

    of the baseline's improvement.

    Runs that are older than their task's levels are measured by those that `suite.target` has
    stored since.
    """
    configs = [records.runs[index].config for index in records.of(problem).index]
    found: dict[str, float] = {}
    for told in [
        *(config.get("levels") for config in configs),
        *(_stored(config).get("levels") for config in configs[:1]),
    ]:
        shares = told.items() if isinstance(told, Mapping) else ()
        found |= {
            f"{name} %": as_number(value) for name, value in shares if f"{name} %" not in found
        }
    found[TARGET] = as_number(configs[0].get("target")) if configs else math.nan
    return {name: value for name, value in found.items() if math.isfinite(value)}


def main_level(known: Mapping[str, float]) -> str | None:
    """The level that verdicts are about: the target, else the baseline's whole improvement.

    None where none is set.
    """
    return (
        TARGET
        if TARGET in known
        else max(known, key=lambda name: float(name.split()[0]), default=None)
    )


def origin(records: Records, problem: str) -> Mapping[str, Any]:
    """Where the problem's levels come from, as `suite.target` stored it.

    Baseline, its settings, its runs.
    """
    entry = _stored(records.runs[int(records.of(problem).index[0])].config)
    return entry.get("origin") or {}


def baseline(records: Records, problem: str) -> str | None:
    """The name of the optimizer whose runs set the problem's levels, where that is stored."""
    name = origin(records, problem).get("baseline")
    return str(name) if name else None


def costs(
    records: Records, problem: str, level: float, among: pd.Index | None = None
) -> pd.DataFrame:
    """A row per run of a problem, under its index in `records.frame`.

    What it had spent when first at the level.

    `among` names the runs where not all are asked for.

    Columns: optimizer, seed, status, hardware; steps, seconds, grad_equivalents (`inf` where the
    level was never reached); the same with `_before`, at the last evaluation before (of a run that
    never arrived: at its last one), so that the true cost lies between the two; with `_spent`, up
    to the level or the end of the run; source (of the seconds). Seconds of runs that shared the
    machine are steps times what `suite.time` measured for a step, where that is known; a pair that
    does not fit (`unsupported`) has no row.
    """
    runs = records.of(problem) if among is None else records.frame.loc[among]
    runs = runs[runs["status"] != "unsupported"]
    wanted = (
        runs[name]
        for name in (*KNOWN, "metric", "direction", "parallel", "exclusive_seconds_per_step")
    )
    rows = []
    for index, *known, metric, direction, parallel, exclusive in zip(
        runs.index, *wanted, strict=True
    ):
        found = cost_of(
            records.histories[index], metric, direction, level, Clock(parallel, exclusive)
        )
        rows.append({**dict(zip(KNOWN, known, strict=True)), **found})
    return pd.DataFrame(rows, columns=list(COLUMNS), index=runs.index)


class Clock(NamedTuple):
    """What a run's seconds are worth.

    Whether it shared the machine, and the seconds of a step timed alone, or NaN.
    """

    parallel: bool
    exclusive: float

    @property
    def source(self) -> str:
        """Where its seconds come from."""
        return OWN if not self.parallel else EXCLUSIVE if self.exclusive > 0 else SHARED


def cost_of(
    history: pd.DataFrame, metric: str, direction: str, level: float, clock: Clock
) -> dict[str, Any]:
    """What one run had spent when it first was at a level or better, in the columns of `costs`."""
    values = _values(history, metric)
    there = np.flatnonzero(values >= level if direction == "max" else values <= level)
    evaluated = np.flatnonzero(~np.isnan(values[: there[0]] if len(there) else values))
    found: dict[str, Any] = {}
    for unit, name in UNITS.items():
        by_step = unit == "seconds" and clock.source == EXCLUSIVE
        spent = (
            history["step"].to_numpy() * clock.exclusive if by_step else history[name].to_numpy()
        )
        found[unit] = float(spent[there[0]]) if len(there) else math.inf
        found[f"{unit}_before"] = float(spent[evaluated[-1]]) if len(evaluated) else 0.0
        found[f"{unit}_spent"] = (
            found[unit] if len(there) else float(spent[-1]) if len(spent) else 0.0
        )
    return {**found, "source": clock.source}


def roughly_timed(costs: pd.DataFrame) -> pd.Series:
    """Which of some costs have seconds of a shared machine.

    A run that never arrived has cost infinity by any clock.
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


def _stored(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `suite.target` has stored for a run's task and scale.

    Nothing where its file cannot be read.
    """
    try:
        return (
            levels_on_disk.find(task_file.identifying(config["task"]), str(config.get("scale")))
            or {}
        )
    except ConfigError:
        return {}


def _values(history: pd.DataFrame, metric: str) -> np.ndarray:
    """The metric on the validation split, NaN where it was not evaluated."""
    column = metric_columns(metric)["val"]
    return (
        history[column].to_numpy(dtype=float)
        if column in history
        else np.full(len(history), math.nan)
    )
