"""Ratios of costs and P(A beats B).

Against scipy's tests, tables of critical values and brute force.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats as scipy_stats

from suite import stats
from suite.stats.ratios import rank_sum_skip

INF = math.inf


def test_paired_costs_give_students_interval_of_the_log_ratios() -> None:
    a, b = np.array([10.0, 12.0, 15.0, 9.0]), np.array([20.0, 30.0, 25.0, 21.0])
    interval = stats.ratio_interval(a, b, paired=True)
    theirs = scipy_stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    assert interval.ratio == pytest.approx(scipy_stats.gmean(a / b), rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx(
        (np.exp(theirs.low), np.exp(theirs.high)), rel=1e-10
    )
    assert interval.method == "Student's t on paired log ratios"


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_unpaired_costs_give_welchs_interval(level: float) -> None:
    a, b = np.array([10.0, 12.0, 15.0]), np.array([20.0, 30.0, 25.0, 21.0, 90.0])
    interval = stats.ratio_interval(a, b, paired=False, level=level)
    theirs = scipy_stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval(level)
    assert interval.ratio == pytest.approx(scipy_stats.gmean(a) / scipy_stats.gmean(b), rel=1e-12)
    assert (interval.low, interval.high) == pytest.approx(
        (np.exp(theirs.low), np.exp(theirs.high)), rel=1e-10
    )


def test_the_other_way_round_it_is_the_reciprocal() -> None:
    cases = [
        ([1.0, 2.0, 4.0], [3.0, 5.0, 4.5]),
        ([1.0, 2.0, 2.5, 1.2, 3.0], [3.0, INF, 4.0, 8.0, INF]),
    ]
    for a, b in cases:
        for paired in (True, False):
            forth, back = (
                stats.ratio_interval(a, b, paired=paired),
                stats.ratio_interval(b, a, paired=paired),
            )
            assert back.ratio == pytest.approx(1 / forth.ratio, rel=1e-9)
            assert back.low == pytest.approx(1 / forth.high if forth.high < INF else 0.0, rel=1e-9)
            assert back.high == pytest.approx(1 / forth.low if forth.low else INF, rel=1e-9)


def test_a_single_seed_gives_no_interval() -> None:
    for a, b in (([2.0], [4.0]), ([2.0], [INF])):
        for paired in (True, False):
            interval = stats.ratio_interval(a, b, paired=paired)
            assert interval.ratio == (0.5 if b[0] < INF else 0.0)
            assert math.isnan(interval.low)
            assert math.isnan(interval.high)
            assert "no interval" in interval.method
    assert math.isnan(stats.ratio_interval([2.0], [4.0, 5.0], paired=False).low)


def test_costs_that_agree_give_a_point_unless_the_resolution_is_told() -> None:
    a, b = [100.0] * 3, [200.0] * 3
    assert stats.ratio_interval(a, b, paired=True)[:3] == pytest.approx((0.5, 0.5, 0.5), rel=1e-12)
    assert stats.ratio_interval(a, b, paired=False)[:3] == pytest.approx((0.5, 0.5, 0.5), rel=1e-12)
    for paired in (True, False):
        interval = stats.ratio_interval(a, b, paired=paired, resolution=(20.0, 50.0))
        assert interval[:3] == pytest.approx((0.5, 80 / 200, 100 / 150), rel=1e-12)
        assert "resolution" in interval.method
    alone = stats.ratio_interval([100.0], [200.0], paired=True, resolution=(100.0, 200.0))
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    everything = stats.ratio_interval(a, b, paired=True, resolution=(100.0, 200.0))
    assert (everything.low, everything.high) == (0.0, INF)


# critical values U of the two-sided 5 % test, as printed in tables of the Mann-Whitney test
@pytest.mark.parametrize(
    ("m", "n", "critical"),
    [(4, 4, 0), (5, 5, 2), (5, 8, 6), (8, 5, 6), (10, 10, 23), (12, 7, 18), (20, 20, 127)],
)
def test_rank_sums_cut_off_what_the_tables_say(m: int, n: int, critical: int) -> None:
    assert rank_sum_skip(m, n, 0.95) == critical


def test_few_runs_cannot_tell() -> None:
    assert rank_sum_skip(3, 3, 0.95) is None
    assert rank_sum_skip(3, 3, 0.9) == 0
    assert rank_sum_skip(200, 200, 0.95) == pytest.approx(
        20000 - 1.96 * math.sqrt(200 * 200 * 401 / 12), abs=3
    )
    for paired in (True, False):
        interval = stats.ratio_interval([1.0, 2.0, 3.0], [4.0, INF, 5.0], paired=paired)
        assert (interval.low, interval.high) == (0.0, INF)
        assert "too few runs" in interval.method


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_by_ranks_holds_the_ratios_that_scipy_does_not_reject(seed: int) -> None:
    """With one failure late enough to be the largest, the exact Mann-Whitney test at 5 % decides
    the same."""
    generator = np.random.default_rng(seed)
    a, b = generator.lognormal(0, 0.5, 6), np.append(generator.lognormal(1, 0.5, 6), INF)
    interval = stats.ratio_interval(a, b, paired=False, budgets=(1e12, 1e12))
    assert 0 < interval.low < interval.ratio < interval.high
    for factor in np.geomspace(interval.low / 3, interval.high * 3, 41):
        p = scipy_stats.mannwhitneyu(
            a / factor, np.where(np.isinf(b), 1e15, b), method="exact"
        ).pvalue
        assert (p > 0.05) == (interval.low < factor < interval.high), factor


def test_all_against_none_is_told_with_five_seeds() -> None:
    a, b = [10.0, 11.0, 12.0, 13.0, 14.0], [INF] * 5
    interval = stats.ratio_interval(a, b, paired=False)
    assert interval.ratio == 0.0
    assert interval.low == 0.0
    assert (
        0.99 < interval.high < 1
    )  # later than the slowest that reached it, by how much nobody knows
    assert stats.ratio_interval(a, b, paired=True) == interval  # pairs of failures say nothing more
    budgeted = stats.ratio_interval(a, b, paired=False, budgets=(7.0, 140.0))
    assert budgeted.high == pytest.approx(0.1, rel=1e-9)
    assert stats.ratio_interval(b, a, paired=False).low > 1


def test_two_runs_far_apart_give_an_interval_without_an_end() -> None:
    interval = stats.ratio_interval([1e-200, 1e200], [1.0, 1.0], paired=True)
    assert interval.ratio == pytest.approx(1)
    assert (interval.low, interval.high) == (0.0, INF)


@pytest.mark.parametrize(
    "asked", [{"resolution": (-1.0, 0.0)}, {"budgets": (0.0, 1.0)}, {"budgets": (1.0, -2.0)}]
)
def test_impossible_budgets_and_resolutions_are_refused(
    asked: dict[str, tuple[float, float]],
) -> None:
    with pytest.raises(ValueError, match="budgets must be positive and resolution not negative"):
        stats.ratio_interval([1.0, INF], [2.0, 3.0], paired=True, **asked)  # type: ignore[arg-type]


def test_where_both_fail_nothing_is_told() -> None:
    nothing = stats.ratio_interval([INF, INF], [INF, INF], paired=True)
    assert math.isnan(nothing.ratio)
    assert nothing[1:] == (0.0, INF, "no run reached the target")
    mostly = stats.ratio_interval([INF] * 6 + [1.0], [INF] * 6 + [2.0], paired=True)
    assert math.isnan(mostly.ratio)
    assert (mostly.low, mostly.high) == (0.0, INF)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [1.0], "a is empty"),
        ([0.0, 1.0], [1.0, 2.0], "a must be positive, got 0"),
        ([1.0, 2.0], [-1.0, 2.0], "b must be positive, got -1"),
        ([1.0, 2.0], [1.0, math.nan], "b holds NaN"),
        ([1.0, 2.0], [1.0], "one of each a seed, got 2 and 1"),
    ],
)
def test_costs_that_have_no_ratio_are_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.ratio_interval(a, b, paired=True)


@pytest.mark.parametrize("seed", range(10))
def test_the_probability_of_improvement_counts_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 5, 7).astype(float), generator.integers(0, 5, 4).astype(float)
    a[0] = b[0] = INF
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in product(a, b)]
    assert stats.probability_of_improvement(a, b) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert stats.probability_of_improvement(a, b, mode="min") == pytest.approx(
        1 - np.mean(pairs), rel=1e-12
    )
    u = scipy_stats.mannwhitneyu(a, b).statistic
    assert stats.probability_of_improvement(a, b) == pytest.approx(u / 28, rel=1e-12)


def test_the_probability_of_rliables_test() -> None:
    """google-research/rliable, tests/rliable/metrics_test.py: 1/3, the mean over two tasks."""
    x, y = np.array([[1, 2], [2, 2], [1, 1], [2, 1]]), np.array([[1, 1], [2, 2], [3, 3]])
    interval = stats.mean_improvement(dict(enumerate(x.T)), dict(enumerate(y.T)))
    assert interval.probability == pytest.approx(1 / 3, rel=1e-12)
    assert interval.problems == 2
    assert interval.low < 1 / 3 < interval.high


def test_improvement_over_problems_uses_those_that_both_ran() -> None:
    a, b = {"p": [1.0, 2.0], "q": [9.0]}, {"p": [3.0, 4.0], "r": [0.0]}
    interval = stats.mean_improvement(a, b, mode="min")
    assert interval == (1.0, 1.0, 1.0, 1)
    assert stats.mean_improvement(a, b).probability == 0
    alone = stats.mean_improvement({"q": [9.0]}, {"q": [1.0, 2.0]})
    assert alone.probability == 1
    assert math.isnan(alone.low)
    with pytest.raises(ValueError, match="no problem was run by both"):
        stats.mean_improvement({"p": [1.0]}, {"q": [1.0]})


def test_the_interval_of_an_improvement_lies_round_it_and_turns_with_the_mode() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.5, 1, 12), generator.normal(0, 1, 9)
    low, high = stats.improvement_interval(a, b) or (1, 0)
    assert 0 < low < stats.probability_of_improvement(a, b) < high < 1
    turned = stats.improvement_interval(a, b, mode="min") or (1, 0)
    assert turned == pytest.approx((1 - high, 1 - low), rel=1e-12)
    assert stats.improvement_interval([1.0], [2.0, 3.0]) is None
    with pytest.raises(ValueError, match="'min' or 'max'"):
        stats.probability_of_improvement([1.0], [2.0], mode="larger")
