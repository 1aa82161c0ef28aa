"""Where the truth is known: how often a 95 % interval holds it, in 500 simulated experiments
each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from suite import stats

EXPERIMENTS = 500


@pytest.mark.parametrize(("n", "expanded"), [(30, False), (50, False), (10, True), (30, True)])
def test_the_bootstrap_interval_of_a_mean_covers_it(n: int, expanded: bool) -> None:
    generator = np.random.default_rng([n, expanded])
    hits = 0
    for values in generator.normal(3.0, 2.0, (EXPERIMENTS, n)):
        low, high = stats.bootstrap_interval(values, expanded=expanded, draws=1000) or (
            math.nan,
            math.nan,
        )
        hits += low <= 3.0 <= high
    assert 0.92 <= hits / EXPERIMENTS <= 0.98


@pytest.mark.parametrize(("n", "most"), [(3, 0.80), (5, 0.88)])
def test_with_few_seeds_it_covers_less_as_its_docstring_says(n: int, most: float) -> None:
    generator = np.random.default_rng(n)
    intervals = [
        stats.bootstrap_interval(row, draws=1000) for row in generator.normal(size=(EXPERIMENTS, n))
    ]
    covered = np.mean([low <= 0 <= high for low, high in intervals])  # type: ignore[misc]
    assert 0.7 < covered < most


def simulated(
    generator: np.random.Generator, n: int, paired: bool, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Costs of two methods, the first typically at 0.6 of the second.

    Pairs share the luck of their seed.
    """
    if kind == "gamma":
        return 0.6 * generator.gamma(4, size=n), generator.gamma(4, size=n)
    luck = generator.normal(0, 0.25 if paired else 0, n)
    return 0.6 * np.exp(luck + generator.normal(0, 0.3, n)), np.exp(
        luck + generator.normal(0, 0.2, n)
    )


@pytest.mark.parametrize("kind", ["log-normal", "gamma"])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_ratio_of_costs_is_covered_from_three_seeds_on(n: int, paired: bool, kind: str) -> None:
    generator = np.random.default_rng([n, paired])
    interval = [
        stats.ratio_interval(*simulated(generator, n, paired, kind), paired=paired)
        for _ in range(EXPERIMENTS)
    ]
    assert 0.92 <= np.mean([each.low <= 0.6 <= each.high for each in interval]) <= 0.98


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_with_failures_it_is_covered_at_least_as_often(n: int, paired: bool) -> None:
    """Runs slower than a common budget never reach the target: about a quarter of B's, few of
    A's."""
    generator = np.random.default_rng([n, paired, 7])
    hits = decided = failures = 0
    for _ in range(EXPERIMENTS):
        a, b = (
            np.where(cost > 1.2, math.inf, cost)
            for cost in simulated(generator, n, paired, "log-normal")
        )
        interval = stats.ratio_interval(a, b, paired=paired, budgets=(1.2, 1.2))
        hits += interval.low <= 0.6 <= interval.high
        decided += interval.high < 1
        failures += bool(np.isinf([a, b]).any())
    assert failures > EXPERIMENTS / 3
    assert hits / EXPERIMENTS >= 0.94
    assert decided > {3: 0.1, 5: 0.3, 10: 0.6}[n] * EXPERIMENTS  # not by saying nothing


@pytest.mark.parametrize("n", [3, 5])
def test_equal_methods_are_rarely_told_apart(n: int) -> None:
    """The verdict of a comparison: at most 5 % false ones, and a little noise."""
    generator = np.random.default_rng(n)
    for paired in (True, False):
        false = 0
        for _ in range(EXPERIMENTS):
            a, b = generator.lognormal(0, 0.4, (2, n))
            interval = stats.ratio_interval(a, b, paired=paired)
            false += not interval.low <= 1 <= interval.high
        assert false / EXPERIMENTS <= 0.075
