"""The next trial of a line search: minimisers of cubics and parabolas through two points."""

from __future__ import annotations

from math import inf, isfinite, nan, sqrt
from typing import NamedTuple


class Trial(NamedTuple):
    """A step length, the function there and its derivative."""

    alpha: float
    value: float
    slope: float


def proposal(low: Trial, trial: Trial, high: Trial | None) -> float:
    """The trial value of Moré and Thuente, section 4, from three points.

    These are the lowest point, the last trial and the other end of the interval.
    """
    cubic, secant = _cubic(low, trial), _secant(low, trial)
    if trial.value > low.value:
        quadratic = _quadratic(low, trial)
        if abs(cubic - low.alpha) < abs(quadratic - low.alpha):
            return cubic
        return (cubic + quadratic) / 2 if isfinite(cubic) else quadratic
    if trial.slope * low.slope < 0:
        return cubic if abs(cubic - trial.alpha) >= abs(secant - trial.alpha) else secant
    if abs(trial.slope) <= abs(low.slope):
        return _beyond(low, trial, high, cubic, secant)
    if high is not None:
        return _cubic(high, trial)
    return inf if trial.alpha > low.alpha else -inf


def _beyond(low: Trial, trial: Trial, high: Trial | None, cubic: float, secant: float) -> float:
    """The slope flattens: the minimiser that the cubic or the secant sees beyond the trial."""
    forward = trial.alpha - low.alpha
    distances = [(c - trial.alpha) / forward for c in (cubic, secant)]
    ahead = [d if d > 0 else inf for d in distances]  # nan too: where there is none, it is far away
    if high is None:
        return trial.alpha + max(ahead) * forward
    bound = 0.66 * (high.alpha - trial.alpha) / forward
    return trial.alpha + min(*ahead, bound) * forward


def _cubic(a: Trial, b: Trial) -> float:
    """The minimiser of the cubic through two values and slopes; nan if it has none.

    Nocedal and Wright, eq. 3.59.
    """
    if a.alpha == b.alpha:
        return nan
    middle = a.slope + b.slope - 3 * (a.value - b.value) / (a.alpha - b.alpha)
    unit = max(abs(middle), abs(a.slope), abs(b.slope))
    if not (isfinite(unit) and unit > 0):
        return nan
    under_root = (middle / unit) ** 2 - (a.slope / unit) * (b.slope / unit)
    if under_root < 0:
        return nan
    root = unit * sqrt(under_root) * (1 if b.alpha > a.alpha else -1)
    below = b.slope - a.slope + 2 * root
    return b.alpha - (b.alpha - a.alpha) * (b.slope + root - middle) / below if below else nan


def _quadratic(a: Trial, b: Trial) -> float:
    """The minimiser of the parabola through a's value and slope and b's value."""
    bend = (a.value - b.value) / (b.alpha - a.alpha) + a.slope
    return a.alpha + (b.alpha - a.alpha) * a.slope / bend / 2 if bend else nan


def _secant(a: Trial, b: Trial) -> float:
    """Where the line through two slopes crosses zero."""
    return (
        b.alpha - b.slope * (b.alpha - a.alpha) / (b.slope - a.slope) if b.slope != a.slope else nan
    )
