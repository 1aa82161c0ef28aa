"""Rank tests against Demsar's worked example, scipy, scikit-posthocs, statsmodels and counting all
signs."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats as scipy_stats

from suite import stats
from suite.stats.ranks import holm, indistinct

INF = math.inf
# Demsar (2006), Table 6: AUC of four variants of C4.5 on 14 data sets. On `voting` the paper ranks
# 0.975 before 0.975 by digits that it does not print, hence the last ones here.
DEMSAR = pd.DataFrame(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)


def random_scores(seed: int, n: int = 9, k: int = 4, ties: bool = True) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    values = (
        generator.integers(0, 5, (n, k)).astype(float) if ties else generator.normal(size=(n, k))
    )
    return pd.DataFrame(values, columns=list("abcdefgh")[:k])


def test_friedman_of_demsars_example() -> None:
    """Section 3.2.2: mean ranks 3.143, 2.000, 2.893, 1.964.

    Chi2 = 9.28, F = 3.69 with 3 and 39 degrees of freedom.
    """
    result = stats.friedman(DEMSAR, tie_correction=False)
    assert result.ranks.round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert result.statistic == pytest.approx(9.28, abs=0.005)
    assert result.f_statistic == pytest.approx(3.69, abs=0.005)
    assert result.f_p_value < 0.05
    assert result.problems == 14
    assert result.f_p_value == pytest.approx(scipy_stats.f.sf(result.f_statistic, 3, 39), rel=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_friedman_with_ties_is_that_of_scipy(seed: int) -> None:
    scores = random_scores(seed)
    theirs = scipy_stats.friedmanchisquare(*scores.to_numpy().T)
    for mode in ("max", "min"):
        result = stats.friedman(scores, mode=mode)
        assert (result.statistic, result.p_value) == pytest.approx(
            (theirs.statistic, theirs.pvalue), rel=1e-10
        )
        assert stats.friedman(scores, tie_correction=False, mode=mode).statistic < result.statistic


def test_without_ties_the_correction_changes_nothing() -> None:
    scores = random_scores(1, ties=False)
    assert stats.friedman(scores).statistic == pytest.approx(
        stats.friedman(scores, tie_correction=False).statistic
    )


def test_ranks_turn_with_the_mode_and_failures_share_the_last() -> None:
    times = pd.DataFrame({"a": [1.0, 2.0], "b": [INF, 3.0], "c": [INF, 1.0]})
    assert stats.friedman(times, mode="min").ranks.tolist() == [1.5, 2.75, 1.75]
    assert stats.friedman(times, mode="max").ranks.tolist() == [2.5, 1.25, 2.25]


def test_problems_that_all_agree_and_problems_that_say_nothing() -> None:
    agreed = stats.friedman(pd.DataFrame([[1.0, 2.0, 3.0]] * 4))
    assert agreed.statistic == pytest.approx(8.0)  # n (k - 1), the largest there is
    assert agreed.f_statistic == INF
    assert agreed.f_p_value == 0
    tied = stats.friedman(pd.DataFrame([[1.0, 1.0, 1.0]] * 4))
    assert (tied.statistic, tied.p_value, tied.f_statistic, tied.f_p_value) == (0, 1, 0, 1)


# Demsar (2006), Table 5a
TABLE = {
    0.05: [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164],
    0.10: [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920],
}


@pytest.mark.parametrize("alpha", [0.05, 0.10])
def test_critical_differences_follow_demsars_table(alpha: float) -> None:
    for k, q in zip(range(2, 11), TABLE[alpha], strict=True):
        assert stats.critical_difference(k, 10, alpha) == pytest.approx(
            q * math.sqrt(k * (k + 1) / 60), rel=4e-4
        )


def test_the_critical_differences_of_demsars_example() -> None:
    assert stats.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert stats.critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)


def test_the_groups_of_demsars_example() -> None:
    """At 5 % nothing can be told.

    At 10 % C4.5 is worse than the two that tune m, and C4.5+cf belongs nowhere.
    """
    assert stats.nemenyi(DEMSAR).groups == [["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]]
    looser = stats.nemenyi(DEMSAR, alpha=0.10)
    assert looser.groups == [["C4.5+m+cf", "C4.5+m", "C4.5+cf"], ["C4.5+cf", "C4.5"]]
    assert looser.p_values.loc["C4.5", "C4.5+m"] < 0.10 < looser.p_values.loc["C4.5", "C4.5+cf"]


@pytest.mark.parametrize("seed", range(4))
def test_nemenyis_p_values_are_those_of_scikit_posthocs(seed: int) -> None:
    scores = random_scores(seed, n=12, k=5)
    ours = stats.nemenyi(scores)
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(scores.to_numpy())
    table = ours.p_values.loc[scores.columns, scores.columns].to_numpy()
    np.testing.assert_allclose(table, theirs.to_numpy(), atol=1e-8)
    apart = np.abs(np.subtract.outer(ours.ranks.to_numpy(), ours.ranks.to_numpy()))
    assert ((apart > ours.difference) == (ours.p_values.to_numpy() < 0.05)).all()


def test_groups_are_the_largest_and_need_two() -> None:
    ranks = pd.Series({"a": 1.0, "b": 1.4, "c": 2.0, "d": 3.5})
    assert indistinct(ranks, 1.0) == [["a", "b", "c"]]
    assert indistinct(ranks, 0.6) == [["a", "b"], ["b", "c"]]
    assert indistinct(ranks, 0.1) == []
    assert indistinct(ranks[["d", "b", "a", "c"]], 9.0) == [["a", "b", "c", "d"]]


def test_wilcoxon_of_demsars_example() -> None:
    """Section 3.1.3, Table 2: R+ = 93, R- = 12, so that T = 12, and 21 is critical at 5 %."""
    result = stats.wilcoxon_holm(DEMSAR[["C4.5", "C4.5+m"]]).iloc[0]
    assert result["statistic"] == 12
    assert (result["wins"], result["losses"]) == (2, 10)
    assert result["p_value"] < 0.05
    z = (12 - 14 * 15 / 4) / math.sqrt(14 * 15 * 29 / 24)
    # the paper's z; ours is exact
    assert result["p_value"] == pytest.approx(2 * scipy_stats.norm.cdf(z), abs=4e-3)
    differences = (DEMSAR["C4.5"] - DEMSAR["C4.5+m"]).round(6).to_numpy()
    assert result["p_value"] == pytest.approx(by_counting(differences)[1], rel=1e-10)


def test_holms_procedure_of_demsars_example() -> None:
    """Section 3.2.2: z = 2.416, 2.342, 0.512, p = 0.016, 0.019, 0.607; the first two are
    rejected."""
    p_values = 2 * scipy_stats.norm.sf(np.array([2.416, 2.342, 0.512]))
    assert p_values.round(3).tolist() == [0.016, 0.019, 0.609]  # 0.607 in the paper
    adjusted = holm(p_values)
    assert (adjusted <= 0.05).tolist() == [True, True, False]
    assert adjusted == pytest.approx([3 * p_values[0], 3 * p_values[0], p_values[2]], rel=1e-12)


def by_counting(differences: np.ndarray) -> tuple[float, float]:
    """T and its p-value over all 2^n patterns of signs, ranks of zero split evenly."""
    ranks = scipy_stats.rankdata(np.abs(differences))
    split = ranks[differences == 0].sum() / 2
    moving = ranks[differences != 0]
    sums = np.array(
        [split + np.dot(moving, signs) for signs in product([0, 1], repeat=moving.size)]
    )
    seen = split + moving[differences[differences != 0] > 0].sum()
    total = ranks.sum()
    t = min(seen, total - seen)
    return t, min(1.0, 2 * np.mean(sums <= t + 1e-9))


@pytest.mark.parametrize("seed", range(8))
def test_wilcoxons_p_value_is_exact_with_ties_and_zeros(seed: int) -> None:
    scores = random_scores(seed, n=9, k=2)
    result = stats.wilcoxon_holm(scores).iloc[0]
    t, p = by_counting((scores["a"] - scores["b"]).to_numpy())
    assert (result["statistic"], result["p_value"]) == pytest.approx((t, p), rel=1e-9)


@pytest.mark.parametrize("n", [8, 20])
def test_without_ties_wilcoxon_is_that_of_scipy(n: int) -> None:
    scores = random_scores(3, n=n, k=2, ties=False)
    theirs = scipy_stats.wilcoxon(scores["a"], scores["b"], method="exact")
    result = stats.wilcoxon_holm(scores).iloc[0]
    assert (result["statistic"], result["p_value"]) == pytest.approx(
        (theirs.statistic, theirs.pvalue), rel=1e-10
    )


def test_pairs_are_adjusted_together_and_a_control_tests_fewer() -> None:
    scores = random_scores(2, n=11, k=4, ties=False).add([0, 0, 0, 2.0])
    table = stats.wilcoxon_holm(scores)
    assert len(table) == 6
    assert table["adjusted"].tolist() == pytest.approx(holm(table["p_value"].to_numpy()).tolist())
    assert (table["adjusted"] >= table["p_value"]).all()
    against = stats.wilcoxon_holm(scores, control="d")
    assert against["b"].tolist() == ["d"] * 3
    both = table.merge(against, on=["a", "b"])
    assert (both["p_value_x"] == both["p_value_y"]).all()
    assert (both["adjusted_y"] <= both["adjusted_x"]).all()
    assert both["differs_y"].all()


def test_two_failures_are_a_tie_and_one_outranks_every_difference() -> None:
    times = pd.DataFrame({"a": [1.0, INF, 5.0, 2.0, INF], "b": [1e9, INF, 4.0, 3.0, 9.0]})
    result = stats.wilcoxon_holm(times, mode="min").iloc[0]
    # |differences| rank: the two failures 1, the ones 2.5 each, 1e9 4, the failure 5: R- = 0.5 +
    # 2.5 + 4
    assert result["statistic"] == 7.0
    assert (result["wins"], result["losses"]) == (2, 2)
    quicker = stats.wilcoxon_holm(times.iloc[[0, 1, 3]], mode="min").iloc[0]
    assert (quicker["wins"], quicker["losses"]) == (2, 0)
    assert result["p_value"] == pytest.approx(by_counting(np.array([-1e9, 0, 1, -1, 1e10]))[1])


def test_relative_times_do_not_care_about_the_unit_of_a_problem() -> None:
    generator = np.random.default_rng(0)
    times = pd.DataFrame(generator.lognormal(0, 1, (8, 2)), columns=["a", "b"])
    scaled = times.mul(10.0 ** np.arange(8), axis=0)
    one, other = (
        stats.wilcoxon_holm(t, mode="min", relative=True).iloc[0] for t in (times, scaled)
    )
    assert one["statistic"] == other["statistic"]
    assert (
        stats.wilcoxon_holm(times, mode="min").iloc[0]["statistic"]
        != (stats.wilcoxon_holm(scaled, mode="min").iloc[0]["statistic"])
    )
    with pytest.raises(ValueError, match="relative=True needs positive times"):
        stats.wilcoxon_holm(times - 5, relative=True)


def test_equal_solvers_do_not_differ() -> None:
    same = stats.wilcoxon_holm(pd.DataFrame({"a": [1.0, INF, 3.0], "b": [1.0, INF, 3.0]})).iloc[0]
    assert (same["statistic"], same["p_value"], bool(same["differs"])) == (3.0, 1.0, False)


@pytest.mark.parametrize("statistic", [stats.friedman, stats.nemenyi, stats.wilcoxon_holm])
def test_what_cannot_be_ranked_is_refused(statistic: object) -> None:
    assert callable(statistic)
    good = random_scores(0)
    with pytest.raises(
        ValueError, match="not every solver was run on 2, 4: leave these problems out"
    ):
        statistic(_gaps(good))
    with pytest.raises(
        ValueError, match=r"at least 2 problems .rows. and 2 solvers .columns., got 9 and 1"
    ):
        statistic(good[["a"]])
    with pytest.raises(ValueError, match="got 0 and 0"):
        statistic(pd.DataFrame())
    with pytest.raises(ValueError, match="'min' or 'max', got 'best'"):
        statistic(good, mode="best")
    with pytest.raises(ValueError, match="names a solver twice"):
        statistic(pd.concat([good, good], axis=1))


def _gaps(scores: pd.DataFrame) -> pd.DataFrame:
    gaps = scores.copy()
    gaps.loc[[2, 4], "a"] = np.nan
    return gaps


@pytest.mark.parametrize(
    ("k", "n", "alpha"), [(1, 9, 0.05), (3, 1, 0.05), (3, 9, 5.0), (3, 9, 0.0)]
)
def test_impossible_critical_differences_are_refused(k: int, n: int, alpha: float) -> None:
    with pytest.raises(
        ValueError, match=r"at least 2 solvers and 2 problems|alpha must lie between 0 and 1"
    ):
        stats.critical_difference(k, n, alpha)
    with pytest.raises(ValueError, match="is none of the solvers a, b, c, d"):
        stats.wilcoxon_holm(random_scores(0), control="z")
