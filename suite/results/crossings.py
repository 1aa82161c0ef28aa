"""What each run had spent when it first reached each level, and when it ended.

One pass over every history.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from suite.config.registry import FIRST_ORDER
from suite.results.frame import Records, metric_columns, once
from suite.results.load import TRAINED
from suite.results.time_to_target import EXCLUSIVE, OWN, SHARED, TARGET, UNITS, baseline, levels

ENDS = ["problem", "optimizer", "seed", "status", "hardware", "source", *UNITS]
CROSSINGS = [*ENDS[:6], "level", "value", *UNITS]


def ends(records: Records) -> pd.DataFrame:
    """A row per run, under the records' index, of pairs that fit: all that it spent.

    Columns as in `ENDS`.
    """
    rows = {
        index: {
            **_who(run),
            **dict(zip(UNITS, _priced(history, len(history) - 1, run), strict=True)),
        }
        for index, run, history in _runs(records)
        if len(history)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=ENDS).astype(
        dict.fromkeys(UNITS, float)
    )


@once
def crossings(records: Records) -> pd.DataFrame:
    """A row per run and level.

    What had been spent when the run first was at the level or better, `inf` where never.

    The columns are those of `CROSSINGS`; the seconds are those of `reached.costs`.
    """
    known = {problem: levels(records, problem) for problem in records.problems}
    rows: list[dict[str, Any]] = []
    for _, run, history in _runs(records):
        told = known[run["problem"]]
        column = metric_columns(run["metric"])["val"]
        seen = history[column].to_numpy(dtype=float) if column in history else np.empty(0)
        sign = 1.0 if run["direction"] == "max" else -1.0
        for name, value in told.items():
            there = sign * seen >= sign * value
            spent = (
                _priced(history, int(there.argmax()), run)
                if there.any()
                else [math.inf] * len(UNITS)
            )
            rows.append(
                {**_who(run), "level": name, "value": value, **dict(zip(UNITS, spent, strict=True))}
            )
    return pd.DataFrame(rows, columns=CROSSINGS).astype(dict.fromkeys(["value", *UNITS], float))


def baselines(records: Records, reached: pd.DataFrame) -> dict[str, str]:
    """The method that the others are measured against, for every problem that has one.

    It is the one that set the problem's levels, where that is stored and it was run; else what is
    the baseline of most problems; else the first-order method that ran on most, of those the one
    most of whose runs reached a level.
    """
    found = {problem: label for problem in records.problems if (label := _named(records, problem))}
    usual = (
        max(found.values(), key=list(found.values()).count)
        if found
        else _first_order(records, reached)
    )
    ran = set(zip(reached["problem"], reached["optimizer"], strict=True))
    return {
        problem: found.get(problem, str(usual))
        for problem in records.problems
        if problem in found or (problem, usual) in ran
    }


def common_level(reached: pd.DataFrame, against: str) -> str | None:
    """The hardest level of a problem that all of the baseline's runs reached.

    The target where there is none.

    The target is the median of the baseline's own runs, so about half of them never reach it.
    """
    own = reached[reached["optimizer"] == against]
    if own.empty:
        return None
    all_there = np.isfinite(own["steps"]).groupby(own["level"], sort=False).all()
    value = {
        str(level): float(value) for level, value in zip(own["level"], own["value"], strict=True)
    }
    shares = [
        value[name] for name in value if name != TARGET
    ]  # in the order in which they get harder
    harder = 1.0 if not shares or shares[-1] >= shares[0] else -1.0
    names = sorted(value, key=lambda name: (harder * value[name], name == TARGET), reverse=True)
    reachable = [name for name in names if bool(all_there[name])]
    return reachable[0] if reachable else TARGET if TARGET in names else names[0]


def _named(records: Records, problem: str) -> str | None:
    """The label of the optimizer whose runs set the levels.

    The one with most runs, where it has several settings.
    """
    runs = records.of(problem)
    own = runs.loc[
        (runs["name"] == baseline(records, problem)) & (runs["status"] != "unsupported"),
        "optimizer",
    ]
    return str(own.value_counts(sort=False).idxmax()) if len(own) else None


def _first_order(records: Records, reached: pd.DataFrame) -> str | None:
    first = records.frame[
        (records.frame["family"] == FIRST_ORDER) & (records.frame["status"] != "unsupported")
    ]
    ran = first.groupby("optimizer")["problem"].nunique()
    most = [name for name in records.optimizers if ran.get(name, 0) == ran.max()]
    share = np.isfinite(reached["steps"]).groupby(reached["optimizer"]).mean()
    return max(most, key=lambda name: float(share.get(name, 0.0)), default=None)


def step_seconds(records: Records) -> pd.DataFrame:
    """A row per run with seconds of a step.

    Problem, optimizer, seed, hardware, seconds, and the `source` of these.
    """
    frame = records.frame[records.frame["status"].isin(TRAINED)]
    exclusive = frame["exclusive_seconds_per_step"] > 0
    source = np.where(~frame["parallel"].astype(bool), OWN, np.where(exclusive, EXCLUSIVE, SHARED))
    own = frame["seconds_per_step"]
    seconds = own.where(source != EXCLUSIVE, frame["exclusive_seconds_per_step"])
    found = frame[["problem", "optimizer", "seed", "hardware"]].assign(
        seconds=seconds, source=source
    )
    return found[found["seconds"] > 0]


def _runs(records: Records) -> Iterator[tuple[int, dict[str, Any], pd.DataFrame]]:
    """The runs of pairs that fit, with their histories."""
    wanted = [
        "problem",
        "optimizer",
        "seed",
        "status",
        "hardware",
        "metric",
        "direction",
        "parallel",
        "exclusive_seconds_per_step",
    ]
    frame = records.frame.loc[records.frame["status"] != "unsupported", wanted]
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    for index, run in zip(frame.index, rows, strict=True):
        run["source"] = (
            OWN
            if not run["parallel"]
            else EXCLUSIVE
            if run["exclusive_seconds_per_step"] > 0
            else SHARED
        )
        yield int(index), run, records.histories[int(index)]


def _who(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in ENDS[:6]}


def _priced(history: pd.DataFrame, place: int, run: dict[str, Any]) -> list[float]:
    """Steps, seconds and gradient-equivalents at a row of a history."""
    spent = {name: float(history[column].to_numpy()[place]) for name, column in UNITS.items()}
    if run["source"] == EXCLUSIVE:
        spent["seconds"] = spent["steps"] * float(run["exclusive_seconds_per_step"])
    return list(spent.values())
