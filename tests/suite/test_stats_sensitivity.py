"""Sensitivity to the learning rate, the search space and the seed, on curves whose good region is
known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from suite import stats

RATES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


def test_each_rate_stands_for_its_cell_of_the_log_axis() -> None:
    sensitivity = stats.rate_sensitivity(RATES, [9.0, 1.04, 1.0, 1.05, 9.0], within=0.05)
    assert sensitivity.decades == pytest.approx(3)
    assert sensitivity.share == pytest.approx(3 / 4)
    assert (sensitivity.low, sensitivity.high) == pytest.approx((10**-3.5, 10**-0.5))
    assert (sensitivity.best_rate, sensitivity.best) == (1e-2, 1.0)


def test_a_second_good_region_counts_for_the_share_only() -> None:
    sensitivity = stats.rate_sensitivity(RATES, [1.0, 5.0, 1.0, 1.01, math.nan], within=0.05)
    assert sensitivity.best_rate == 1e-4
    assert sensitivity.decades == pytest.approx(0.5)
    assert sensitivity.share == pytest.approx((0.5 + 2) / 4)


def test_the_space_may_reach_beyond_the_rates_that_were_tried() -> None:
    sensitivity = stats.rate_sensitivity(RATES, [9, 9, 9, 9, 1], space=(1e-5, 100.0))
    assert sensitivity.decades == pytest.approx(2.5)
    assert sensitivity.share == pytest.approx(2.5 / 7)
    assert sensitivity.high == pytest.approx(100)


def test_larger_is_better_where_the_mode_says_so_and_failures_are_bad() -> None:
    sensitivity = stats.rate_sensitivity(
        RATES, [0.1, 0.90, 0.86, -math.inf, math.nan], mode="max", within=0.05
    )
    assert sensitivity.decades == pytest.approx(2)
    assert sensitivity.best_rate == 1e-3
    assert sensitivity.best == 0.9


def test_several_seeds_count_with_their_median_and_a_failing_half_spoils_a_rate() -> None:
    rates = [0.1] * 3 + [1.0] * 3
    sensitivity = stats.rate_sensitivity(
        rates, [1.0, 1.1, 5.0, 1.0, math.inf, math.nan], within=0.2
    )
    assert (sensitivity.best_rate, sensitivity.best, sensitivity.share) == (0.1, 1.1, 0.5)


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_neither_the_unit_of_the_rate_nor_of_the_loss_matters(factor: float) -> None:
    values = np.random.default_rng(0).uniform(1, 1.2, 5)
    one = stats.rate_sensitivity(RATES, values)
    for other in (
        stats.rate_sensitivity([factor * rate for rate in RATES], values),
        stats.rate_sensitivity(RATES, factor * values),
        stats.rate_sensitivity(RATES[::-1], values[::-1]),
    ):
        assert (other.share, other.decades) == pytest.approx((one.share, one.decades), rel=1e-9)


def test_the_width_of_a_parabola_is_found_to_a_cell() -> None:
    """Loss 1 + x^2 in decades x: within 25 % for |x| <= 1/2, a width of one decade."""
    rates = np.geomspace(1e-3, 1e3, 242)
    sensitivity = stats.rate_sensitivity(rates, 1 + np.log10(rates) ** 2, within=0.25)
    assert sensitivity.decades == pytest.approx(1.0, abs=6 / 240)
    assert sensitivity.share == pytest.approx(1 / 6, abs=1 / 240)


def test_one_rate_has_no_range() -> None:
    sensitivity = stats.rate_sensitivity([0.1], [1.0])
    assert math.isnan(sensitivity.share)
    assert sensitivity.decades == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"values": [1.0]}, "one entry a run, got 5 and 1"),
        ({"rates": [0.0, 1, 2, 3, 4]}, "rates must be positive"),
        ({"values": [math.nan] * 5}, "every run failed"),
        ({"space": (1e-3, 1.0)}, "range .low, high. that holds all rates"),
        ({"within": -0.1}, "within must not be negative"),
        ({"mode": "best"}, "'min' or 'max'"),
        ({"rates": [], "values": []}, "got 0 and 0"),
    ],
)
def test_rates_that_say_nothing_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.rate_sensitivity(**{"rates": RATES, "values": [1.0, 2, 3, 4, 5], **asked})  # type: ignore[arg-type]


def test_the_share_of_good_trials_has_the_exact_binomial_interval() -> None:
    share = stats.good_share([0.9, 0.88, 0.5, math.nan, 0.1, 0.86, -math.inf, 0.2], within=0.05)
    assert (share.share, share.trials) == (3 / 8, 8)
    low, high = scipy_stats.beta.ppf(0.025, 3, 6), scipy_stats.beta.ppf(0.975, 4, 5)
    assert (share.low, share.high) == pytest.approx((low, high), rel=1e-6)
    everything = stats.good_share([1.0, 1.0], mode="min")
    assert (everything.share, everything.high) == (1.0, 1.0)


def test_the_share_of_a_random_search_is_the_volume_of_the_good_region() -> None:
    """Two hyperparameters, loss 1 + x^2 + y^2 on [-1, 1]^2.

    Within 25 % inside radius 1/2, a share of pi / 16.
    """
    points = np.random.default_rng(1).uniform(-1, 1, (4000, 2))
    share = stats.good_share(1 + (points**2).sum(axis=1), mode="min", within=0.25)
    assert share.low < math.pi / 16 < share.high
    assert share.high - share.low < 0.03


def test_the_spread_over_seeds() -> None:
    sensitivity = stats.seed_sensitivity([1.0, 2.0, 3.0, 4.0, math.inf])
    assert (sensitivity.runs, sensitivity.failed, sensitivity.median, sensitivity.iqr) == (
        5,
        1,
        2.5,
        1.5,
    )
    assert (sensitivity.smallest, sensitivity.largest) == (1.0, 4.0)
    assert sensitivity.std == pytest.approx(math.sqrt(5 / 3))
    assert sensitivity.relative == pytest.approx(math.sqrt(5 / 3) / 2.5)


def test_one_seed_has_no_spread() -> None:
    one = stats.seed_sensitivity([2.0, math.nan])
    assert (one.runs, one.failed, one.median) == (2, 1, 2.0)
    assert all(math.isnan(value) for value in one[3:])
    assert math.isnan(stats.seed_sensitivity([math.nan]).median)
    with pytest.raises(ValueError, match="the spread over seeds needs runs"):
        stats.seed_sensitivity([])
