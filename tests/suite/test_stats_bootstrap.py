"""Typical values and bootstrap intervals against scipy, rliable's cases and what can be worked out
by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from suite import stats
from suite.stats.bootstrap import interval_of


@pytest.mark.parametrize("n", [1, 3, 4, 7, 8, 20, 41])
def test_the_interquartile_mean_is_the_mean_without_a_quarter_on_each_side(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    cut = n // 4
    assert stats.interquartile_mean(values) == pytest.approx(
        np.sort(values)[cut : n - cut].mean(), rel=1e-12
    )
    assert stats.interquartile_mean(values) == scipy_stats.trim_mean(values, 0.25)


@pytest.mark.parametrize(
    ("table", "expected"), [([[1, 2], [2, 2], [1, 1], [2, 1]], 1.5), ([[1, 1], [2, 2], [3, 3]], 2)]
)
def test_the_interquartile_means_of_rliables_tests(
    table: list[list[float]], expected: float
) -> None:
    """google-research/rliable, tests/rliable/metrics_test.py: runs x tasks, pooled."""
    assert stats.interquartile_mean(np.array(table).ravel()) == expected


def test_outliers_do_not_move_the_interquartile_mean_and_failures_need_not_be_dropped() -> None:
    assert stats.interquartile_mean([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf]) == 4.5


def test_the_interval_is_that_of_scipy_to_the_noise_of_drawing() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=25)
    for statistic in (np.mean, np.median, stats.interquartile_mean):
        theirs = scipy_stats.bootstrap(
            (values,),
            statistic,
            vectorized=False,
            method="percentile",
            n_resamples=4000,
            rng=np.random.default_rng(5),
        ).confidence_interval
        ours = stats.bootstrap_interval(values, statistic, draws=4000)
        assert ours is not None
        width = theirs.high - theirs.low
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * width)


def test_a_statistic_of_ones_own_gives_what_the_quick_one_does() -> None:
    values = np.random.default_rng(1).normal(size=9)
    quick = stats.bootstrap_interval(values, np.median, draws=300)
    assert stats.bootstrap_interval(values, lambda row: float(np.median(row)), draws=300) == quick
    assert stats.bootstrap_interval(values, np.mean) == stats.bootstrap_interval(values)


def test_a_wider_level_contains_a_narrower_one() -> None:
    values = np.random.default_rng(2).normal(size=12)
    wide, narrow = (
        stats.bootstrap_interval(values, level=level) or (0, 0) for level in (0.99, 0.8)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_expanded_interval_of_a_mean_is_as_wide_as_students() -> None:
    values = np.array([-3.0, -1.5, -0.5, -0.2, 0.2, 0.5, 1.5, 3.0])
    low, high = stats.bootstrap_interval(values, level=0.8, expanded=True, draws=60_000) or (0, 0)
    student = scipy_stats.t.interval(0.8, 7, scale=values.std(ddof=1) / math.sqrt(8))
    assert (low, high) == pytest.approx(student, rel=0.025)
    plain = stats.bootstrap_interval(values, level=0.8, draws=60_000) or (0, 0)
    assert plain[1] - plain[0] < 0.9 * (high - low)


def test_strata_keep_the_number_of_values_of_each_task() -> None:
    # the spread is all between the tasks: drawing within them leaves none
    values, tasks = [1.0, 1.0, 1.0, 9.0, 9.0, 9.0], list("aaabbb")
    assert stats.bootstrap_interval(values, strata=tasks) == (5.0, 5.0)
    low, high = stats.bootstrap_interval(values) or (5, 5)
    assert low < 4 < 6 < high


def test_one_run_of_each_task_has_no_interval_but_one_task_with_two_has() -> None:
    assert stats.bootstrap_interval([1.0, 2.0, 3.0], strata=["a", "b", "c"]) is None
    assert stats.bootstrap_interval([1.0, 2.0, 3.0], strata=["a", "b", "b"]) == (5 / 3, 7 / 3)


def test_infinities_are_carried_and_never_mixed_into_a_bound() -> None:
    values = [1.0, 2.0, 3.0, 4.0, math.inf]
    low, high = stats.bootstrap_interval(values, np.median) or (0, 0)
    assert low in (1.0, 2.0)
    assert high == math.inf
    assert not any(math.isnan(bound) for bound in stats.bootstrap_interval(values) or (math.nan,))
    assert interval_of(np.array([1.0, 2.0, math.inf]), 0.5) == (1.0, math.inf)
    assert interval_of(np.array([1.0, 2.0, 3.0]), 0.5) == (1.5, 2.5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"level": 95}, "0.95 for a 95 % interval"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"strata": ["a"]}, "a label for each of the 3 values, got 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.bootstrap_interval([1.0, 2.0, 3.0], **asked)  # type: ignore[arg-type]


def test_a_value_that_was_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        stats.bootstrap_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="empty"):
        stats.interquartile_mean([])


def test_a_band_is_the_interval_at_each_step() -> None:
    curves = pd.DataFrame(np.random.default_rng(4).normal(size=(6, 7)), index=range(0, 60, 10))
    band = stats.curve_band(curves, draws=500)
    assert list(band.index) == list(curves.index)
    for step, values in curves.iterrows():
        assert band.loc[step, "centre"] == np.median(values)
        assert tuple(band.loc[step, ["low", "high"]]) == stats.bootstrap_interval(
            values, np.median, draws=500
        )


def test_a_band_leaves_out_runs_that_ended_and_ends_where_one_is_left() -> None:
    curves = pd.DataFrame({"a": [1.0, 2.0, 3.0, math.nan], "b": [2.0, 4.0, math.nan, math.nan]})
    band = stats.curve_band(curves, np.mean)
    assert band["centre"].tolist()[:3] == [1.5, 3.0, 3.0]
    assert band.loc[1, ["low", "high"]].tolist() == [2.0, 4.0]
    assert band.loc[2, ["low", "high"]].isna().all()
    assert band.loc[3].isna().all()


def test_a_band_of_a_single_run_has_no_width_and_no_bounds() -> None:
    band = stats.curve_band(pd.DataFrame({"seed 0": [1.0, 2.0]}))
    assert band["centre"].tolist() == [1.0, 2.0]
    assert band[["low", "high"]].isna().to_numpy().all()
    with pytest.raises(ValueError, match="empty"):
        stats.curve_band(pd.DataFrame())


def test_the_public_names_are_all_there() -> None:
    assert sorted(stats.__all__) == stats.__all__
    assert all(hasattr(stats, name) for name in stats.__all__)


def test_cells_are_redrawn_independently_and_rows_whole() -> None:
    values = np.arange(8.0)
    first, second = stats.redrawn([values, values], draws=50)
    assert first.shape == second.shape == (50, 8)
    assert not np.array_equal(first, second)
    (rows,) = stats.redrawn([np.stack([values, -values], 1)], draws=50)
    assert np.array_equal(rows[..., 0], -rows[..., 1])
