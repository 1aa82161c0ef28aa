"""A verdict on two methods on one problem.

A verdict compares costs to a level and final values, and says whether they differ at 95 %.

One quantity decides, chosen before the data are looked at: seconds where each run had its hardware
to itself or its seconds come from `suite.time`, on one machine; else gradient-equivalents. Where no
level was set or nobody reached it, the final value of the metric decides. All other figures stand
beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from suite.compare.final_values import compare_finals
from suite.compare.intervals import Interval, cost_ratio, restricted
from suite.compare.sides import UNFIT, CostTable, Side, match_seeds
from suite.results import time_to_target
from suite.results.frame import Records, metric_columns
from suite.results.levels import main_level

FINAL = "final"
SECONDS, WORK = "seconds", "grad_equivalents"
BETTER, WORSE = -1, 1
OUTCOMES = {BETTER: "better", WORSE: "worse", 0: "undecided", None: "no interval"}


@dataclass(frozen=True, repr=False)
class Verdict:
    """What can be said of A against B on a problem; ratios are A's over B's.

    Attributes:
        problem, level, value: what was asked; `level` is None where none is set.
        a, b: the sides, with the runs that were compared only.
        paired: whether runs of the same seed were set against each other.
        reached: how many runs of each side reached the level.
        ratios: of the costs to reach it, by unit.
        trusted: whether the seconds may decide.
        memory: the ratio of the peaks.
        final: the difference of the final values, A minus B, or with `by_ratio` A over B.
        finals: the mean final value of each side; NaN where a run has none.
        decided_by: a unit, or `final`.
        outcome: -1 where A is better, 1 where B is, 0 where it cannot be told, None without an
            interval.
        refused: why there is no verdict at all.
        left_out: runs and seeds that take no part, in words.
        same: all seeds gave the same values, so that they are one run.
    """

    problem: str
    a: Side
    b: Side
    metric: str
    direction: str
    level: str | None = None
    value: float = math.nan
    paired: bool = True
    reached: tuple[int, int] = (0, 0)
    ratios: Mapping[str, Interval] = field(default_factory=dict)
    trusted: bool = False
    sources: tuple[str, ...] = ()
    memory: float = math.nan
    final: Interval | None = None
    by_ratio: bool = False
    finals: tuple[float, float] = (math.nan, math.nan)
    decided_by: str = FINAL
    outcome: int | None = None
    refused: str = ""
    left_out: tuple[str, ...] = ()
    same: bool = False

    def __repr__(self) -> str:
        outcome = self.refused or OUTCOMES[self.outcome]
        return f"<{self.a.label} against {self.b.label} on {self.problem}: {outcome}>"

    @property
    def seeds(self) -> int:
        """The number of runs of the side that has fewer."""
        return min(len(self.a.runs), len(self.b.runs))

    @property
    def final_outcome(self) -> int | None:
        """The outcome by the final value alone."""
        if self.final is None or not self.final.known:
            return None
        sign = -1 if self.direction == "max" else 1
        return sign * self.final.side_of(1.0 if self.by_ratio else 0.0)


def judge(
    cost_table: CostTable, a: Side, b: Side, level: str | None = None, *, mixed: bool = False
) -> Verdict:
    """The verdict on two sides at a level: the problem's target or highest level.

    `mixed` lets hardware differ.
    """
    known = cost_table.levels(a.problem)
    level = level if level is not None else main_level(known)
    empty = Verdict(a.problem, a, b, a.metric, a.direction, level, known.get(level or "", math.nan))
    if refused := _unfit(a) or _unfit(b):
        return replace(empty, refused=refused)
    a, b, paired, left_out = match_seeds(a, b)
    if not (a.runs and b.runs):
        return replace(empty, refused=_none_left(a, b), left_out=left_out)
    final = compare_finals(cost_table.records, a, b, paired=paired)
    start = replace(
        empty,
        a=a,
        b=b,
        paired=paired,
        left_out=left_out,
        memory=_memory(a, b),
        same=_same(cost_table.records, a, b),
        final=final.compared,
        finals=final.means,
        by_ratio=final.by_ratio,
    )
    verdict = start if math.isnan(start.value) else _with_costs(cost_table, start, mixed)
    return replace(verdict, outcome=None if verdict.same else _outcome(verdict))


def _with_costs(cost_table: CostTable, verdict: Verdict, mixed: bool) -> Verdict:
    """The verdict with the costs of reaching the level.

    They decide where a run of either side reached it.
    """
    pair = (verdict.a, verdict.b)
    costs = [cost_table.costs(side, verdict.value) for side in pair]
    sources = tuple(dict.fromkeys(str(one["source"]) for spent in costs for one in spent))
    ratios = _ratios(verdict, costs, mixed)
    trusted = SECONDS in ratios and time_to_target.SHARED not in sources
    by = SECONDS if trusted else WORK
    reached = [sum(math.isfinite(one["steps"]) for one in spent) for spent in costs]
    return replace(
        verdict,
        reached=(reached[0], reached[1]),
        ratios=ratios,
        trusted=trusted,
        sources=sources,
        decided_by=by if by in ratios else FINAL,
    )


def _ratios(
    verdict: Verdict, costs: Sequence[Sequence[Mapping[str, Any]]], mixed: bool
) -> dict[str, Interval]:
    """The ratios of the costs by unit; without seconds where these come from several machines."""
    machines = {run.hardware for side in (verdict.a, verdict.b) for run in side.runs}
    units = list(time_to_target.UNITS)
    if len(machines) > 1 and not mixed:
        units.remove(SECONDS)
    ratios = {unit: _ratio(verdict, costs, unit) for unit in units}
    return {unit: ratio for unit, ratio in ratios.items() if ratio is not None}


def _ratio(
    verdict: Verdict, costs: Sequence[Sequence[Mapping[str, Any]]], unit: str
) -> Interval | None:
    """The ratio of the costs in a unit."""
    spent = [
        restricted(own, unit, [run.status for run in side.runs], [run.planned for run in side.runs])
        for side, own in zip((verdict.a, verdict.b), costs, strict=True)
    ]
    return cost_ratio(spent[0], spent[1], paired=verdict.paired)


def _outcome(verdict: Verdict) -> int | None:
    if verdict.decided_by == FINAL:
        return verdict.final_outcome
    ratio = verdict.ratios[verdict.decided_by]
    return ratio.side_of(1.0) if ratio.known else None


def _same(records: Records, a: Side, b: Side) -> bool:
    """Whether the seeds make no difference: each side has one curve of its metric, many times."""
    return min(len(a.runs), len(b.runs)) > 1 and all(_one_curve(records, side) for side in (a, b))


def _one_curve(records: Records, side: Side) -> bool:
    column = metric_columns(side.metric)["val"]
    curves = (records.histories[run.index] for run in side.runs)
    values = [one[column].to_numpy(dtype=float) if column in one else np.empty(0) for one in curves]
    return all(np.array_equal(values[0], other, equal_nan=True) for other in values[1:])


def _memory(a: Side, b: Side) -> float:
    """The ratio of the median peaks; NaN where a side has none."""
    peaks = [[run.peak for run in side.runs if run.peak > 0] for side in (a, b)]
    return float(np.median(peaks[0]) / np.median(peaks[1])) if all(peaks) else math.nan


def _unfit(side: Side) -> str:
    refused = [run for run in side.runs if run.status == UNFIT]
    return (
        f"{side.label} does not fit this task: {refused[0].message.partition(';')[0]}"
        if refused
        else ""
    )


def _none_left(a: Side, b: Side) -> str:
    return f"no finished run of {' or '.join(side.label for side in (a, b) if not side.runs)}"
