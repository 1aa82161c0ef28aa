"""Mean ranks over problems and their tests: Friedman, Nemenyi, Wilcoxon with Holm."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as distributions

from suite.stats.checks import Array, require_mode

EXACT = 100  # up to so many problems the patterns of signs are counted


class Friedman(NamedTuple):
    """Friedman's test.

    Attributes:
        statistic, p_value: chi-squared with k - 1 degrees of freedom.
        f_statistic, f_p_value: Iman and Davenport's F with k - 1 and (k - 1)(n - 1); `inf` where
            all problems agree.
        ranks: the mean rank of each solver, 1 the best.
        problems: their number n.
    """

    statistic: float
    p_value: float
    f_statistic: float
    f_p_value: float
    ranks: pd.Series
    problems: int


class Nemenyi(NamedTuple):
    """Nemenyi's test.

    Attributes:
        ranks: the mean rank of each solver, ascending.
        difference: the critical difference.
        p_values: of every pair, adjusted for all of them.
        groups: the largest groups whose ranks lie within the difference, by name: the bars of a
            diagram.
    """

    ranks: pd.Series
    difference: float
    p_values: pd.DataFrame
    groups: list[list[Any]]


def friedman(scores: pd.DataFrame, tie_correction: bool = True, mode: str = "max") -> Friedman:
    """Do the solvers differ at all? Friedman's test on ranks, and Iman and Davenport's F.

    chi2 = 12 n / (k (k + 1)) sum_j (R_j - (k + 1) / 2)^2 for mean ranks R_j of k solvers on n
    problems; F = (n - 1) chi2 / (n (k - 1) - chi2). The tie correction divides chi2 by 1 - sum (t^3
    - t) / (n k (k^2 - 1)) over groups of t equal ranks; Demsar leaves it out, scipy applies it.
      Where nothing but ties is seen chi2 is 0.

    chi2 is too careful for few problems and solvers: prefer F. Ranks depend on who takes part.

    Args:
        scores: a row a problem, a column a solver, complete; infinities are ranked: failures share
            the last rank.
        tie_correction: whether ties make chi2 larger, as they should.
        mode: `max` where larger is better, `min` for times.

    Raises:
        ValueError: a NaN (not run), fewer than 2 solvers or 2 problems, another mode.

    Source: Friedman (1937); Iman and Davenport (1980); Demsar (2006), section 3.2.2.
    """
    ranks = _ranks(scores, mode)
    n, k = ranks.shape
    middles = ranks.mean()
    statistic = 12 * n / (k * (k + 1)) * float(((middles - (k + 1) / 2) ** 2).sum())
    if tie_correction:
        share = 1 - _tied(ranks) / (n * k * (k * k - 1))
        statistic = statistic / share if share > 1e-12 else 0.0
    spare = n * (k - 1) - statistic
    f_statistic = (n - 1) * statistic / spare if spare > 1e-12 * n * k else math.inf
    p_value = float(distributions.chi2.sf(statistic, k - 1))
    f_p_value = float(distributions.f.sf(f_statistic, k - 1, (k - 1) * (n - 1)))
    return Friedman(statistic, p_value, f_statistic, f_p_value, middles.rename("rank"), n)


def critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """CD = q_alpha sqrt(k (k + 1) / (6 n)).

    Mean ranks of k solvers on n problems that lie further apart differ.

    q_alpha is the upper quantile of the studentized range of k normal values over sqrt(2),
    computed, not from a table. Source: Nemenyi (1963); Demsar (2006), section 3.2.2 and Table 5a.
    """
    if k < 2 or n < 2:
        raise ValueError(
            f"a critical difference needs at least 2 solvers and 2 problems, got k={k}, n={n}"
        )
    _require_alpha(alpha)
    q = float(distributions.studentized_range.ppf(1 - alpha, k, math.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def nemenyi(scores: pd.DataFrame, alpha: float = 0.05, mode: str = "max") -> Nemenyi:
    """Which pairs of solvers differ: Nemenyi's test on mean ranks, all pairs at once.

    It asks for Friedman's test to be significant first, and has little power: that two solvers
    share a group says that these problems do not tell them apart, not that they are equal.

    Args:
        scores: as for `friedman`.
        alpha: the chance of any false difference.
        mode: `max` where larger is better, `min` for costs.

    Source: Demsar (2006), section 3.2.2; p-values as in scikit-posthocs'
    `posthoc_nemenyi_friedman`.
    """
    ranks = _ranks(scores, mode)
    n, k = ranks.shape
    difference = critical_difference(k, n, alpha)
    middles = ranks.mean().sort_values(kind="stable").rename("rank")
    apart = np.abs(np.subtract.outer(middles.to_numpy(), middles.to_numpy()))
    p_values = distributions.studentized_range.sf(
        apart * math.sqrt(12 * n / (k * (k + 1))), k, math.inf
    )
    return Nemenyi(
        middles,
        difference,
        pd.DataFrame(np.minimum(p_values, 1.0), index=middles.index, columns=middles.index),
        indistinct(middles, difference),
    )


def indistinct(ranks: pd.Series, difference: float) -> list[list[Any]]:
    """The largest groups of solvers whose mean ranks all lie within the critical difference."""
    ordered = ranks.sort_values(kind="stable")
    values = ordered.to_numpy(dtype=float)
    groups, reach = [], 0
    for start, low in enumerate(values):
        stop = int(np.searchsorted(values, low + difference, side="right"))
        if stop - start > 1 and stop > reach:
            groups.append(list(ordered.index[start:stop]))
        reach = max(reach, stop)
    return groups


def wilcoxon_holm(
    scores: pd.DataFrame,
    alpha: float = 0.05,
    mode: str = "max",
    *,
    control: Any = None,
    relative: bool = False,
) -> pd.DataFrame:
    """Signed-rank tests of pairs of solvers over problems, with Holm's correction for their number.

    T = min(R+, R-), the smaller sum of ranks of |differences| over problems that speak for either;
    problems without a difference, two failures among them, are split evenly. A failure outranks
    every finite difference. The p-value is exact up to 100 problems, ties and all, and normal
    beyond that.

    Args:
        scores: as for `friedman`.
        alpha: the chance of any false difference.
        mode: `max` where larger is better, `min` for costs.
        control: test only the pairs with this solver, for more power.
        relative: ranks |log a - log b| instead of |a - b|: for times, whose scale differs between
            problems.

    Returns:
        A row a pair: `a`, `b`, `wins` (problems on which a is better), `losses`, `statistic` T,
        `p_value`, `adjusted` (Holm), `differs` (adjusted <= alpha).

    Source: Wilcoxon (1945), Holm (1979); Demsar (2006), section 3.1.3, who ignores one of an odd
    number of ties; Benavoli, Corani and Mangili (2016) for preferring it to Nemenyi's test.
    """
    frame = _complete(scores, mode)
    _require_alpha(alpha)
    if control is not None and control not in frame:
        raise ValueError(
            f"control={control!r} is none of the solvers {', '.join(map(str, frame.columns))}"
        )
    pairs = [pair for pair in combinations(frame.columns, 2) if control is None or control in pair]
    rows = [_tested(frame, a, b, mode, relative) for a, b in pairs]
    columns = ["a", "b", "wins", "losses", "statistic", "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    table["adjusted"] = holm(table["p_value"].to_numpy())
    return table.assign(differs=table["adjusted"] <= alpha)


def holm(p_values: Array) -> Array:
    """Holm's step-down adjusted p-values: max_{j <= i} min(1, (m - j + 1) p_(j)).

    As statsmodels computes them.
    """
    from statsmodels.stats.multitest import multipletests  # seconds to import, and seldom needed

    return np.asarray(multipletests(np.asarray(p_values, dtype=float), method="holm")[1])


def _tested(
    frame: pd.DataFrame, a: Any, b: Any, mode: str, relative: bool
) -> tuple[Any, Any, int, int, float, float]:
    differences = _differences(frame[a].to_numpy(), frame[b].to_numpy(), relative)
    better = differences if mode == "max" else -differences
    return (a, b, int((better > 0).sum()), int((better < 0).sum()), *_signed_rank(differences))


def _signed_rank(differences: Array) -> tuple[float, float]:
    """T and its p-value, ranks of zero split evenly."""
    ranks = distributions.rankdata(np.abs(differences))
    split = float(ranks[differences == 0].sum()) / 2
    above, below = (split + float(ranks[sign * differences > 0].sum()) for sign in (1, -1))
    statistic = min(above, below)
    if differences.size > EXACT and differences.any():
        test = distributions.wilcoxon(differences, zero_method="zsplit", method="asymptotic")
        return statistic, float(test.pvalue)
    return statistic, _exact(ranks[differences != 0], statistic - split)


def _exact(ranks: Array, statistic: float) -> float:
    """2 P(sum of the ranks with a positive sign <= statistic) over all 2^n signs.

    Tied ranks may be halves.
    """
    halves = np.rint(2 * ranks).astype(int)
    chance = np.zeros(halves.sum() + 1)
    chance[0] = 1
    for rank in halves:
        chance[rank:] += chance[: chance.size - rank].copy()
        chance /= 2
    return min(1.0, 2 * float(chance[: round(2 * statistic) + 1].sum()))


def _differences(a: Array, b: Array, relative: bool) -> Array:
    """Differences with rounding noise removed, so that equal ones tie.

    Infinite differences are larger than all others.
    """
    if relative and (min(a.min(), b.min()) <= 0):
        raise ValueError("relative=True needs positive times: log ratios are ranked")
    with np.errstate(invalid="ignore"):
        # two failures are a tie
        differences = np.where(a == b, 0.0, np.log(a) - np.log(b) if relative else a - b)
    finite = differences[np.isfinite(differences)]
    size = float(np.abs(finite).max(initial=0.0))
    scale = max(
        size,
        float(np.abs(np.concatenate([a, b])[np.isfinite([a, b]).ravel()]).max(initial=0.0)),
        1e-300,
    )
    differences = np.where(
        np.isfinite(differences), np.round(differences / scale, 12) * scale, differences
    )
    return np.asarray(np.clip(differences, -2 * size - 1, 2 * size + 1))


def _complete(scores: pd.DataFrame, mode: str) -> pd.DataFrame:
    require_mode(mode)
    if scores.shape[0] < 2 or scores.shape[1] < 2:
        rows, columns = scores.shape
        raise ValueError(
            f"ranks need at least 2 problems (rows) and 2 solvers (columns), got {rows} and "
            f"{columns}"
        )
    if not scores.columns.is_unique:
        raise ValueError("scores names a solver twice")
    gaps = scores.index[scores.isna().any(axis=1)]
    if len(gaps):
        raise ValueError(
            f"not every solver was run on {', '.join(map(str, gaps))}: leave these problems out "
            "with scores.dropna(), or give a failure its worst value"
        )
    return scores.astype(float)


def _ranks(scores: pd.DataFrame, mode: str) -> pd.DataFrame:
    return _complete(scores, mode).rank(axis=1, ascending=mode == "min")


def _tied(ranks: pd.DataFrame) -> float:
    """Sum of t^3 - t over all groups of t equal ranks within a problem."""
    counts = [np.unique(row, return_counts=True)[1].astype(float) for row in ranks.to_numpy()]
    return float(sum((count**3 - count).sum() for count in counts))


def _require_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
