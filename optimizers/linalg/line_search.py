"""Searches for a step length along a direction."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite


def armijo(
    value: Callable[[float], float],
    start: float,
    slope: float,
    *,
    first: float = 1.0,
    sufficient: float = 1e-4,
    shrink: float = 0.5,
    max_trials: int = 10,
) -> tuple[float, float] | None:
    """The first alpha in first, first * shrink, ... with value(alpha) <= start + sufficient * alpha * slope.

    Nocedal and Wright, Algorithm 3.1. `start` is the value and `slope` the directional derivative at alpha = 0.

    Returns:
        (alpha, value(alpha)), or None when no trial decreased the value enough; a value that is not finite never does.
    """
    alpha = first
    for _ in range(max_trials):
        trial = value(alpha)
        if isfinite(trial) and trial <= start + sufficient * alpha * slope:
            return alpha, trial
        alpha *= shrink
    return None
