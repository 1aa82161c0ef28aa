"""What it cost each run to reach a level of its metric: the frame behind verdicts, profiles and target tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from suite.report.records import Records, metric_columns
from suite.stats import time_to_target

UNITS = {"steps": "step", "seconds": "seconds", "grad_equivalents": "grad_equivalents"}
TARGET = "target"  # the level of the metric that counts as solved; the others are shares of a baseline's improvement
OWN, EXCLUSIVE, SHARED = "own clock", "steps x exclusive timing", "shared machine"


def levels(records: Records, problem: str) -> dict[str, float]:
    """The levels set for a problem, by name: `target`, and `50 %`, `80 %` ... of the baseline's improvement."""
    found: dict[str, float] = {}
    for index in records.of(problem).index:
        config = records.runs[index].config
        told = config.get("levels")
        for name, value in told.items() if isinstance(told, Mapping) else ():
            found.setdefault(f"{name} %", float(value))
        if isinstance(config.get("target"), int | float):
            found.setdefault(TARGET, float(config["target"]))
    return found


def costs(records: Records, problem: str, level: float) -> pd.DataFrame:
    """A row per run of a problem: what it had spent when it first was at the level or better; `inf` where never.

    Columns: optimizer, seed, status, steps, seconds, grad_equivalents, source (of the seconds), hardware. Seconds of
    runs that shared the machine are steps times what `suite.time` measured for a step, where that is known; a pair
    that does not fit (`unsupported`) has no row.
    """
    rows = []
    for index, run in records.of(problem).iterrows():
        if run["status"] == "unsupported":
            continue
        history = records.histories[index]  # type: ignore[index]
        column = metric_columns(run["metric"])["val"]
        spent = {
            name: time_to_target(history, level, run["direction"], metric=column, unit=unit) if column in history
            else math.inf
            for name, unit in UNITS.items()
        }  # fmt: skip
        exclusive = float(run["exclusive_seconds_per_step"])
        source = OWN if not run["parallel"] else EXCLUSIVE if exclusive > 0 else SHARED
        if source == EXCLUSIVE:
            spent["seconds"] = spent["steps"] * exclusive
        known = {name: run[name] for name in ("optimizer", "seed", "status", "hardware")}
        rows.append({**known, **spent, "source": source})
    columns = ["optimizer", "seed", "status", "hardware", *UNITS, "source"]
    return pd.DataFrame(rows, columns=columns)


def times(records: Records, unit: str, level: str = TARGET) -> pd.DataFrame:
    """A row a problem, a column an optimizer: the median cost over its runs, failures as `inf`; NaN where none ran."""
    table = pd.DataFrame(index=pd.Index([], name="problem"), columns=records.optimizers, dtype=float)
    for problem in records.problems:
        if level in (known := levels(records, problem)):
            spent = costs(records, problem, known[level]).groupby("optimizer")[unit].median()
            table.loc[problem] = spent.reindex(records.optimizers).astype(float)
    return table
