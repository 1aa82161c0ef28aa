"""The expected best of k trials.

Against all draws there are, a closed form, and the order that must hold.
"""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest

from suite import stats

TRIALS = [0.31, 0.74, 0.52, 0.74, 0.10]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_with_replacement_it_is_the_mean_over_all_draws(k: int) -> None:
    """Dodge et al. (2019): E[V*_k] = sum_v v (P(V <= v)^k - P(V < v)^k), here with a tie."""
    everything = [max(drawn) for drawn in product(TRIALS, repeat=k)]
    assert stats.expected_best(TRIALS, k) == pytest.approx(np.mean(everything), rel=1e-12)
    smallest = [min(drawn) for drawn in product(TRIALS, repeat=k)]
    assert stats.expected_best(TRIALS, k, mode="min") == pytest.approx(np.mean(smallest), rel=1e-12)
    curve = stats.budget_curve(TRIALS, budgets=[k], draws=10)
    assert curve.loc[k, "std"] == pytest.approx(np.std(everything), rel=1e-10)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_without_replacement_it_is_the_mean_over_all_subsets(k: int) -> None:
    """Tang et al. (2020): the U-statistic.

    At k = n it is the best trial, where Dodge's stays below it.
    """
    subsets = [max(chosen) for chosen in combinations(TRIALS, k)]
    assert stats.expected_best(TRIALS, k, replace=False) == pytest.approx(
        np.mean(subsets), rel=1e-12
    )
    lowest = [min(chosen) for chosen in combinations(TRIALS, k)]
    assert stats.expected_best(TRIALS, k, mode="min", replace=False) == pytest.approx(
        np.mean(lowest), rel=1e-12
    )
    if k > 1:
        assert stats.expected_best(TRIALS, k) < stats.expected_best(TRIALS, k, replace=False)


def test_without_replacement_it_has_no_bias_and_with_replacement_it_has() -> None:
    """Uniform trials: the truth is k / (k + 1)."""
    generator, k = np.random.default_rng(0), 8
    samples = generator.random((4000, 10))
    fair, dodge = (
        [stats.expected_best(row, k, replace=replace) for row in samples]
        for replace in (False, True)
    )
    error = np.std(fair) / math.sqrt(len(fair))
    assert np.mean(fair) == pytest.approx(k / (k + 1), abs=4 * error)
    assert np.mean(dodge) < k / (k + 1) - 0.02


def test_many_trials_do_not_overflow() -> None:
    values = np.arange(3000.0)
    assert stats.expected_best(values, 1500, replace=False) == pytest.approx(
        3001 * 1500 / 1501 - 1, rel=1e-9
    )
    assert stats.expected_best(values, 3000, replace=False) == pytest.approx(2999, rel=1e-9)


@pytest.mark.parametrize("failed", [math.nan, -math.inf])
def test_a_failure_takes_its_place_as_the_worst(failed: float) -> None:
    values = [0.5, failed, 0.9]
    assert stats.expected_best(values, 1) == pytest.approx((0.5 + 0.5 + 0.9) / 3)
    assert stats.expected_best(values, 1, worst=0.1) == pytest.approx((0.5 + 0.1 + 0.9) / 3)
    assert stats.expected_best(values, 2) < stats.expected_best([0.5, 0.9], 2)
    assert stats.expected_best(values, 3, replace=False) == pytest.approx(0.9)


def test_a_failed_loss_is_infinite_and_may_have_a_value() -> None:
    assert stats.expected_best([2.0, math.inf, 1.0], 1, mode="min") == pytest.approx(5 / 3)
    assert stats.expected_best([2.0, math.inf, 1.0], 1, mode="min", worst=9.0) == pytest.approx(4.0)
    assert stats.expected_best([math.nan] * 3, 2) == -math.inf
    assert stats.expected_best([math.nan] * 3, 2, replace=False) == -math.inf
    assert stats.expected_best([math.nan] * 3, 2, mode="min") == math.inf
    assert stats.expected_best([math.nan] * 3, 2, worst=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_budget_curve_improves_and_lies_in_its_interval(mode: str, replace: bool) -> None:
    values = np.random.default_rng(1).normal(size=16)
    curve = stats.budget_curve(values, mode, replace=replace, draws=400)
    assert curve.index.tolist() == list(range(1, 17))
    assert curve.loc[5, "expected"] == stats.expected_best(values, 5, mode, replace=replace)
    change = curve["expected"].diff().iloc[1:]
    assert (change > 0).all() if mode == "max" else (change < 0).all()
    assert ((curve["low"] <= curve["expected"]) & (curve["expected"] <= curve["high"])).all()
    assert (curve["low"] < curve["high"]).all()
    mirrored = stats.budget_curve(
        -values, "min" if mode == "max" else "max", replace=replace, draws=400
    )
    np.testing.assert_allclose(
        mirrored[["expected", "low", "high"]], -curve[["expected", "high", "low"]], rtol=1e-12
    )


def test_curves_of_one_trial_and_of_failures_alone_have_no_interval() -> None:
    one = stats.budget_curve([0.5])
    assert one["expected"].tolist() == [0.5]
    assert one[["low", "high"]].isna().to_numpy().all()
    failed = stats.budget_curve([math.nan, math.nan], mode="min")
    assert failed["expected"].tolist() == [math.inf, math.inf]
    assert failed[["std", "low", "high"]].isna().to_numpy().all()


@pytest.mark.parametrize(
    ("values", "k", "message"),
    [
        ([], 1, "at least one trial"),
        ([1.0, 2.0], 3, "from 1 to 2, the number of trials, got 3"),
        ([1.0, 2.0], 0, "got 0"),
        ([1.0, 2.0], 1.5, "got 1.5"),
        ([1.0, math.inf], 1, "infinitely good"),
    ],
)
def test_impossible_budgets_are_refused(values: list[float], k: int, message: str) -> None:
    for replace in (True, False):
        with pytest.raises(ValueError, match=message):
            stats.expected_best(values, k, replace=replace)
    with pytest.raises(ValueError, match="'min' or 'max'"):
        stats.expected_best([1.0], 1, mode="best")
