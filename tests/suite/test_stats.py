"""The statistics and the texts of numbers, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from suite import stats
from suite.tables import formats


def test_mean_and_sample_deviation() -> None:
    assert stats.mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert stats.mean_std([1e200, 2e200, 3e200]) == pytest.approx((2e200, 1e200))


def test_a_single_value_has_neither_deviation_nor_interval() -> None:
    assert math.isnan(stats.mean_std([5.0])[1])
    assert all(map(math.isnan, stats.mean_std([])))
    assert stats.bootstrap_interval([5.0]) is None


def test_the_interval_of_three_values_reaches_from_the_smallest_to_the_largest() -> None:
    # each of them is the whole resample with probability 1/27 > 2.5 %
    assert stats.bootstrap_interval([1.0, 2.0, 4.0]) == (1.0, 4.0)


def test_the_interval_is_repeatable_and_narrows_with_more_values() -> None:
    few, many = [0.0, 1.0] * 3, [0.0, 1.0] * 50
    assert stats.bootstrap_interval(few) == stats.bootstrap_interval(few)
    low, high = stats.bootstrap_interval(many) or (math.nan, math.nan)
    assert 0.38 < low < 0.45
    assert 0.55 < high < 0.62


@pytest.mark.parametrize(
    ("direction", "expected"), [("max", [True, False, False]), ("min", [False, True, True])]
)
def test_what_overlaps_the_best_interval_is_not_told_from_it(
    direction: str, expected: list[bool]
) -> None:
    groups = [[0.1, 0.2], [0.8, 0.9], [0.85, 0.95]]
    assert stats.apart_from_best(groups, direction) == expected


def test_single_runs_are_equal_only_where_they_are_the_same() -> None:
    assert stats.apart_from_best([[0.9], [0.89], [0.9]], "max") == [False, True, False]
    assert stats.apart_from_best([], "max") == []


@pytest.mark.parametrize(
    ("reached", "total", "median"),
    [
        ([10, 30], 3, 30.0),
        ([10], 3, math.inf),
        ([10, 20], 2, 15.0),
        ([10], 2, math.inf),
        ([], 3, math.inf),
    ],
)
def test_failures_count_as_infinite_in_a_median(
    reached: list[float], total: int, median: float
) -> None:
    assert stats.median_with_failures(reached, total) == median


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.9, 0.91, 0.92], "0.9100 ± 0.0100 (3)"),
        ([87.123, 87.456], "87.29 ± 0.24 (2)"),
        ([0.5], "0.5000 (1)"),
        ([1e-20, 3e-20], "2.000e-20 ± 1.4e-20 (2)"),
        ([0.0, 0.0], "0 ± 0 (2)"),
        ([123456.0], "1.235e+05 (1)"),
        ([-1.5, -2.5], "-2.000 ± 0.707 (2)"),
    ],
)
def test_mean_as_text(values: list[float], text: str) -> None:
    assert formats.mean_text(values) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (512, "512 B"),
        (2048, "2.0 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (5 * 2**30, "5.00 GiB"),
        (2000 * 2**30, "2000.00 GiB"),
    ],
)
def test_bytes_as_text(value: float, text: str) -> None:
    assert formats.bytes_text(value) == text


def test_counts_and_ratios_as_text() -> None:
    assert [formats.count_text(value) for value in (20.0, 20.5, math.inf)] == ["20", "20.5", "∞"]
    assert [formats.ratio_text(value) for value in (1.0, 15.04, 1e18)] == [
        "1.00",
        "15.04",
        "1.0e+18",
    ]
