"""Searches for a step length along a direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from optimizers.linalg.interpolation import Trial, proposal
from optimizers.phases import phased

Ray = Callable[[float], tuple[float, float, Tensor]]


@phased("line search")
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
    """The first alpha in first, first * shrink, ... whose value has fallen enough.

    Enough is value(alpha) <= start + sufficient * alpha * slope. Nocedal and Wright, Algorithm 3.1.
    `start` is the value and `slope` the directional derivative at alpha = 0.

    Returns:
        (alpha, value(alpha)), or None when no trial decreased the value enough; a value that is not
        finite never does.
    """
    alpha = first
    for _ in range(max_trials):
        trial = value(alpha)
        if isfinite(trial) and trial <= start + sufficient * alpha * slope:
            return alpha, trial
        alpha *= shrink
    return None


@dataclass(frozen=True)
class WolfePoint:
    """A point on a ray, and whether it satisfies the strong Wolfe conditions.

    Attributes:
        alpha: the step length.
        value: the function there.
        slope: its derivative along the ray there.
        gradient: its gradient there, as `evaluate` gave it.
        wolfe: both conditions hold; otherwise only the value is known to have decreased enough.
    """

    alpha: float
    value: float
    slope: float
    gradient: Tensor
    wolfe: bool


@phased("line search")
def strong_wolfe(
    evaluate: Ray,
    start: float,
    slope: float,
    *,
    first: float = 1.0,
    sufficient: float = 1e-4,
    curvature: float = 0.9,
    max_trials: int = 25,
    largest: float = 1e10,
) -> WolfePoint | None:
    """A step length at which a function has decreased enough and its slope has flattened enough.

        f(alpha) <= f(0) + sufficient * alpha * f'(0),   |f'(alpha)| <= curvature * |f'(0)|

    Bracketing and safeguarded cubic interpolation after Moré and Thuente, "Line search algorithms
    with guaranteed sufficient decrease", 1994: an interval that holds a minimiser of psi(alpha) =
    f(alpha) - f(0) - sufficient * alpha * f'(0) shrinks, or, before there is one, the trials grow
    by 1.1 to 4 times the last stride. A trial that is not finite is a limit that no later trial
    passes.

    Where the predicted change `alpha * f'(0)` is too small for the values to show (1e2 units of
    round-off of f(0) in the gradient's precision), their difference is replaced by the trapezoid of
    the slopes, which makes the first condition f'(alpha) <= (2 * sufficient - 1) * f'(0): the
    approximate Wolfe conditions of Hager and Zhang (2005, eq. 4.1), with which a search goes on
    where the values are only noise. `wolfe=True` means either.

    Differences from Moré and Thuente: psi serves throughout, not only in a first stage, so
    `sufficient` has to be less than `curvature`; a trial outside the interval becomes a bisection.

    Args:
        evaluate: alpha -> (value, slope, gradient).
        start: f(0).
        slope: f'(0).
        first: the first trial.
        sufficient: the constant of the first condition, between 0 and `curvature`.
        curvature: the constant of the second condition, below 1.
        max_trials: the largest number of evaluations.
        largest: the largest trial.

    Returns:
        The point; the best one with sufficient decrease, `wolfe=False`, when the trials have run
        out; None when there is none, or when the slope is not negative.
    """
    if not (slope < 0 and isfinite(start) and first > 0):
        return None
    interval = _Interval(slope * (1 - sufficient), min(first, largest), largest)
    best: WolfePoint | None = None
    for _ in range(max_trials):
        alpha = interval.next
        value, derivative, gradient = evaluate(alpha)
        rise = visible_change(
            alpha, value - start, slope, derivative, abs(start) * torch.finfo(gradient.dtype).eps
        )
        trial = Trial(alpha, rise - sufficient * alpha * slope, derivative - sufficient * slope)
        if trial.value <= 0 and abs(derivative) <= curvature * -slope:
            return WolfePoint(alpha, value, derivative, gradient, True)
        if interval.shrink(trial):
            best = WolfePoint(alpha, value, derivative, gradient, False)
        if not interval.open:
            break
    return best


def visible_change(
    alpha: float, change: float, slope: float, derivative: float, unit: float
) -> float:
    """f(alpha) - f(0), from the end slopes where 100 units of round-off hide the difference."""
    hidden = max(abs(change), -alpha * slope) <= 100 * unit
    return alpha * (slope + derivative) / 2 if hidden else change


class _Interval:
    """The lowest point so far, one beyond a minimiser, and the next trial between them."""

    def __init__(self, slope: float, first: float, largest: float) -> None:
        self.low = Trial(0.0, 0.0, slope)
        self.high: Trial | None = None
        self.limit = inf
        self.largest = largest
        self.next = first
        self.widths = (inf, inf)
        self.broken = 0

    @property
    def open(self) -> bool:
        """Whether another trial differs from the earlier ones."""
        end = self.low.alpha if self.high is None else self.high.alpha
        resolved = abs(self.next - self.low.alpha) > 1e-15 * self.next and self.next != end
        return resolved and self.next > 0 and self.low.alpha < self.largest

    def shrink(self, trial: Trial) -> bool:
        """Take in a trial and choose the next one; whether it is the lowest so far."""
        if not (isfinite(trial.value) and isfinite(trial.slope)):
            self._back_off(trial.alpha)
            return False
        proposed = proposal(self.low, trial, self.high)
        last, lower = self.low, trial.value <= self.low.value
        if not lower:
            self.high = trial
        else:
            if trial.slope * (trial.alpha - last.alpha) >= 0:
                self.high = last
            self.low = trial
        self.next = (
            self._forward(proposed, last)
            if self.high is None
            else self._inside(proposed, self.high)
        )
        return lower

    def _back_off(self, alpha: float) -> None:
        """Beyond the limit the function is not finite: go back by halves, quarters, eighths."""
        self.limit = alpha
        self.broken += 1
        self.next = self.low.alpha + (alpha - self.low.alpha) * 0.5**self.broken

    def _forward(self, proposed: float, last: Trial) -> float:
        """Nothing is bracketed: a trial beyond the last, not by much more than the last stride."""
        alpha, stride = self.low.alpha, self.low.alpha - last.alpha
        ahead = min(max(proposed, alpha + 1.1 * stride), alpha + 4 * stride)
        return min(ahead, (alpha + self.limit) / 2, self.largest)

    def _inside(self, proposed: float, high: Trial) -> float:
        """The proposal; the middle if it is outside, or if two steps shrank less than a third."""
        ends = sorted((self.low.alpha, high.alpha))
        width = ends[1] - ends[0]
        slow = width > 0.66 * self.widths[0]
        self.widths = (self.widths[1], width)
        return proposed if ends[0] < proposed < ends[1] and not slow else sum(ends) / 2
