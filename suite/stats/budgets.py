"""What tuning buys: the best result to be expected after k trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.special import gammaln

from suite.stats.bootstrap import DRAWS, LEVEL, interval_of
from suite.stats.checks import Array, numbers, require_draws, require_level, require_mode


def expected_best(
    values: Iterable[float],
    k: int,
    mode: str = "max",
    *,
    replace: bool = True,
    worst: float | None = None,
) -> float:
    """The expected best of k trials drawn from the n that were made.

    E[V*_k] = sum_i v_(i) (F_i - F_(i-1)), with F_i = (i / n)^k the chance that all of k draws with
    replacement are among the i worst; without replacement F_i = C(i, k) / C(n, k). The first is
    Dodge's, biased towards worse values for k near n (at k = n it expects less than the best of the
    n); the second is Tang's unbiased U-statistic.

    The trials must be exchangeable: random or quasi-random search, not one that learns from its
    trials.

    Args:
        values: a value a trial; NaN, or the infinity on the bad side, is a failed trial.
        k: the budget, 1 to n.
        mode: `max` where larger is better, else `min`.
        replace: whether draws are with replacement.
        worst: what a failed trial is worth, e.g. the value before training; that of the worst trial
            that did not fail where it is not named. A failure is drawn like every other trial.

    Returns:
        The expectation; the infinity on the bad side where all trials failed and `worst` is not
        named.

    Raises:
        ValueError: no trial, k outside 1 ... n, a trial that is infinitely good.

    Source: Dodge et al. (2019), section 3.2, the equation for E[V*_n | n]; Tang et al. (2020),
    section 4.
    """
    ordered = _ordered(values, mode, worst)
    return _signed(_expected(_weights(ordered.size, k, replace), ordered), mode)


def budget_curve(
    values: Iterable[float],
    mode: str = "max",
    *,
    budgets: Sequence[int] | None = None,
    replace: bool = True,
    worst: float | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """The expected best after each budget, with its bootstrap interval.

    The interval redraws the trials. It is fair for k well below n and far too narrow near n, where
    it cannot exceed the best trial that was made (Tang et al. 2020; measured in
    docs/reference/statistics.md): read the left half of a budget curve.

    Args:
        values: as for `expected_best`.
        mode: as for `expected_best`.
        budgets: the k's; 1 to n where they are not named.
        replace: as for `expected_best`.
        worst: as for `expected_best`.
        level: the share of samples whose interval should hold the truth.
        draws: the number of resamples.
        seed: of the draws.

    Returns:
        Index `trials`; columns `expected`, `std` (of the best of k trials: the luck of one search;
        Dodge's error bars), `low`, `high` (of `expected`; NaN for a single trial).
    """
    require_level(level)
    require_draws(draws)
    ordered = _ordered(values, mode, worst)
    chosen = list(range(1, ordered.size + 1)) if budgets is None else list(budgets)
    weights = [_weights(ordered.size, k, replace) for k in chosen]
    expected = np.array([_expected(row, ordered) for row in weights])
    table = pd.DataFrame({"expected": expected}, index=pd.Index(chosen, name="trials"))
    table["std"] = [
        _spread(row, ordered, mean) for row, mean in zip(weights, expected, strict=True)
    ]
    low, high = _bounds(ordered, np.array(weights), level, draws, seed)
    if mode == "min":
        expected, low, high = -expected, -high, -low
    return table.assign(expected=expected, low=low, high=high)


def _bounds(
    ordered: Array, weights: Array, level: float, draws: int, seed: int
) -> tuple[Array, Array]:
    if ordered.size < 2 or not np.isfinite(ordered).all():
        nothing = np.full(len(weights), math.nan)
        return nothing, nothing
    generator = np.random.default_rng(seed)
    drawn = (
        np.sort(ordered[generator.integers(ordered.size, size=(draws, ordered.size))], axis=1)
        @ weights.T
    )
    low, high = np.array([interval_of(column, level) for column in drawn.T]).T
    return low, high


def _ordered(values: Iterable[float], mode: str, worst: float | None) -> Array:
    """The trials ascending, larger being better, with a value in the place of failures."""
    require_mode(mode)
    array = numbers(values)
    if not array.size:
        raise ValueError("values is empty: an expected best needs at least one trial")
    turned = array if mode == "max" else -array
    if (turned == math.inf).any():
        raise ValueError(
            "a trial is infinitely good: give a failure as NaN or as the infinity on the bad side"
        )
    failed = ~np.isfinite(turned)
    if worst is not None:
        stand_in = _signed(worst, mode)
    else:
        stand_in = float(turned[~failed].min()) if not failed.all() else -math.inf
    return np.sort(np.where(failed, stand_in, turned))


def _weights(n: int, k: int, replace: bool) -> Array:
    """The chance of each of n ordered values to be the best of k."""
    if not 1 <= k <= n or k != int(k):
        raise ValueError(f"k must be a whole number from 1 to {n}, the number of trials, got {k}")
    places = np.arange(n + 1, dtype=float)
    if replace:
        return np.diff((places / n) ** k)
    chance = np.zeros(n + 1)
    high = places[int(k) :]
    chance[int(k) :] = np.exp(
        gammaln(high + 1) - gammaln(high - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    )
    return np.diff(chance)


def _expected(weights: Array, ordered: Array) -> float:
    return float(weights @ ordered) if np.isfinite(ordered).all() else -math.inf


def _spread(weights: Array, ordered: Array, mean: float) -> float:
    return math.sqrt(float(weights @ (ordered - mean) ** 2)) if math.isfinite(mean) else math.nan


def _signed(value: float, mode: str) -> float:
    return value if mode == "max" else -value
