"""The probability that a run of one method beats a run of another."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from suite.stats.bootstrap import DRAWS, LEVEL, interval_of, redrawn
from suite.stats.checks import Array, require_draws, require_level, require_mode, sample


class Improvement(NamedTuple):
    """P(A beats B), averaged over `problems` problems, with its bootstrap interval, or NaN."""

    probability: float
    low: float
    high: float
    problems: int


def probability_of_improvement(a: Iterable[float], b: Iterable[float], mode: str = "max") -> float:
    """P(A beats B): the share of pairs, one run of A and one of B, in which A is better.

    Ties count half.

    P = U / (n m), with U the Mann-Whitney statistic. 1/2 says that neither is better more often; it
    says nothing of by how much. Infinities are ordinary values here: two failures are a tie.

    Args:
        a: a value a run of A.
        b: a value a run of B.
        mode: `max` where larger is better (scores), `min` for costs.

    Source: Agarwal et al. (2021), section 4.3, on one task; Mann and Whitney (1947).
    """
    require_mode(mode)
    first, second = sample(a, "a"), sample(b, "b")
    share = float(_wins(first[None], second[None])[0])
    return share if mode == "max" else 1 - share


def mean_improvement(
    a: Mapping[Hashable, Iterable[float]],
    b: Mapping[Hashable, Iterable[float]],
    mode: str = "max",
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Improvement:
    """P(A beats B) averaged over problems, with a bootstrap interval stratified by problem.

    Runs are redrawn within each problem and method; every problem counts the same. The interval is
    NaN where no problem has two runs of both. With three to five runs it is a percentile bootstrap
    of few values and is too narrow.

    Args:
        a: the values of A's runs, by problem; only problems that both ran count.
        b: those of B's runs.
        mode: `max` where larger is better (scores), `min` for costs.
        level: the share of samples whose interval should hold the truth.
        draws: the number of resamples.
        seed: of the draws.

    Raises:
        ValueError: no problem in common.

    Source: Agarwal et al. (2021), section 4.3.
    """
    require_mode(mode)
    require_level(level)
    require_draws(draws)
    pairs = _common(a, b)
    centre = float(np.mean([probability_of_improvement(*pair, mode) for pair in pairs]))
    if max(min(len(first), len(second)) for first, second in pairs) < 2:
        return Improvement(centre, np.nan, np.nan, len(pairs))
    parts = redrawn((part for pair in pairs for part in pair), draws, seed)
    drawn = np.mean([_wins(first, second) for first, second in zip(parts, parts, strict=True)], 0)
    low, high = interval_of(drawn if mode == "max" else 1 - drawn, level)
    return Improvement(centre, low, high, len(pairs))


def _common(
    a: Mapping[Hashable, Iterable[float]], b: Mapping[Hashable, Iterable[float]]
) -> list[tuple[Array, Array]]:
    """The values of both on each problem that both ran."""
    shared = [problem for problem in a if problem in b]
    if not shared:
        raise ValueError(
            "no problem was run by both: a and b need the values of each problem under the same "
            "names"
        )
    return [
        (sample(a[problem], f"a[{problem}]"), sample(b[problem], f"b[{problem}]"))
        for problem in shared
    ]


def improvement_interval(
    a: Iterable[float],
    b: Iterable[float],
    mode: str = "max",
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The bootstrap interval of P(A beats B) on one problem; None unless both have two values."""
    chance = mean_improvement({"": a}, {"": b}, mode, level=level, draws=draws, seed=seed)
    return None if np.isnan(chance.low) else (chance.low, chance.high)


def _wins(a: Array, b: Array) -> Array:
    """Share of pairs in which a is larger, row by row, by rank sums."""
    n, m = a.shape[1], b.shape[1]
    ranks = rankdata(np.concatenate([a, b], axis=1), axis=1)
    return np.asarray((ranks[:, :n].sum(axis=1) - n * (n + 1) / 2) / (n * m))
