"""Line searches: the conditions they promise, on published functions, random ones, round-off and
infinities."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch

from optimizers.linalg.line_search import WolfePoint, strong_wolfe

Function = Callable[[float], tuple[float, float]]
NOTHING = torch.zeros(1, dtype=torch.float64)


class Counted:
    """A function of one variable as the search sees it; the trials are remembered."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.trials: list[float] = []

    def __call__(self, alpha: float) -> tuple[float, float, torch.Tensor]:
        self.trials.append(alpha)
        value, slope = self.function(alpha)
        return value, slope, torch.full((1,), slope, dtype=torch.float64)

    def search(self, **options: float) -> WolfePoint | None:
        self.trials.clear()
        value, slope = self.function(0.0)
        return strong_wolfe(self, value, slope, **options)  # type: ignore[arg-type]


def assert_wolfe(
    point: WolfePoint, function: Function, sufficient: float, curvature: float
) -> None:
    (start, slope), (value, derivative) = function(0.0), function(point.alpha)
    assert point.wolfe
    assert (point.value, point.slope) == (value, derivative)
    assert value <= start + sufficient * point.alpha * slope
    assert abs(derivative) <= curvature * abs(slope)


# -- the six functions of Moré and Thuente (1994), section 5 ---------------------------------------


def rational(alpha: float) -> tuple[float, float]:
    return -alpha / (alpha**2 + 2), (alpha**2 - 2) / (alpha**2 + 2) ** 2


def quintic(alpha: float) -> tuple[float, float]:
    shifted = alpha + 0.004
    return shifted**5 - 2 * shifted**4, 5 * shifted**4 - 8 * shifted**3


def oscillating(alpha: float) -> tuple[float, float]:
    if alpha <= 0.99:
        value, slope = 1 - alpha, -1.0
    elif alpha >= 1.01:
        value, slope = alpha - 1, 1.0
    else:
        value, slope = (alpha - 1) ** 2 / 0.02 + 0.005, (alpha - 1) / 0.01
    phase = 39 * math.pi * alpha / 2
    return value + 2 * 0.99 / (39 * math.pi) * math.sin(phase), slope + 0.99 * math.cos(phase)


def yanai(first: float, second: float) -> Function:
    def weight(beta: float) -> float:
        return math.sqrt(1 + beta**2) - beta

    def function(alpha: float) -> tuple[float, float]:
        far, near = math.hypot(1 - alpha, second), math.hypot(alpha, first)
        value = weight(first) * far + weight(second) * near
        return value, weight(first) * (alpha - 1) / far + weight(second) * alpha / near

    return function


MORE_THUENTE: list[tuple[Function, float, float, tuple[int, ...]]] = [
    # function, sufficient, curvature, evaluations published for first trials of 1e-3, 1e-1, 1e1,
    # 1e3 (tables 1 to 6)
    (rational, 1e-3, 0.1, (6, 3, 1, 4)),
    (quintic, 0.099, 0.1, (12, 8, 8, 11)),
    (oscillating, 0.099, 0.1, (12, 12, 10, 13)),
    (yanai(1e-3, 1e-3), 5e-4, 1e-3, (4, 1, 3, 4)),
    (yanai(1e-2, 1e-3), 5e-4, 1e-3, (6, 3, 7, 8)),
    (yanai(1e-3, 1e-2), 5e-4, 1e-3, (13, 11, 8, 11)),
]


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("start", range(4))
def test_functions_of_more_and_thuente(case: int, start: int) -> None:
    function, sufficient, curvature, published = MORE_THUENTE[case]
    counted = Counted(function)
    point = counted.search(
        first=10.0 ** (2 * start - 3), sufficient=sufficient, curvature=curvature
    )
    assert point is not None
    assert_wolfe(point, function, sufficient, curvature)
    assert len(counted.trials) <= published[start] + 1


def test_evaluations_over_all_functions_are_about_those_published() -> None:
    ours = 0
    for function, sufficient, curvature, _ in MORE_THUENTE:
        for first in (1e-3, 1e-1, 1e1, 1e3):
            counted = Counted(function)
            counted.search(first=first, sufficient=sufficient, curvature=curvature)
            ours += len(counted.trials)
    assert ours <= 1.02 * sum(sum(published) for *_, published in MORE_THUENTE)


def test_the_first_table_is_reproduced() -> None:
    for first, evaluations, end in ((1e-3, 6, 1.4), (1e-1, 3, 1.4), (1e1, 1, 10.0), (1e3, 4, 37.0)):
        counted = Counted(rational)
        point = counted.search(first=first, sufficient=1e-3, curvature=0.1)
        assert point is not None
        assert len(counted.trials) == evaluations
        assert float(f"{point.alpha:.2g}") == end


# -- random functions ------------------------------------------------------------------------------


def polynomial(rng: random.Random) -> Function:
    """A polynomial of degree 4 to 8 that falls at 0 and rises in the end."""
    degree = rng.choice([4, 6, 8])
    factors = [rng.gauss(0, 1) for _ in range(degree)]
    factors[0], scale = -abs(factors[0]), 10 ** rng.uniform(-3, 3)
    factors.append(10 ** rng.uniform(-1, 1))

    def function(alpha: float) -> tuple[float, float]:
        x = alpha / scale
        value = sum(c * x ** (k + 1) for k, c in enumerate(factors))
        slope = sum((k + 1) * c * x**k for k, c in enumerate(factors))
        return value, slope / scale

    return function


