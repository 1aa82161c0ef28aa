"""The observed order of convergence of a sequence `e_k = f(x_k) - f*`.

An order is sublinear, linear, superlinear or quadratic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FEWEST = 4  # points, three pairs: two pairs would lie on a line whatever they were
FEWEST_LINEAR = 6  # points of which it can be said that they are not superlinear
FACTORS = 5  # steps over which the factor is watched
DECADES = 4.0  # of the gap, at its end, from which the order is read
MOST_STEPS = 40  # for these decades: who takes longer is not seen to be superlinear
SUPERLINEAR = 1.15  # the smallest order that counts as more than linear
QUADRATIC = (1.75, 2.5)
# the late slope of log e_k over the early one, from which the decline counts as linear
STRAIGHT = 0.8
STRAIGHTER, CLEAN = 0.85, 0.05  # the same for a shorter end, and how certain its slopes have to be
EARLY = 0.1  # of the first gap, above which the last one says nothing about an order
POWER = 3.0  # what falls like a higher power of k follows no power law
# of log e between the quarters of the last half, below which nothing converges
SMALLEST_DROP = 0.02
# a plateau this many roundings of the largest gap or lower is round-off, not a failure
ROUND_OFF = 1e4
BENT = 1e3  # times the plateau: gaps that may already be bent by what stops them
SIGNIFICANT = 3.0  # standard errors

QUADRATIC_WORD, SUPERLINEAR_WORD, LINEAR, SUBLINEAR = (
    "quadratic",
    "superlinear",
    "linear",
    "sublinear",
)
TOO_FEW, TOO_EARLY, NOT_CONVERGING = "too few points", "too early to tell", "not converging"


@dataclass(frozen=True)
class Order:
    """What a sequence was seen to do.

    Attributes:
        kind: one of the seven words above.
        rate: the factor by which the gap shrinks in a step (linear), else NaN.
        order: q of `e_{k+1} ~ C e_k^q` (superlinear, quadratic), or p of `e_k ~ k^-p` (sublinear,
            if p is at most 3), else NaN.
        points: how many points above round-off there are.
    """

    kind: str
    rate: float = math.nan
    order: float = math.nan
    points: int = 0

    def __str__(self) -> str:
        if self.kind == LINEAR:
            return f"{self.kind} (rate {rate_text(self.rate)})"
        if self.kind == SUBLINEAR and self.order <= POWER:
            return f"{self.kind} (like k^-{self.order:.1f})"
        return (
            self.kind
            if math.isnan(self.order) or self.kind == SUBLINEAR
            else f"{self.kind} (order {self.order:.1f})"
        )


def rate_text(rate: float) -> str:
    """A rate with two digits, counted from 1 where it is close to 1: `0.83`, `0.99957`."""
    if rate < 0.1:
        return f"{rate:.2g}"
    return f"{rate:.{min(12, max(2, 1 - math.floor(math.log10(max(1 - rate, 1e-11)))))}f}"


def observed_order(steps: Array, gaps: Array, eps: float, minimum: float = 0.0) -> Order:
    """The order that a sequence shows.

    In this order:

    1. The sequence is cut where round-off takes over: at the first gap that is zero, within a few
       roundings of the minimum or below `(10 eps)^2` times the first gap (where a sum of squares of
       rounded numbers ends); or at a final plateau below `1e4 eps` times the largest gap, together
       with the three decades above it, which may be bent by what ends there.
    2. Fewer than four points are `too few points`.
    3. q is the slope of `log e_{k+1}` against `log e_k` (its m-th root where only every m-th step
       is known) over the last four decades, at least four points. Where these took at most 40 steps
       without a rise, the run is `superlinear` if q is at least 1.15 and above 1 by two standard
       errors, or if the factor `e_{k+1} / e_k` itself falls steadily to a third or less over at
       least five steps (superlinear of order 1: a damping that fades); it is `quadratic` if q is
       from 1.75 to 2.5.
    4. Where `log e` does not fall within the last half of the steps, by 0.02 between its quarters'
       medians and by three standard errors of its slope, the run is `not converging` to the
       minimum; where it falls, but the gap at the end is more than a tenth of the one at the start,
       it is `too early to tell`.
    5. Else, from six points on, the slopes of `log e` against k over the second and the last third
       of the steps are compared: `linear` if the late one is at least 0.8 times the early one (1
       for a geometric sequence, about 0.6 for any power of k), or at least 0.85 times over the last
       two quarters (1 and 0.7) where these are smooth; the rate is `exp(slope)` over the last half.
       `sublinear` if not, with the power of k over the last two thirds.

    The error in f is quadratic in the distance to the minimizer: the distance has the same order q,
    and the square root of the rate.

    Args:
        steps: the numbers k of the steps, increasing, `(n,)`.
        gaps: `e_k`, `(n,)`.
        eps: the machine precision in which f was computed.
        minimum: f*, whose rounding limits what a gap can tell.
    """
    finite = np.isfinite(gaps)
    if not finite.all():  # what comes after an overflow is no part of a sequence that converges
        return Order(NOT_CONVERGING, points=int(finite.sum()))
    length = len(gaps) and _above_round_off(gaps, eps, minimum)
    if length < len(gaps) and gaps.min() < -ROUND_OFF * eps * max(
        abs(float(gaps[0])), abs(minimum)
    ):
        # below the minimum: not the one that was looked for
        return Order(NOT_CONVERGING, points=length)
    steps, logs = steps[:length], np.log(gaps[:length])
    if length < FEWEST:
        return Order(TOO_FEW, points=length)
    fast = _superlinear(steps, logs)
    if fast is not None:
        return fast
    if not _falls(steps, logs):
        return Order(NOT_CONVERGING, points=length)
    if logs[-1] > logs[0] + math.log(EARLY):
        return Order(TOO_EARLY, points=length)
    return _linear(steps, logs) if length >= FEWEST_LINEAR else Order(TOO_FEW, points=length)


def _above_round_off(gaps: Array, eps: float, minimum: float) -> int:
    """How many gaps come before round-off takes over."""
    # the latter for a sum of squares
    floor = max(8 * eps * abs(minimum), (10 * eps) ** 2 * float(gaps[0]))
    reached = np.flatnonzero(gaps <= floor)
    length = int(reached[0]) if len(reached) else len(gaps)
    positive = gaps[:length]
    if length < FEWEST:
        return length
    level = float(np.median(positive[-max(3, length // 10) :]))
    ahead = np.maximum.accumulate(positive[::-1])[::-1]
    knee = int(np.argmax(ahead <= BENT * level)) if (ahead <= BENT * level).any() else length
    early, late = np.array_split(positive[knee:], 2)
    flat = len(late) > 2 and np.median(early) < 10 * np.median(late)
    return knee if flat and level <= ROUND_OFF * eps * float(positive.max()) else length


def _falls(steps: Array, logs: Array) -> bool:
    half, three_quarters = steps[-1] / 2, 3 * steps[-1] / 4
    late = steps >= half
    if late.sum() < FEWEST:  # a handful of points: the last is the lowest, or nothing falls
        return bool(logs[-1] < logs[:-1].min() - SMALLEST_DROP)
    before, after = logs[late & (steps < three_quarters)], logs[steps >= three_quarters]
    slope, error = _line(steps[late], logs[late])
    return bool(
        np.median(before) - np.median(after) > SMALLEST_DROP and -slope > SIGNIFICANT * error
    )


def _superlinear(steps: Array, logs: Array) -> Order | None:
    """The order over the last decades, where it exceeds one or the steps' factors keep falling."""
    tail = _tail(steps, logs, FEWEST)
    if tail is None:
        return None
    slope, error = _line(logs[tail][:-1], logs[tail][1:])
    order = max(slope, 0.0) ** (1 / float(steps[-1] - steps[-2]))
    if (order >= SUPERLINEAR and slope - 2 * error > 1) or _factors_fall(steps, logs):
        kind = QUADRATIC_WORD if QUADRATIC[0] <= order <= QUADRATIC[1] else SUPERLINEAR_WORD
        return Order(kind, order=max(order, 1.0), points=len(logs))
    return None


