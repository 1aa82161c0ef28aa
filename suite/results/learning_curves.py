"""Learning curves: medians over windows and seeds, bands from minimum to maximum, limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from suite.results.run import VALUED

AXES = {"step": "steps", "seconds": "seconds", "grad_equivalents": "grad-equivalents"}
MOST_POINTS = 100
DETAIL = 40
DECADES_FOR_LOG = 1.0
SMALLEST = 1e-16

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Strand:
    """A run that did not end, up to its last finite value: columns of AXES and `value`."""

    points: pd.DataFrame
    status: str


@dataclass(frozen=True)
class Curve:
    """One optimizer on one problem.

    It holds the median over the finished runs, and the unfinished ones.

    Attributes:
        middle: columns of AXES, each the median over runs at the same step, and `value`, `low`,
            `high`.
        runs: how many runs the middle is taken over.
        strands: the others.
    """

    middle: pd.DataFrame
    runs: int
    strands: list[Strand]


def window(histories: Sequence[pd.DataFrame]) -> int:
    """Steps per point after the first `DETAIL` ones, for about `MOST_POINTS` of the longest run."""
    longest = max((len(history) for history in histories), default=0)
    last = max((float(history["step"].max()) for history in histories if len(history)), default=0.0)
    return 1 if longest <= MOST_POINTS else math.ceil((last - DETAIL) / (MOST_POINTS - DETAIL))


def curve(runs: pd.DataFrame, histories: dict[int, pd.DataFrame], column: str, steps: int) -> Curve:
    """The curve of one quantity over the runs of one cell, in windows of `steps` steps."""
    finished: list[pd.DataFrame] = []
    strands: list[Strand] = []
    for index, status in runs["status"].items():
        points = _points(histories[int(str(index))], column, steps)
        if len(points) and status in VALUED:
            finished.append(points)
        elif len(points):
            strands.append(Strand(points, str(status)))
    return Curve(_middle(finished), len(finished), strands)


def is_logarithmic(curves: Sequence[Curve]) -> bool:
    """Whether the values are positive, up to exact zeros, and span more than a decade."""
    values = _finished_values(curves)
    positive = values[values > 0]
    if not len(positive) or (values < 0).any():
        return False
    return math.log10(positive.max() / positive.min()) > DECADES_FOR_LOG


def limits(curves: Sequence[Curve], direction: str, *, log: bool) -> tuple[float, float] | None:
    """The range of values to show; what explodes far above its start is not among them."""
    values = _finished_values(curves)
    if not len(values):
        values = _first_values(curves)
    values = values[values > 0] if log else values
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if direction == "min":
        high = min(high, _ceiling(_first_values(curves), low, log=log))
    return (max(low, high * SMALLEST) if log else low), high


def spread(curves: Sequence[Curve], axis: str) -> float:
    """How many times longer the longest finished curve is than the shortest, along one axis."""
    ends = [float(one.middle[axis].max()) for one in curves if len(one.middle)]
    ends = [end for end in ends if end > 0]
    return max(ends) / min(ends) if ends else 1.0


def _points(history: pd.DataFrame, column: str, steps: int) -> pd.DataFrame:
    """Finite values, one per window; `bin` aligns the runs with each other.

    The first steps, in which a second-order method may have reached the target, stay as they are.
    The median of a later window, unlike its mean, stays on a curve that falls by decades within it.
    """
    if column not in history:
        return pd.DataFrame(columns=["bin", *AXES, "value"], dtype=float)
    value = history[column].to_numpy(dtype=float)
    finite = np.isfinite(value)
    parts = {name: history[name].to_numpy(dtype=float)[finite] for name in AXES} | {
        "value": value[finite]
    }
    late = np.maximum(parts["step"] - DETAIL, 0)
    bins, members = np.unique(parts["step"] - late + np.ceil(late / steps), return_inverse=True)
    return pd.DataFrame(
        {"bin": bins, **{name: _medians(part, members, len(bins)) for name, part in parts.items()}}
    )


def _medians(values: Array, members: npt.NDArray[np.intp], count: int) -> Array:
    """The median of each group without its NaN.

    It replaces pandas' own, which takes ten times as long.
    """
    order = np.lexsort((values, members))  # NaN come last in their group
    known = np.bincount(members[~np.isnan(values)], minlength=count)
    start = np.concatenate([[0], np.cumsum(np.bincount(members, minlength=count))[:-1]]).astype(int)
    ranked = np.append(values[order], np.nan)
    low, high = (ranked[start + np.maximum(known - 1, 0) // 2], ranked[start + known // 2])
    return np.where(known > 0, (low + high) / 2, np.nan)


def _middle(points: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Medians over runs, as far as at least half of the runs go."""
    if not points:
        return pd.DataFrame(columns=[*AXES, "value", "low", "high"], dtype=float)
    grouped = pd.concat(points).groupby("bin")
    middle = grouped[[*AXES, "value"]].median()
    middle = middle.assign(low=grouped["value"].min(), high=grouped["value"].max())
    return middle[grouped.size() * 2 >= len(points)].reset_index(drop=True)


def _finished_values(curves: Sequence[Curve]) -> Array:
    parts = [one.middle[["value", "low", "high"]].to_numpy(dtype=float).ravel() for one in curves]
    return np.concatenate(parts) if parts else np.empty(0)


def _first_values(curves: Sequence[Curve]) -> Array:
    frames = [one.middle for one in curves] + [
        strand.points for one in curves for strand in one.strands
    ]
    return np.array([float(frame["value"].iloc[0]) for frame in frames if len(frame)])


def _ceiling(first: Array, low: float, *, log: bool) -> float:
    start = float(np.median(first)) if len(first) else math.inf
    if log:
        return max(3 * start, 10 * low)
    return start + 0.5 * (start - low) if start > low else math.inf
