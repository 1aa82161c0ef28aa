"""The levels of a problem's metric that costs are measured to, and their baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from suite.config import targets as levels_on_disk
from suite.config import task_file
from suite.errors import ConfigError
from suite.results.frame import Records
from suite.results.run import as_number

# the level of the metric that counts as solved; the others are shares of a baseline's improvement
TARGET = "target"


def levels(records: Records, problem: str) -> dict[str, float]:
    """The levels set for a problem by name: `target`, and `50 %` of the baseline's improvement.

    Runs that are older than their task's levels are measured by those that `suite.target` has
    stored since.
    """
    configs = [records.runs[index].config for index in records.of(problem).index]
    recorded = [config.get("levels") for config in configs]
    stored = [_stored(config).get("levels") for config in configs[:1]]
    values: dict[str, float] = {}
    for shares in [*recorded, *stored]:
        for name, value in shares.items() if isinstance(shares, Mapping) else ():
            values.setdefault(f"{name} %", as_number(value))
    values[TARGET] = as_number(configs[0].get("target")) if configs else math.nan
    return {name: value for name, value in values.items() if math.isfinite(value)}


def main_level(names: Mapping[str, float]) -> str | None:
    """The level that verdicts are about: the target, else the baseline's whole improvement.

    None where no level is set.
    """
    if TARGET in names:
        return TARGET
    return max(names, key=lambda name: float(name.split()[0]), default=None)


def origin(records: Records, problem: str) -> Mapping[str, Any]:
    """Where the problem's levels come from: the baseline, its settings and its runs.

    It is what `suite.target` stored; empty without a stored target.
    """
    entry = _stored(records.runs[int(records.of(problem).index[0])].config)
    return entry.get("origin") or {}


def level_setter(records: Records, problem: str) -> str | None:
    """The name of the optimizer whose runs set the problem's levels, where that is stored."""
    name = origin(records, problem).get("baseline")
    return str(name) if name else None


def _stored(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `suite.target` has stored for a run's task and scale.

    The result is empty where the file cannot be read.
    """
    try:
        task = task_file.identifying(config["task"])
        return levels_on_disk.find(task, str(config.get("scale"))) or {}
    except ConfigError:
        return {}
