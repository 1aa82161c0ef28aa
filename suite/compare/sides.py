"""The two sides of a comparison: their runs as plain values, and the cost of each run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from suite.results import time_to_target
from suite.results.frame import Records
from suite.results.levels import levels, main_level
from suite.results.run import as_number

UNFINISHED = "interrupted"
UNFIT = "unsupported"
TAKEN = (
    "seed",
    "status",
    "message",
    "final",
    "hardware",
    "parallel",
    "exclusive_seconds_per_step",
    "peak_memory_bytes",
    "command",
)


@dataclass(frozen=True, slots=True)
class RunValues:
    """One run of a side.

    `index` is its row in the records' frame, `planned` the steps that were asked for.
    """

    index: int
    planned: float
    seed: int
    status: str
    message: str
    final: float
    hardware: str
    parallel: bool
    isolated: float
    peak: float
    command: str


@dataclass(frozen=True)
class Side:
    """One method on a problem: its label, the name that results call it by, and its runs."""

    label: str
    name: str
    problem: str
    task: str
    scale: str
    metric: str
    direction: str
    runs: tuple[RunValues, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return sorted({run.seed for run in self.runs})

    def frame(self, records: Records) -> pd.DataFrame:
        """Its rows of the records' frame."""
        return records.frame.loc[[run.index for run in self.runs]]

    def of_seeds(self, seeds: Sequence[int]) -> Side:
        """The same side with the runs of these seeds, in their order."""
        runs = sorted((run for run in self.runs if run.seed in seeds), key=lambda run: run.seed)
        return replace(self, runs=tuple(runs))


def sides(records: Records, problem: str, frame: pd.DataFrame | None = None) -> dict[str, Side]:
    """Every method on a problem by its label; of the rows of `frame` only, where it is given."""
    rows = records.of(problem) if frame is None else frame
    runs_of: dict[str, list[RunValues]] = {}
    for index, label, *values in zip(
        rows.index, rows["optimizer"], *(rows[name] for name in TAKEN), strict=True
    ):
        planned = as_number(records.runs[index].config.get("steps"))
        runs_of.setdefault(str(label), []).append(RunValues(int(index), planned, *values))
    heads = rows.drop_duplicates("optimizer").set_index("optimizer")
    facts = heads[["name", "task", "scale", "metric", "direction"]].astype(str).to_dict("index")
    return {
        label: Side(label, facts[label]["name"], problem, **_head(facts[label]), runs=tuple(runs))
        for label, runs in runs_of.items()
    }


def match_seeds(a: Side, b: Side) -> tuple[Side, Side, bool, tuple[str, ...]]:
    """The runs to compare.

    Without unfinished ones, and pairs of the same seed where there are two of these.
    """
    unfinished = [*_unfinished(a), *_unfinished(b)]
    a, b = _finished(a), _finished(b)
    common = sorted(set(a.seeds) & set(b.seeds))
    if len(common) < 2 and len(a.seeds) + len(b.seeds) > 2 * len(common):
        return a, b, False, tuple(unfinished)
    left_out = [*unfinished, *_unpaired(a, b, common), *_unpaired(b, a, common)]
    return a.of_seeds(common), b.of_seeds(common), True, tuple(left_out)


def _finished(side: Side) -> Side:
    runs = tuple(run for run in side.runs if run.status != UNFINISHED)
    return replace(side, runs=runs)


def _unfinished(side: Side) -> list[str]:
    """The seeds of a side that have not ended, in words, and what ends them."""
    runs = [run for run in side.runs if run.status == UNFINISHED]
    return [f"{side.label}, {_seeds(runs)}: unfinished; {_again(runs[0])}"] if runs else []


def _unpaired(side: Side, other: Side, common: Sequence[int]) -> list[str]:
    """The seeds of a side that the other one has not run, in words."""
    runs = [run for run in side.runs if run.seed not in common]
    return [f"{side.label}, {_seeds(runs)}: {other.label} has no run of it"] if runs else []


class CostTable:
    """What the runs of some records spent until they reached a level: each is worked out once."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._levels: dict[str, dict[str, float]] = {}
        self._costs: dict[tuple[int, float], dict[str, Any]] = {}

    def levels(self, problem: str) -> dict[str, float]:
        """The levels set for a problem, by name."""
        if problem not in self._levels:
            self._levels[problem] = levels(self.records, problem)
        return self._levels[problem]

    def main_value(self, problem: str) -> float:
        """The value of the level that verdicts are about; NaN where none is set."""
        known = self.levels(problem)
        return known.get(main_level(known) or "", math.nan)

    def costs(self, side: Side, level: float) -> list[dict[str, Any]]:
        """The costs of a side's runs to a level, as in `time_to_target.costs`."""
        return [self._cost(side, run, level) for run in side.runs]

    def _cost(self, side: Side, run: RunValues, level: float) -> dict[str, Any]:
        key = (run.index, level)
        if key not in self._costs:
            history = self.records.histories[run.index]
            clock = time_to_target.Clock(run.parallel, run.isolated)
            (self._costs[key],) = time_to_target.costs_of(
                history, side.metric, side.direction, [level], clock
            )
        return self._costs[key]


def _head(facts: dict[Any, str]) -> dict[str, str]:
    return {key: facts[key] for key in ("task", "scale", "metric", "direction")}


def _seeds(runs: Sequence[RunValues]) -> str:
    seeds = sorted({run.seed for run in runs})
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _again(run: RunValues) -> str:
    return f"finish it with: {run.command}" if run.command else "the same command finishes it"
