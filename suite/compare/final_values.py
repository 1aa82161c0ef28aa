"""The difference of two methods' final values, or their ratio for a metric of many decades."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from suite.compare.intervals import (
    AT_LEAST,
    AT_MOST,
    BOUNDED,
    EXACT,
    FAILED_SEEDS,
    Array,
    Interval,
    difference,
)
from suite.compare.sides import Side
from suite.results.frame import Records, metric_columns
from suite.results.run import VALUED

DECADES = 2.0  # a positive metric that falls by more is compared on a log scale


class Final(NamedTuple):
    """The final values of two sides.

    Attributes:
        means: of each side; NaN where a run has no final value.
        compared: A minus B, or with `by_ratio` A over B; None where neither side has a value.
    """

    means: tuple[float, float]
    compared: Interval | None
    by_ratio: bool


def compare_finals(records: Records, a: Side, b: Side, *, paired: bool) -> Final:
    """The final values of both sides and their difference or ratio.

    A run without one counts as the worst value that either side began with or ended at.
    """
    values = [finals(a), finals(b)]
    means = (float(values[0].mean()), float(values[1].mean()))
    missing = [bool(np.isnan(one).any()) for one in values]
    seen = _seen(records, a, b)
    if np.isnan(np.concatenate(values)).all() or not seen.size:
        return Final(means, None, False)
    worst = float(seen.min() if a.direction == "max" else seen.max())
    by_ratio = a.direction == "min" and _spans_decades(seen)
    scaled = [np.where(np.isnan(one), worst, one) for one in values]
    compared = difference(*(map(np.log, scaled) if by_ratio else scaled), paired=paired)
    if any(missing) and min(len(a.runs), len(b.runs)) < FAILED_SEEDS:
        compared = Interval(compared.value, math.nan, math.nan)
    compared = _opened(compared, missing[0], missing[1], a.direction)
    return Final(means, _exponential(compared) if by_ratio else compared, by_ratio)


def _seen(records: Records, a: Side, b: Side) -> Array:
    """All finite values that the sides began with or ended at."""
    untrained = [_first(records, a, run.index) for run in (*a.runs, *b.runs)]
    values = np.concatenate([finals(a), finals(b), untrained])
    return np.asarray(values[np.isfinite(values)])


def _spans_decades(values: Array) -> bool:
    return bool(values.min() > 0) and float(values.max() / values.min()) > 10**DECADES


def _exponential(logs: Interval) -> Interval:
    """The ratio whose logarithm is given."""
    value, low, high = (math.exp(one) for one in (logs.value, logs.low, logs.high))
    return logs._replace(value=value, low=low, high=high)


def finals(side: Side) -> Array:
    """Final values, NaN where a run came to no end or to no finite value."""
    return np.array(
        [
            run.final if run.status in VALUED and math.isfinite(run.final) else math.nan
            for run in side.runs
        ]
    )


def _first(records: Records, side: Side, index: int) -> float:
    """The metric at the first evaluation; NaN where there is none."""
    history, column = records.histories[index], metric_columns(side.metric)["val"]
    values = history[column].to_numpy(dtype=float) if column in history else np.empty(0)
    values = values[~np.isnan(values)]
    return float(values[0]) if values.size else math.nan


def _opened(interval: Interval, first: bool, second: bool, direction: str) -> Interval:
    """The interval of A minus B, open towards what the failures of one side may be worth."""
    if first == second:
        return interval._replace(bound=BOUNDED if first else EXACT)
    upwards = first == (direction == "min")
    interval = interval._replace(bound=AT_LEAST if upwards else AT_MOST)
    if not interval.known:
        return interval
    return interval._replace(high=math.inf) if upwards else interval._replace(low=-math.inf)
