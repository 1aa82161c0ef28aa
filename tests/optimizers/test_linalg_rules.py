"""Damping rules and the backtracking line search."""

from __future__ import annotations

from math import inf, isnan, nan

import pytest

from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.line_search import armijo


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (-1.0, 3.0),
        (0.2, 3.0),
        (0.25, 2.0),
        (0.5, 2.0),
        (0.75, 2.0),
        (0.9, 4 / 3),
        (nan, 3.0),
        (inf, 3.0),
        (-inf, 3.0),
    ],
)
def test_ratio_rule(ratio: float, expected: float) -> None:
    assert RatioRule()(2.0, ratio) == pytest.approx(expected)


def test_ratio_rule_stays_within_its_bounds_and_leaves_zero() -> None:
    rule = RatioRule(smallest=1e-3, largest=1e3)
    assert rule(1e3, 0.0) == 1e3
    assert rule(1e-3, 1.0) == 1e-3
    assert rule(0.0, 0.0) == 0.0
    assert rule(0.0, 1.0) == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"increase": 1.0},
        {"decrease": 1.0},
        {"decrease": 0.0},
        {"low": 0.0},
        {"low": 0.8},
        {"increase": nan},
    ],
)
def test_ratio_rule_rejects(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need"):
        RatioRule(**options)


def test_reduction_ratio() -> None:
    eps = 2.2e-16
    assert reduction_ratio(10.0, 8.0, 4.0, eps) == 0.5
    assert reduction_ratio(10.0, 12.0, 4.0, eps) == -0.5
    for bad in (nan, inf):
        assert isnan(reduction_ratio(10.0, bad, 1.0, eps))
        assert isnan(reduction_ratio(bad, 10.0, 1.0, eps))
    assert reduction_ratio(1.0, 1.0 + 1e-15, 1e-16, eps) == 1.0  # round-off: nothing can be said
    assert reduction_ratio(0.0, 0.0, 0.0, eps) == 1.0
    assert reduction_ratio(1.0, 1.1, 1e-16, eps) < 0  # a rise that is not round-off
    assert isnan(reduction_ratio(1.0, 0.5, 0.0, eps))


def test_a_rise_that_was_predicted_is_no_success() -> None:
    assert not reduction_ratio(1.0, 2.0, -1.0, 2.2e-16) > 0
    assert not reduction_ratio(1.0, 0.5, -1.0, 2.2e-16) > 0


def test_armijo_takes_the_first_sufficient_step() -> None:
    tried: list[float] = []

    def value(alpha: float) -> float:
        tried.append(alpha)
        return (alpha - 0.3) ** 2

    assert armijo(value, 0.09, -0.6) == (0.5, pytest.approx(0.04))
    assert tried == [1.0, 0.5]
    assert armijo(lambda a: (a - 0.3) ** 2, 0.09, -0.6, sufficient=0.5) == (
        0.25,
        pytest.approx(0.0025),
    )
    assert armijo(lambda a: (a - 0.3) ** 2, 0.09, -0.6, first=0.3) == (0.3, 0.0)


def test_armijo_gives_up_and_never_takes_what_is_not_finite() -> None:
    tried: list[float] = []

    def rising(alpha: float) -> float:
        tried.append(alpha)
        return 1 + alpha

    assert armijo(rising, 1.0, -1.0, max_trials=4, shrink=0.1) is None
    assert tried == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert armijo(lambda _: nan, 1.0, -1.0) is None
    assert armijo(lambda _: -inf, 1.0, -1.0) is None
    assert armijo(lambda a: nan if a > 0.3 else 0.0, 1.0, -1.0) == (0.25, 0.0)


def test_armijo_accepts_no_change_on_a_zero_slope() -> None:
    assert armijo(lambda _: 1.0, 1.0, 0.0) == (1.0, 1.0)