def wavy(rng: random.Random) -> Function:
    frequency, depth, bend = 10 ** rng.uniform(-1, 2), rng.uniform(0, 1), 10 ** rng.uniform(-3, 1)

    def function(alpha: float) -> tuple[float, float]:
        value = bend * alpha**2 - alpha + depth / frequency * math.sin(frequency * alpha) * 0.9
        return value, 2 * bend * alpha - 1 + 0.9 * depth * math.cos(frequency * alpha)

    return function


@pytest.mark.parametrize("family", [polynomial, wavy])
def test_both_conditions_hold_on_random_functions(
    family: Callable[[random.Random], Function],
) -> None:
    rng, trials = random.Random(0), []
    for _ in range(400):
        function, curvature = family(rng), rng.choice([0.9, 0.5, 0.1, 0.01])
        counted = Counted(function)
        point = counted.search(first=10 ** rng.uniform(-3, 3), curvature=curvature, max_trials=60)
        assert point is not None
        assert_wolfe(point, function, 1e-4, curvature)
        trials.append(len(counted.trials))
    assert sum(trials) / len(trials) < 8


def test_the_trials_do_not_depend_on_the_units() -> None:
    """Of the function, of alpha, or on a constant: powers of two, so that not a bit changes."""
    rng = random.Random(1)
    for _ in range(50):
        function = polynomial(rng)
        one, two = (
            Counted(function),
            Counted(lambda a, f=function: (8 * f(a / 4)[0], 2 * f(a / 4)[1])),
        )
        one.search(first=1.0, curvature=0.1)
        two.search(first=4.0, curvature=0.1)
        assert two.trials == [4 * alpha for alpha in one.trials]


# -- where floating point ends ---------------------------------------------------------------------


@pytest.mark.parametrize("first", [1e-2, 1.0, 30.0])
def test_approximate_conditions_where_the_values_are_noise(first: float) -> None:
    """1e8 + (alpha - 1)^2 1e-12.

    The whole change is a ten-thousandth of a unit of round-off of the value.
    """

    def function(alpha: float) -> tuple[float, float]:
        return 1e8 + 1e-12 * (alpha - 1) ** 2, 2e-12 * (alpha - 1)

    point = Counted(function).search(first=first, curvature=0.1)
    assert point is not None
    assert point.wolfe
    assert point.value == 1e8
    assert abs(point.alpha - 1) <= 0.1
    assert (2e-4 - 1) * 2e-12 * -1 >= point.slope >= 0.1 * -2e-12  # Hager and Zhang (2005), eq. 4.1


def test_values_that_can_show_the_change_are_believed() -> None:
    """Equal values far apart are no round-off.

    The trial at 1 has f(0) and less slope, but nothing was gained.
    """
    counted = Counted(lambda a: (5 - a * (1 - a) * (1.2 - 0.4 * a), -1.2 + 3.2 * a - 1.2 * a**2))
    point = counted.search(first=1.0)
    assert counted.trials[0] == 1.0
    assert point is not None
    assert point.value < 5 - 1e-4 * 1.2 * point.alpha


@pytest.mark.parametrize("wall", [1e-4, 0.3, 0.999])
@pytest.mark.parametrize("beyond", [math.inf, math.nan])
def test_trials_that_are_not_finite_shrink(wall: float, beyond: float) -> None:
    def barrier(alpha: float) -> tuple[float, float]:
        if alpha >= wall:
            return beyond, beyond
        return -alpha - 0.1 * wall * math.log(1 - alpha / wall), -1 + 0.1 / (1 - alpha / wall)

    counted = Counted(barrier)
    point = counted.search(first=1.0, curvature=0.1)
    assert point is not None
    assert_wolfe(point, barrier, 1e-4, 0.1)
    assert max(counted.trials[1:]) <= 1.0


def test_nothing_finite_anywhere() -> None:
    counted = Counted(lambda a: (0.0, -1.0) if a == 0 else (math.nan, math.nan))
    assert counted.search(max_trials=7) is None
    assert len(counted.trials) == 7


def test_without_a_lower_bound_the_best_point_is_returned() -> None:
    counted = Counted(lambda a: (-a, -1.0))
    point = counted.search(largest=1e3)
    assert point is not None
    assert (point.alpha, point.wolfe) == (1e3, False)
    point = counted.search(max_trials=5)
    assert point is not None
    assert point.alpha == max(counted.trials)
    assert not point.wolfe


def test_without_sufficient_decrease_nothing_is_returned() -> None:
    assert Counted(lambda a: (100 * a**2 - a, 200 * a - 1)).search(max_trials=1) is None
    # a wrong slope
    assert Counted(lambda a: (abs(a) - 1e-3 * a, -1e-3 if a == 0 else 1 - 1e-3)).search() is None


@pytest.mark.parametrize(
    ("start", "slope"), [(0.0, 0.0), (0.0, 1.0), (math.nan, -1.0), (0.0, math.nan)]
)
def test_no_descent_no_evaluation(start: float, slope: float) -> None:
    counted = Counted(lambda a: (0.0, 0.0))
    assert strong_wolfe(counted, start, slope) is None
    assert not counted.trials


def test_a_good_first_trial_is_taken() -> None:
    counted = Counted(lambda a: (a**2 / 2 - a, a - 1))
    point = counted.search()
    assert point == WolfePoint(1.0, -0.5, 0.0, torch.zeros(1, dtype=torch.float64), True)
    assert counted.trials == [1.0]