def _factors_fall(steps: Array, logs: Array) -> bool:
    """Whether `e_{k+1} / e_k` falls to a third or less, and steadily, over at least five steps."""
    tail = _tail(steps, logs, FACTORS + 1)
    if tail is None:
        return False
    factors = np.diff(logs[tail])
    slope, error = _line(np.arange(len(factors), dtype=float), factors)
    return slope * (len(factors) - 1) < -math.log(3) and -slope > SIGNIFICANT * error


def _tail(steps: Array, logs: Array, points: int) -> slice | None:
    """The last four decades, at least so many points.

    In few steps, evenly spaced, falling throughout; else None.
    """
    start = len(logs) - points
    while start > 0 and logs[start] - logs[-1] < DECADES * math.log(10):
        start -= 1
    if (
        start < 0
        or logs[start] - logs[-1] < DECADES * math.log(10)
        or steps[-1] - steps[start] > MOST_STEPS
    ):
        return None
    even = len(set(np.diff(steps[start:]))) == 1
    return slice(start, None) if even and (np.diff(logs[start:]) < 0).all() else None


def _linear(steps: Array, logs: Array) -> Order:
    """Linear or sublinear, by whether the decline of the logarithm slows down."""
    late = steps >= steps[-1] / 2
    if _slows(steps, logs, 1 / 3, STRAIGHT, math.inf) and _slows(
        steps, logs, 1 / 2, STRAIGHTER, CLEAN
    ):
        late = steps >= steps[-1] / 3
        power = -_line(np.log(steps[late]), logs[late])[0]
        return Order(SUBLINEAR, order=power if power <= POWER else math.nan, points=len(logs))
    chosen = late if late.sum() > 1 else np.ones_like(late)
    return Order(LINEAR, rate=math.exp(_line(steps[chosen], logs[chosen])[0]), points=len(logs))


def _slows(steps: Array, logs: Array, begin: float, straight: float, clean: float) -> bool:
    """Whether the second half after that share of the steps falls more slowly than the first.

    Where there are too few points to tell, it does not; where slopes are less certain than `clean`,
    it may well.
    """
    middle = (begin + 1) / 2 * steps[-1]
    first, second = (steps >= begin * steps[-1]) & (steps <= middle), steps >= middle
    if min(first.sum(), second.sum()) < 2:
        return False
    early, late = _line(steps[first], logs[first]), _line(steps[second], logs[second])
    uncertain = (
        max(early[1] / abs(early[0] or math.inf), late[1] / abs(late[0] or math.inf)) > clean
    )
    return uncertain or late[0] > straight * early[0]


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Slope of the least-squares line and its standard error."""
    centred = x - x.mean()
    square = float(centred @ centred)
    slope = float(centred @ y) / square
    residual = y - y.mean() - slope * centred
    return slope, math.sqrt(float(residual @ residual) / max(1, len(x) - 2) / square)
