"""Where two methods ended.

The difference of their final values, or their ratio where the metric falls by decades.
"""

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
    """The final values; a run without one counts as the worst value that either side began with or ended at."""
    values = [finals(a), finals(b)]
    missing = [bool(np.isnan(one).any()) for one in values]
    means = (float(values[0].mean()), float(values[1].mean()))
    untrained = np.array([_first(records, a, run.index) for run in (*a.runs, *b.runs)])
    seen = np.concatenate([*values, untrained])
    seen = seen[np.isfinite(seen)]
    if all(np.isnan(one).all() for one in values) or not seen.size:
        return Final(means, None, False)
    worst = float(seen.min() if a.direction == "max" else seen.max())
    values = [np.where(np.isnan(one), worst, one) for one in values]
    by_ratio = (
        a.direction == "min"
        and bool(seen.min() > 0)
        and float(seen.max() / seen.min()) > 10**DECADES
    )
    found = difference(*(np.log(one) if by_ratio else one for one in values), paired=paired)
    if any(missing) and min(len(a.runs), len(b.runs)) < FAILED_SEEDS:
        found = Interval(found.value, math.nan, math.nan)
    found = _opened(found, missing[0], missing[1], a.direction)
    if by_ratio:
        found = found._replace(
            value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high)
        )
    return Final(means, found, by_ratio)


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


def _opened(found: Interval, first: bool, second: bool, direction: str) -> Interval:
    """The interval of A minus B, open towards what the failures of one of the sides may be worth."""
    if first == second:
        return found._replace(bound=BOUNDED if first else EXACT)
    upwards = first == (direction == "min")
    found = found._replace(bound=AT_LEAST if upwards else AT_MOST)
    if not found.known:
        return found
    return found._replace(high=math.inf) if upwards else found._replace(low=-math.inf)
