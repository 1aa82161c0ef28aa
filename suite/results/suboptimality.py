"""The sequence `f(x_k) - f*` of a run, as finely as its history knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

METRIC = "gap"
ROUND_OFF = 1e-12  # of the largest gap: what is flat below is round-off
COLUMN = f"val/{METRIC}"
EPS = {
    "float64": float(np.finfo(np.float64).eps),
    "float32": float(np.finfo(np.float32).eps),
    "bf16": 2.0**-8,
}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gaps:
    """`f(x) - f*` after each of `steps`, the gradient-equivalents spent by then, and f*."""

    steps: Array
    calls: Array
    gaps: Array
    minimum: float


def gap_sequence(history: pd.DataFrame, eps: float) -> Gaps | None:
    """The gaps of one run; None where there are fewer than two.

    The metric is evaluated every so many steps only, but the loss that is logged with step k+1 is
    `f(x_k)` where it is exact: then `loss - f*` fills in what the evaluations leave out. It is
    exact if `loss - gap`, wherever both are known of one point, is the same number, f*; the pair
    with the smallest gap tells f* best. A loss with noise, or of a mini-batch, leaves the
    evaluations alone.
    """
    if COLUMN not in history:
        return None
    known = history.dropna(subset=[COLUMN]).drop_duplicates("step").set_index("step")[COLUMN]
    losses = history.dropna(subset=["loss"]).drop_duplicates("step")
    before = pd.Series(losses["loss"].to_numpy(), index=losses["step"].to_numpy() - 1)
    minimum = _minimum(known, before, eps)
    if minimum is not None:
        known = known.combine_first(before - minimum)
    known = known.sort_index()
    steps, values = known.index.to_numpy(dtype=float), known.to_numpy(dtype=float)
    if len(steps) < 2:
        return None
    calls = np.interp(
        steps,
        history["step"].to_numpy(dtype=float),
        history["grad_equivalents"].to_numpy(dtype=float),
    )
    return Gaps(steps, calls, values, minimum or 0.0)


def worth_drawing(gaps: Gaps) -> Gaps:
    """The sequence without a long stay at round-off.

    It ends where it first comes within ten times its smallest gap.
    """
    positive = gaps.gaps > 0
    lowest = float(gaps.gaps[positive].min(initial=math.inf))
    if lowest > ROUND_OFF * float(gaps.gaps.max()):
        return gaps
    end = int(np.argmax(gaps.gaps <= 10 * lowest)) + 1
    return Gaps(gaps.steps[:end], gaps.calls[:end], gaps.gaps[:end], gaps.minimum)


def consecutive(gaps: Gaps) -> tuple[Array, Array]:
    """The pairs `(e_k, e_{k+1})` of positive gaps one step apart."""
    good = (np.diff(gaps.steps) == 1) & (gaps.gaps[:-1] > 0) & (gaps.gaps[1:] > 0)
    return gaps.gaps[:-1][good], gaps.gaps[1:][good]


def _minimum(gaps: pd.Series, losses: pd.Series, eps: float) -> float | None:
    """f*, or None where the losses are not the function's values."""
    shared = gaps.index.intersection(losses.index)
    gap, loss = gaps[shared].to_numpy(dtype=float), losses[shared].to_numpy(dtype=float)
    finite = np.isfinite(gap) & np.isfinite(loss)
    gap, loss = gap[finite], loss[finite]
    if not len(gap):
        return None
    minimum = float((loss - gap)[np.argmin(np.abs(gap))])
    tolerance = math.sqrt(eps) * np.maximum(np.abs(loss), np.abs(gap))
    same = bool((np.abs(loss - gap - minimum) <= tolerance).all())
    return minimum if same and (len(gap) > 1 or abs(minimum) <= tolerance[0]) else None
