"""Intervals of two sets of runs: the ratio of their costs, the difference of their values.

A run that never reached the level enters with its budget, a lower bound on its cost, as in a
restricted mean. The ratio is then a bound as well, and its interval is open on the other side.
Where runs of both sides failed, all costs are cut off at the smallest of their budgets: a larger
budget costs no method anything. A cost is known only to the distance of two evaluations, and this
widens the interval: its low end sets A's costs to the evaluation before against B's, its high end
A's against B's evaluation before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from suite import stats
from suite.results.run import VALUED

LEVEL = 0.95
FAILED_SEEDS = 3  # runs a side from which a failure can be told from an accident
EXACT, AT_MOST, AT_LEAST, BOUNDED = "", "at most ", "at least ", "about "

BOUNDS = {
    (True, True): EXACT,
    (True, False): AT_MOST,
    (False, True): AT_LEAST,
    (False, False): BOUNDED,
}
ROUND_OFF = 1e-12  # of the values: a spread below it is none
POWERS = 1e70  # larger numbers, as of a fall without end, have fourth powers that are none
TINY = 1e-300  # stands for 0 where its reciprocal is taken

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """A value with its interval (NaN where there is none) and what failures make of it.

    Exact, or a bound.
    """

    value: float
    low: float
    high: float
    bound: str = EXACT

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    def side_of(self, centre: float) -> int:
        """-1 where the whole interval lies below the centre, 1 where above, else 0."""
        return -1 if self.high < centre else int(self.low > centre)


class Costs(NamedTuple):
    """The costs of one side's runs.

    Attributes:
        spent: until the target was reached; a failed run's budget.
        before: at the evaluation before.
        reached: which runs reached the target.
    """

    spent: Array
    before: Array
    reached: Flags


def restricted(
    costs: Sequence[Mapping[str, Any]], unit: str, statuses: Sequence[str], planned: Sequence[float]
) -> Costs:
    """One side's costs in a unit.

    A run that broke off is given the rest of its planned steps at its own speed.
    """
    names = (unit, f"{unit}_spent", f"{unit}_before", "steps_spent")
    cost, spent, before, steps = (np.array([float(one[name]) for one in costs]) for name in names)
    reached = np.isfinite(cost)
    broken = np.array([status not in VALUED for status in statuses])
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.maximum(1.0, np.asarray(planned, dtype=float) / steps)
        budget = np.where(broken, np.where(steps > 0, spent * rest, math.nan), spent)
    spent = np.where(reached, cost, budget)
    return Costs(spent, np.where(reached, before, spent), reached)


def cost_ratio(a: Costs, b: Costs, *, paired: bool) -> Interval | None:
    """The ratio of A's typical cost to B's.

    None where nobody reached or the level holds at the start.
    """
    if not (a.reached.any() or b.reached.any()):
        return None
    bound = BOUNDS[bool(a.reached.all()), bool(b.reached.all())]
    a, b = cut(filled(a, b), filled(b, a))
    positive = (a.spent > 0).all() and (b.spent > 0).all()
    if not positive or not (a.reached.any() or b.reached.any()):
        return None
    few = min(a.spent.size, b.spent.size) < FAILED_SEEDS
    ratio = stats.ratio_interval(a.spent, b.spent, paired=paired, level=LEVEL)
    if math.isnan(ratio.low) or (bound != EXACT and few):
        return Interval(ratio.ratio, math.nan, math.nan, bound)
    low, high = min(_low(a, b, paired), ratio.low), max(1 / _low(b, a, paired), ratio.high)
    return _open_end(Interval(ratio.ratio, low, high, bound))


def _open_end(interval: Interval) -> Interval:
    """The interval of a ratio, without an end towards what failures may have cost."""
    if interval.bound == AT_MOST:
        return interval._replace(low=0.0)
    return interval._replace(high=math.inf) if interval.bound == AT_LEAST else interval


def cut(a: Costs, b: Costs) -> tuple[Costs, Costs]:
    """The costs cut at the smallest budget of a failed run, where both sides have failed runs."""
    if a.reached.all() or b.reached.all():
        return a, b
    most = min(float(side.spent[~side.reached].min()) for side in (a, b))
    first, second = (
        Costs(
            np.minimum(side.spent, most),
            np.minimum(side.before, most),
            side.reached & (side.spent <= most),
        )
        for side in (a, b)
    )
    return first, second


def filled(side: Costs, other: Costs) -> Costs:
    """Runs that broke off before a first step get the largest cost of all.

    Nothing is known of their own.
    """
    if not np.isnan(side.spent).any():
        return side
    largest = float(np.nanmax(np.concatenate([side.spent, other.spent])))
    spent, before = (np.nan_to_num(values, nan=largest) for values in (side.spent, side.before))
    return Costs(spent, before, side.reached)


def _low(a: Costs, b: Costs, paired: bool) -> float:
    """The low end of the ratio's interval with A's costs at the evaluation before.

    0 where that is the start.
    """
    if not (a.before > 0).all():
        return TINY
    return max(stats.ratio_interval(a.before, b.spent, paired=paired, level=LEVEL).low, TINY)


def difference(a: Array, b: Array, *, paired: bool) -> Interval:
    """The mean of A minus B with Student's interval: of the differences of pairs, else Welch's.

    A difference that is the same for every seed, as accuracies in steps of 1/500 may have it by
    chance, says nothing about its spread and has no interval; no difference at all is one of
    exactly 0.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    largest = float(np.abs(np.concatenate([first, second])).max(initial=0.0))
    if POWERS < largest < math.inf:  # the fourth powers below would overflow
        centre, low, high = difference(first / largest, second / largest, paired=paired)[:3]
        return Interval(centre * largest, low * largest, high * largest)
    centre = float((first - second).mean() if paired else first.mean() - second.mean())
    if min(first.size, second.size) < 2:
        return Interval(centre, math.nan, math.nan)
    groups = [first - second] if paired else [first, second]
    parts = np.array([group.var(ddof=1) / group.size for group in groups])
    freedom = np.array([group.size - 1 for group in groups])
    if (
        parts.sum()
        <= (ROUND_OFF * max(1e-300, float(np.abs([first.mean(), second.mean()]).max()))) ** 2
    ):
        return (
            Interval(0.0, 0.0, 0.0)
            if np.array_equal(first, second)
            else Interval(centre, math.nan, math.nan)
        )
    reach = float(
        student.ppf((1 + LEVEL) / 2, parts.sum() ** 2 / (parts**2 / freedom).sum())
        * math.sqrt(parts.sum())
    )
    return Interval(centre, centre - reach, centre + reach)
