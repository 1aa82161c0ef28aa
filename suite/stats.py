"""The few statistics of the report: pure functions of the values of one cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

DRAWS = 2000
LEVEL = 0.95


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for a single value."""
    array = np.asarray(values, dtype=float)
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap interval (95 %) of the mean; None for a single value, which says nothing about spread."""
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return None
    drawn = np.random.default_rng(0).integers(array.size, size=(DRAWS, array.size))
    low, high = np.quantile(array[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def best_index(groups: Sequence[Sequence[float]], direction: str) -> int:
    """The group with the best mean: the largest for `max`, else the smallest."""
    means = [float(np.mean(group)) for group in groups]
    return int(np.argmax(means)) if direction == "max" else int(np.argmin(means))


def told_from_best(groups: Sequence[Sequence[float]], direction: str) -> list[bool]:
    """For each group: does its interval of the mean lie apart from that of the best group?"""
    if not groups:
        return []
    intervals = [_interval_or_point(group) for group in groups]
    low, high = intervals[best_index(groups, direction)]
    return [other_low > high or other_high < low for other_low, other_high in intervals]


def median_with_failures(reached: Sequence[float], total: int) -> float:
    """Median over all `total` runs, where those that never got there count as infinite."""
    ordered = sorted(reached) + [math.inf] * (total - len(reached))
    return (ordered[(total - 1) // 2] + ordered[total // 2]) / 2


def _interval_or_point(values: Sequence[float]) -> tuple[float, float]:
    return bootstrap_interval(values) or (float(values[0]), float(values[0]))


def time_to_target(
    history: pd.DataFrame, target: float, mode: str, *, metric: str | None = None, unit: str = "seconds"
) -> float:
    """What a run had spent when its metric was first at the target or better; `inf` where it never was.

    Args:
        history: a row per logged step, with `unit` and the metric among its columns.
        target: the value that counts.
        mode: `min` where smaller is better, else `max`.
        metric: its column; the only one under `val/` where it is not named.
        unit: the column of what was spent: `step`, `seconds` or `grad_equivalents`.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
    if metric is None:
        found = [str(name) for name in history if str(name).startswith("val/")]
        if len(found) != 1:
            raise ValueError(f"name the metric's column; there are {', '.join(found) or 'none under val/'}")
        metric = found[0]
    values = history[metric]
    there = history.loc[values >= target if mode == "max" else values <= target, unit]
    return float(there.iloc[0]) if len(there) else math.inf
