"""Ratios of costs and differences of values.

Against closed forms, with failures, and with the truth planted.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from suite.compare.intervals import (
    AT_LEAST,
    AT_MOST,
    BOUNDED,
    EXACT,
    Costs,
    cost_ratio,
    difference,
    restricted,
)

NAN = math.nan


def costs(*values: float, resolution: float = 0.0, budget: float = 400.0) -> Costs:
    """Costs seen with a resolution; `inf` is a run that spent its budget in vain."""
    seen = np.array(values, dtype=float)
    reached = np.isfinite(seen)
    spent = np.where(reached, seen, budget)
    return Costs(spent, np.where(reached, spent - resolution, spent), reached)


def test_the_ratio_of_pairs_is_students_on_their_logs() -> None:
    a, b = [40.0, 55.0, 61.0, 38.0], [100.0, 130.0, 118.0, 95.0]
    ratio = cost_ratio(costs(*a), costs(*b), paired=True)
    oracle = scipy_stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    assert ratio is not None
    assert ratio.bound == EXACT
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(oracle.low), math.exp(oracle.high)))
    assert ratio.value == pytest.approx(math.exp(np.mean(np.log(a) - np.log(b))))


def test_without_pairs_it_is_welchs() -> None:
    a, b = [40.0, 55.0, 61.0], [100.0, 130.0, 118.0, 95.0]
    ratio = cost_ratio(costs(*a), costs(*b), paired=False)
    oracle = scipy_stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(0.95)
    assert ratio is not None
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(oracle.low), math.exp(oracle.high)))


def test_the_distance_of_evaluations_widens_the_interval_even_of_costs_that_are_all_the_same() -> (
    None
):
    ratio = cost_ratio(
        costs(20, 20, 20, resolution=10), costs(50, 50, 50, resolution=10), paired=True
    )
    assert ratio is not None
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((10 / 50, 20 / 50, 20 / 40))


def test_a_cost_within_the_first_evaluation_has_no_lower_end() -> None:
    ratio = cost_ratio(
        costs(10, 10, 10, resolution=10), costs(50, 50, 50, resolution=10), paired=True
    )
    assert ratio is not None
    assert ratio.low == pytest.approx(0.0, abs=1e-200)
    assert ratio.high == pytest.approx(10 / 40)
    back = cost_ratio(
        costs(50, 50, 50, resolution=10), costs(10, 10, 10, resolution=10), paired=True
    )
    assert back is not None
    assert back.low == pytest.approx(40 / 10)
    assert back.high > 1e100


@pytest.mark.parametrize(
    ("a", "b", "bound"),
    [
        ((50, 60, 55), (100, 110, math.inf), AT_MOST),
        ((50, 60, math.inf), (100, 110, 120), AT_LEAST),
        ((50, 60, math.inf), (100, math.inf, 120), BOUNDED),
    ],
)
def test_a_failure_makes_a_bound_that_is_open_on_its_side(a: Any, b: Any, bound: str) -> None:
    ratio = cost_ratio(costs(*a), costs(*b), paired=True)
    assert ratio is not None
    assert ratio.bound == bound
    assert (ratio.low == 0.0) == (bound == AT_MOST)
    assert (ratio.high == math.inf) == (bound == AT_LEAST)


def test_a_failure_counts_with_its_budget() -> None:
    ratio = cost_ratio(
        costs(50, 50, 50), costs(math.inf, math.inf, math.inf, budget=400), paired=True
    )
    assert ratio is not None
    assert (ratio.value, ratio.bound) == (pytest.approx(50 / 400), AT_MOST)


def test_nobody_is_charged_for_a_larger_budget_of_failures() -> None:
    """Neither arrives but for one run of B.

    A was given ten times the budget, and that is no sign of being worse.
    """
    a, b = (
        costs(math.inf, math.inf, math.inf, budget=4000),
        costs(380, math.inf, math.inf, budget=400),
    )
    ratio = cost_ratio(a, b, paired=True)
    assert ratio is not None
    assert ratio.side_of(1.0) == 0
    assert ratio.value == pytest.approx((400 / 380) ** (1 / 3))


def test_there_is_no_ratio_where_nobody_arrived_or_nothing_was_needed() -> None:
    assert cost_ratio(costs(math.inf, math.inf), costs(math.inf, math.inf), paired=True) is None
    assert cost_ratio(costs(0, 0), costs(10, 20), paired=True) is None


def test_one_run_has_a_ratio_and_no_interval() -> None:
    ratio = cost_ratio(costs(50), costs(100), paired=True)
    assert ratio is not None
    assert ratio.value == pytest.approx(0.5)
    assert not ratio.known


def test_two_runs_with_a_failure_among_them_have_no_interval() -> None:
    ratio = cost_ratio(costs(50, 60), costs(100, math.inf), paired=True)
    assert ratio is not None
    assert not ratio.known


def test_a_run_that_broke_off_is_given_the_rest_of_its_steps_at_its_own_speed() -> None:
    inf = math.inf
    rows = [
        {"steps_spent": 10.0, "seconds": inf, "seconds_before": 0.0, "seconds_spent": 2.0},
        {"steps_spent": 30.0, "seconds": 3.0, "seconds_before": 2.0, "seconds_spent": 3.0},
        {"steps_spent": 100.0, "seconds": inf, "seconds_before": 1.0, "seconds_spent": 10.0},
        {"steps_spent": 0.0, "seconds": inf, "seconds_before": 0.0, "seconds_spent": 0.0},
    ]
    interval = restricted(
        rows, "seconds", ["diverged", "done", "done", "oom"], [100, 100, 100, 100]
    )
    np.testing.assert_allclose(interval.spent, [20.0, 3.0, 10.0, NAN])  # 0.2 s a step for 100 steps
    np.testing.assert_allclose(interval.before, [20.0, 2.0, 10.0, NAN])
    assert list(interval.reached) == [False, True, False, False]
    other = Costs(np.array([5.0] * 4), np.array([4.0] * 4), np.array([True] * 4))
    # what never made a step costs as much as the dearest
    ratio = cost_ratio(interval, other, paired=True)
    assert ratio is not None
    assert ratio.value == pytest.approx((20 / 5 * 3 / 5 * 10 / 5 * 20 / 5) ** 0.25)


def test_differences_are_students_and_welchs() -> None:
    a, b = [0.91, 0.93, 0.9], [0.85, 0.9, 0.86]
    paired = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    welch = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert difference(np.array(a), np.array(b), paired=True)[1:3] == pytest.approx(
        (paired.low, paired.high)
    )
    assert difference(np.array(a), np.array(b), paired=False)[1:3] == pytest.approx(
        (welch.low, welch.high)
    )
    assert not difference(np.array([1.0]), np.array([2.0]), paired=True).known


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("far", [-1e80, -1e160, -1e300])
def test_differences_of_values_whose_powers_overflow(far: float, paired: bool) -> None:
    """A fall without end, as on a cubic saddle: the interval of the same values in another unit."""
    fallen, reached = np.array([1.0, 2.0, 3.5]), np.array([1.0, 2.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = difference(far * fallen, reached, paired=paired)[:3]
    centre, low, high = difference(fallen, 0 * reached, paired=paired)[:3]
    assert interval == pytest.approx((far * centre, far * high, far * low))
    equal = np.full(3, far)
    assert difference(equal, equal, paired=paired)[:3] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("seeds", [3, 5])
def test_equals_are_told_apart_no_more_often_than_the_level_says(chance: float, seeds: int) -> None:
    """The truth is a ratio of 1; failures are frequent, costs correlated within a seed.

    Binomial bound at 4 sigma.
    """
    generator, decided, total = np.random.default_rng(seeds), 0, 300
    for _ in range(total):
        shared = generator.normal(size=seeds)
        sides = []
        for _ in "ab":
            seen = 80 * np.exp(0.2 * shared + 0.25 * generator.normal(size=seeds))
            seen[generator.random(seeds) < chance] = math.inf
            sides.append(costs(*np.where(seen > 200, math.inf, seen), resolution=0.5, budget=200))
        ratio = cost_ratio(sides[0], sides[1], paired=True)
        decided += ratio is not None and ratio.known and ratio.side_of(1.0) != 0
    assert decided / total < 0.05 + 4 * math.sqrt(0.05 * 0.95 / total)
    if chance == 0.0:
        assert decided / total > 0.05 - 4 * math.sqrt(0.05 * 0.95 / total)


def test_the_interval_holds_a_planted_ratio_as_often_as_it_says() -> None:
    generator, held, total = np.random.default_rng(0), 0, 500
    for _ in range(total):
        shared = generator.normal(size=5)
        a, b = (
            scale * np.exp(0.3 * shared + 0.2 * generator.normal(size=5)) for scale in (40, 100)
        )
        ratio = cost_ratio(costs(*a), costs(*b), paired=True)
        held += ratio is not None and ratio.low <= 0.4 <= ratio.high
    assert 0.92 <= held / total <= 0.98
