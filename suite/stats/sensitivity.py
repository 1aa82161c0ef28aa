"""How much depends on the settings: the learning rate, the search space, the initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from suite.stats.bootstrap import LEVEL
from suite.stats.checks import Array, Flags, numbers, require_level, require_mode

ROUNDING = 1e-12


class RateSensitivity(NamedTuple):
    """How forgiving a method is about its learning rate.

    Attributes:
        share: the share of the search range, on a log scale, where the result is good.
        decades: the width of the good region round the best rate, in powers of ten.
        low, high: where that region begins and ends.
        best_rate, best: the best rate and its (median) result.
    """

    share: float
    decades: float
    low: float
    high: float
    best_rate: float
    best: float


class GoodShare(NamedTuple):
    """The share of good settings with its exact binomial interval, and their number."""

    share: float
    low: float
    high: float
    trials: int


class SeedSensitivity(NamedTuple):
    """Spread over seeds.

    Attributes:
        runs, failed: the number of runs, and of those without a finite value.
        median, std, iqr, smallest, largest: of the others; NaN where fewer than two are left
            (median: one).
        relative: std over |mean|, the coefficient of variation.
    """

    runs: int
    failed: int
    median: float
    std: float
    iqr: float
    smallest: float
    largest: float
    relative: float


def rate_sensitivity(
    rates: Sequence[float],
    values: Sequence[float],
    mode: str = "min",
    *,
    within: float = 0.05,
    space: tuple[float, float] | None = None,
) -> RateSensitivity:
    """How much of the range of learning rates gives a result within a share of the best one.

    A rate is good if its result is within `within` |best| of the best. It stands for its cell, the
    part of the log axis nearer to it than to any other rate that was tried, cut off at the ends of
    the space: `share` is the length of all good cells over that of the space, `decades` the length
    of the unbroken run of good cells round the best. Both are exact to one cell: eight rates over
    four decades resolve half a decade. Failed runs (NaN or infinite) are bad.

    A wide good region in absolute terms means little if the best is poor; compare `best` first. A
    loss near zero makes `within` |best| tiny: use the metric that the task reports, or a larger
    `within`.

    Args:
        rates: the learning rate of each run; several runs at a rate count with their median.
        values: their results.
        mode: `min` where smaller is better, else `max`.
        within: the share of |best| that is forgiven.
        space: the search range (low, high); that of the rates where it is not named.

    Source: the question of Choi et al. (2019) and Sivaprasad et al. (2020); the measure is our own.
    """
    table = _by_rate(rates, values, mode)
    low, high = space if space is not None else (float(table.index.min()), float(table.index.max()))
    if not (0 < low <= table.index.min() and table.index.max() <= high < math.inf):
        raise ValueError(
            f"space must be a range (low, high) that holds all rates, got {(low, high)}"
        )
    good = is_good(table.to_numpy(), mode, within)
    logs = np.log10(table.index.to_numpy(dtype=float))
    edges = np.concatenate([[math.log10(low)], (logs[1:] + logs[:-1]) / 2, [math.log10(high)]])
    best = int(np.argmin(table) if mode == "min" else np.argmax(table))
    first, last = _unbroken(good, best)
    return RateSensitivity(
        float(np.diff(edges)[good].sum() / (edges[-1] - edges[0])) if high > low else math.nan,
        float(edges[last + 1] - edges[first]),
        float(10 ** edges[first]),
        float(10 ** edges[last + 1]),
        float(table.index[best]),
        float(table.iloc[best]),
    )


def good_share(
    values: Iterable[float], mode: str = "max", *, within: float = 0.05, level: float = LEVEL
) -> GoodShare:
    """The share of trials of a random search within `within` |best| of the best.

    This is the volume of good settings.

    For independent uniform draws from the search space the share estimates the part of its volume
    that is good, whatever the number of hyperparameters; the interval is Clopper and Pearson's,
    exact for a fixed threshold and somewhat careful for quasi-random trials. The best itself is one
    of the trials, so that the share is never 0.

    Args:
        values: a value a trial; failed ones NaN or infinite.
        mode: `max` where larger is better, `min` for costs.
        within: the distance from the best that is good, as a share of |best|.
        level: of the binomial interval.
    """
    require_level(level)
    good = is_good(numbers(values), mode, within)
    interval = binomtest(int(good.sum()), good.size).proportion_ci(
        confidence_level=level, method="exact"
    )
    return GoodShare(float(good.mean()), float(interval.low), float(interval.high), good.size)


def seed_sensitivity(values: Iterable[float]) -> SeedSensitivity:
    """How much a result depends on the initial weights and the order of the data.

    The measure is its spread over seeds.
    """
    array = numbers(values)
    if not array.size:
        raise ValueError("values is empty: the spread over seeds needs runs")
    known = array[np.isfinite(array)]
    failed = array.size - known.size
    if known.size < 2:
        middle = float(known[0]) if known.size else math.nan
        return SeedSensitivity(array.size, failed, middle, *(math.nan,) * 5)
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    std, mean = float(known.std(ddof=1)), float(known.mean())
    relative = std / abs(mean) if mean else math.nan
    ends = float(known.min()), float(known.max())
    return SeedSensitivity(
        array.size, failed, float(middle), std, float(high - low), *ends, relative
    )


def is_good(values: Array, mode: str, within: float) -> Flags:
    """Which values lie within `within` |best| of the best; a failure (NaN, infinite) never does."""
    require_mode(mode)
    if not 0 <= within < math.inf:
        raise ValueError(f"within must not be negative, got {within}: 0.05 for 5 %")
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no value is finite: where every run failed nothing is near the best")
    best = values[finite].min() if mode == "min" else values[finite].max()
    with np.errstate(invalid="ignore"):
        gap = values - best if mode == "min" else best - values
        return np.asarray(finite & (gap <= abs(best) * (within + ROUNDING)))


def _unbroken(good: Flags, best: int) -> tuple[int, int]:
    """The first and the last of the good entries round the best without a gap."""
    first = last = best
    while first > 0 and good[first - 1]:
        first -= 1
    while last < good.size - 1 and good[last + 1]:
        last += 1
    return first, last


def _by_rate(rates: Sequence[float], values: Sequence[float], mode: str) -> pd.Series:
    """The median value at each rate, failures at the bad end, in the order of the rates."""
    require_mode(mode)
    if len(rates) != len(values) or not len(rates):
        raise ValueError(
            f"rates and values need one entry a run, got {len(rates)} and {len(values)}"
        )
    if not (np.asarray(rates, dtype=float) > 0).all():
        raise ValueError("rates must be positive: their range is measured on a log scale")
    bad = math.inf if mode == "min" else -math.inf
    filled = pd.Series(list(values), index=list(rates), dtype=float).fillna(bad)
    return filled.groupby(level=0).median()
