"""Profiles, scores, ECDF and bands.

Worked by hand, by integration on a fine grid, and by their invariances.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from suite import stats
from suite.stats.profiles import performance_ratios

INF, NAN = math.inf, math.nan
# p: b twice as slow; q: a tie; r: only a; s: nobody; t: b was not run
TIMES = pd.DataFrame(
    {
        "a": [1.0, 6.0, 5.0, INF, 4.0],
        "b": [2.0, 6.0, INF, INF, NAN],
        "c": [8.0, 9.0, INF, INF, 2.0],
    },
    index=list("pqrst"),
)


def random_times(seed: int) -> pd.DataFrame:
    """Times with ties, failures, gaps and problems that nobody solved."""
    generator = np.random.default_rng(seed)
    times = generator.integers(1, 9, (7, 4)).astype(float)
    times[generator.random(times.shape) < 0.2] = INF
    times[generator.random(times.shape) < 0.15] = NAN
    times[0], times[1] = INF, [1.0, 2.0, 3.0, 4.0]
    return pd.DataFrame(times, columns=list("abcd"))


def by_definition(times: pd.DataFrame, tau: float) -> pd.Series:
    """Dolan and More (2002), eq. 2.1, problem by problem."""
    shares = {}
    for name in times:
        solved = ran = 0
        for _, row in times.iterrows():
            if not math.isnan(row[name]):
                ran += 1
                best = min(value for value in row if not math.isnan(value))
                solved += row[name] < INF and row[name] <= tau * best * (1 + 1e-12)
        shares[name] = solved / ran if ran else NAN
    return pd.Series(shares)


def test_a_profile_by_hand() -> None:
    profile = stats.performance_profile(TIMES)
    assert profile.index.tolist() == [1.0, 1.5, 2.0, 8.0]
    # s is in the denominator though nobody solved it
    assert profile["a"].tolist() == [3 / 5, 3 / 5, 4 / 5, 4 / 5]
    # t is not, for b was not run there
    assert profile["b"].tolist() == [1 / 4, 1 / 4, 2 / 4, 2 / 4]
    assert profile["c"].tolist() == [1 / 5, 2 / 5, 2 / 5, 3 / 5]


def test_what_was_not_run_may_count_as_a_failure_or_exclude_the_problem() -> None:
    failed = stats.performance_profile(TIMES, not_run="fail")
    assert failed["b"].tolist() == [1 / 5, 1 / 5, 2 / 5, 2 / 5]
    complete = stats.performance_profile(TIMES, not_run="complete")
    assert complete.loc[1.0].tolist() == [3 / 4, 1 / 4, 0]
    with pytest.raises(ValueError, match="no problem was run by every solver"):
        stats.performance_profile(TIMES.loc[["t"]], not_run="complete")
    with pytest.raises(ValueError, match="not_run must be one of leave_out, fail, complete"):
        stats.performance_profile(TIMES, not_run="drop")


@pytest.mark.parametrize("seed", range(12))
def test_a_profile_is_its_definition_at_and_between_its_steps(seed: int) -> None:
    times = random_times(seed)
    profile = stats.performance_profile(times)
    points = np.unique(np.concatenate([profile.index, profile.index + 1e-6, [1.0, 1.7, 100.0]]))
    for tau, row in stats.at(profile, points).iterrows():
        pd.testing.assert_series_equal(row, by_definition(times, float(tau)), check_names=False)


@pytest.mark.parametrize("seed", range(12))
def test_profiles_rise_from_one_and_do_not_care_about_units_or_order(seed: int) -> None:
    times = random_times(seed)
    profile = stats.performance_profile(times)
    assert profile.index[0] == 1.0
    assert profile.index.is_monotonic_increasing
    assert profile.index.is_unique
    assert (profile.diff().iloc[1:] >= 0).to_numpy().all()
    assert (profile.diff().iloc[1:] > 0).any(axis=1).all()  # every tau is a step of somebody
    assert profile.max(axis=None) <= 1
    scaled = times.mul(2.0 ** np.arange(7), axis=0)
    pd.testing.assert_frame_equal(stats.performance_profile(scaled), profile)
    turned = times.iloc[::-1, ::-1]
    pd.testing.assert_frame_equal(stats.performance_profile(turned)[list("abcd")], profile)
    pd.testing.assert_series_equal(
        stats.profile_score(turned)[list("abcd")], stats.profile_score(times)
    )


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("seed", range(4))
def test_the_score_is_the_area_under_the_profile(seed: int, scale: str) -> None:
    times = random_times(seed)
    fine = stats.profile_score(times, 3.0, scale=scale, points=200_001)
    pd.testing.assert_series_equal(
        stats.profile_score(times, 3.0, scale=scale), fine, atol=2e-5, rtol=0
    )


def test_the_score_by_hand() -> None:
    # tau_max = 4: a has 1, 1, 1, none and (4 - 2) / 3; b has (4 - 2) / 3, 1; c has nothing at 8, (4
    # - 1.5) / 3 and 1
    scores = stats.profile_score(TIMES)
    expected = {"a": (3 + 2 / 3) / 5, "b": (2 / 3 + 1) / 4, "c": (2.5 / 3 + 1) / 5}
    assert scores.to_dict() == pytest.approx(expected, rel=1e-12)
    # at 1, 2, 4
    assert stats.profile_score(TIMES, scale="log", points=3)["b"] == pytest.approx(
        (0.375 + 0.5) / 2
    )
    assert stats.profile_score(TIMES, scale="log")["b"] == pytest.approx(
        (1 - math.log(2) / math.log(4) + 1) / 4
    )


def test_a_solver_alone_has_the_score_of_what_it_solves() -> None:
    assert stats.profile_score(TIMES[["a"]].iloc[:3])["a"] == 1
    assert stats.profile_score(TIMES[["a"]])["a"] == 4 / 5
    assert stats.performance_profile(TIMES[["a"]])["a"].tolist() == [4 / 5]


def test_where_nobody_solves_anything_the_profile_is_zero() -> None:
    nothing = TIMES.loc[["s"]]
    assert stats.performance_profile(nothing).to_numpy().tolist() == [[0, 0, 0]]
    assert stats.profile_score(nothing).tolist() == [0, 0, 0]
    assert stats.ecdf(nothing).to_numpy().tolist() == [[0, 0, 0]]


def test_a_solver_that_ran_nothing_has_no_share() -> None:
    times = TIMES.assign(d=NAN)
    assert stats.performance_profile(times)["d"].isna().all()
    assert math.isnan(stats.profile_score(times)["d"])
    pd.testing.assert_frame_equal(
        stats.performance_profile(times)[list("abc")], stats.performance_profile(TIMES)
    )


def test_a_time_of_zero_is_the_best_and_infinitely_better_than_any_other() -> None:
    ratios = performance_ratios(pd.DataFrame({"a": [0.0, 0.0], "b": [0.0, 3.0]}))
    assert ratios.to_numpy().tolist() == [[1, 1], [1, INF]]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pd.DataFrame(), "is empty: it needs a row for each problem"),
        (pd.DataFrame({"a": [1.0, -2.0]}), "must not be negative; give `inf`"),
        (pd.DataFrame({"a": [NAN]}), "nothing but NaN"),
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), "names a solver twice: a"),
        ([1.0, 2.0], "must be a pandas DataFrame"),
    ],
)
def test_frames_that_hold_no_times_are_refused(times: pd.DataFrame, message: str) -> None:
    for statistic in (stats.performance_profile, stats.profile_score, stats.ecdf):
        with pytest.raises(ValueError, match=message):
            statistic(times)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tau_max": 1.0}, "tau_max must be a finite number above 1, got 1"),
        ({"tau_max": INF}, "tau_max must be a finite"),
        ({"scale": "ln"}, "scale must be one of linear, log, got 'ln'"),
        ({"points": 1}, "points must be at least 2"),
        ({"held_out": TIMES}, "held_out and base_of go together"),
    ],
)
def test_scores_that_make_no_sense_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.profile_score(TIMES, **asked)  # type: ignore[arg-type]


def test_a_third_solver_can_turn_the_order_of_two_and_pairs_show_it() -> None:
    """Gould and Scott (2016): the order depends on who takes part.

    SingleProcess b leads a, beside c it does not.
    """
    times = pd.DataFrame(
        {"a": [5.0, 10.0, 2.0, 8.0], "b": [11.0, 3.0, 4.0, 4.0], "c": [3.0, 12.0, 1.0, 11.0]}
    )
    together, apart, left = (
        stats.profile_score(times),
        stats.pairwise_scores(times),
        stats.leave_one_out_scores(times),
    )
    assert together["a"] > together["b"] + 0.05
    assert apart.loc["a", "b"] < apart.loc["b", "a"] - 0.05
    # 11 / 5, 1, 4 / 2, 1
    assert apart.loc["b", "a"] == pytest.approx((1.8 / 3 + 1 + 2 / 3 + 1) / 4, rel=1e-12)
    assert left.loc["all"].tolist() == together.tolist()
    assert left.loc["c", ["a", "b"]].tolist() == [apart.loc["a", "b"], apart.loc["b", "a"]]
    assert math.isnan(left.loc["c", "c"])
    profiles = stats.leave_one_out_profiles(times)
    pd.testing.assert_frame_equal(profiles["c"], stats.pairwise_profiles(times)["a", "b"])
    assert list(profiles) == ["a", "b", "c"]


def test_pairs_use_the_problems_that_both_ran() -> None:
    pairs = stats.pairwise_profiles(TIMES)
    pd.testing.assert_frame_equal(
        pairs["a", "b"], stats.performance_profile(TIMES.loc[list("pqrs"), ["a", "b"]])
    )
    apart = pd.DataFrame({"a": [1.0, NAN], "b": [NAN, 1.0]})
    assert stats.pairwise_profiles(apart) == {}
    assert stats.pairwise_scores(apart).isna().to_numpy().all()
    for statistic in (stats.pairwise_profiles, stats.pairwise_scores, stats.leave_one_out_profiles):
        with pytest.raises(ValueError, match="at least 2 solvers"):
            statistic(TIMES[["a"]])


def test_a_data_profile_counts_in_simplex_gradients() -> None:
    """More and Wild (2009), eq. 2.8: t <= alpha (n + 1)."""
    costs = pd.DataFrame(
        {"a": [6.0, 30.0, INF], "b": [12.0, NAN, 8.0]}, index=["two", "nine", "three"]
    )
    profile = stats.data_profile(costs, {"two": 2, "nine": 9, "three": 3})
    assert profile.index.tolist() == [0.0, 2.0, 3.0, 4.0]
    assert profile["a"].tolist() == [0, 1 / 3, 2 / 3, 2 / 3]
    assert profile["b"].tolist() == [0, 1 / 2, 1 / 2, 1]
    pd.testing.assert_frame_equal(stats.data_profile(costs, [2, 9, 3]), profile)
    unscaled = stats.data_profile(costs, [0, 0, 0]).rename_axis("cost")
    pd.testing.assert_frame_equal(unscaled, stats.ecdf(costs))
    with pytest.raises(ValueError, match="of every problem"):
        stats.data_profile(costs, {"two": 2})
    with pytest.raises(ValueError, match="each of the 3 problems, got 1"):
        stats.data_profile(costs, [2])


def test_a_problem_nobody_ran_takes_its_dimension_with_it() -> None:
    costs = pd.DataFrame({"a": [NAN, 30.0], "b": [NAN, 20.0]})
    assert stats.data_profile(costs, [1, 9]).index.tolist() == [0.0, 2.0, 3.0]


def test_the_ecdf_counts_pairs_of_problem_and_target() -> None:
    index = pd.MultiIndex.from_product([["p", "q"], [0.1, 0.01]])
    costs = pd.DataFrame({"a": [3.0, 7.0, 2.0, INF], "b": [3.0, 3.0, INF, INF]}, index=index)
    curve = stats.ecdf(costs)
    assert curve.index.tolist() == [0.0, 2.0, 3.0, 7.0]
    assert curve["a"].tolist() == [0, 0.25, 0.5, 0.75]
    assert curve["b"].tolist() == [0, 0, 0.5, 0.5]
    assert stats.at(curve, [-1.0, 2.999, 1e9])["a"].tolist() == [0, 0.25, 0.75]
    assert stats.at(stats.performance_profile(TIMES), [0.99, 1.0])["a"].tolist() == [0, 0.6]


def runs_of(times: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [
        (problem, solver, value) for (problem, solver), values in times.items() for value in values
    ]
    return pd.DataFrame(rows, columns=["problem", "solver", "time"])


def test_a_band_lies_round_the_profile_of_the_medians() -> None:
    generator = np.random.default_rng(0)
    cells = {
        (p, s): list(generator.lognormal(0.2 * k, 0.4, 5))
        for p in "pqr"
        for k, s in enumerate("ab")
    }
    cells["r", "b"] = [1.0, INF, INF, 2.0, 3.0]
    band = stats.profile_band(runs_of(cells), draws=400)
    medians = pd.DataFrame({s: {p: np.median(cells[p, s]) for p in "pqr"} for s in "ab"})
    pd.testing.assert_index_equal(band.index, stats.performance_profile(medians).index)
    for name in "ab":
        part = band[name]
        assert part["share"].tolist() == stats.performance_profile(medians)[name].tolist()
        assert ((part["low"] <= part["share"]) & (part["share"] <= part["high"])).all()
        assert (part["low"] < part["high"]).any()
        assert part.diff().iloc[1:].min(axis=None) >= 0
    chosen = stats.profile_band(runs_of(cells), draws=50, taus=[1.0, 2.0, 4.0])
    assert chosen.index.tolist() == [1.0, 2.0, 4.0]


def test_the_band_is_the_distribution_of_redrawn_profiles() -> None:
    """Two runs a cell: each median is low, middle or high with 1/4, 1/2, 1/4, so that every share
    can be counted."""
    cells = {("p", "a"): [1.0, 3.0], ("p", "b"): [2.0, 2.0]}
    band = stats.profile_band(runs_of(cells), draws=4000, level=0.6, taus=[1.0, 1.4])
    # a is at 1, 2, 3: the fastest in 3/4 of the draws, b in 3/4 (ties count for both); the 20 %
    # quantile is 0
    assert band["a"].loc[1.0].tolist() == [1, 0, 1]
    wide = stats.profile_band(runs_of(cells), draws=4000, level=0.4, taus=[1.0])
    assert wide["a"].loc[1.0].tolist() == [1, 1, 1]  # the 30 % quantile is already 1
    scores = stats.score_interval(runs_of(cells), draws=4000, level=0.4)
    assert scores.loc["a"].tolist() == [1, 1, 1]
    assert stats.score_interval(runs_of(cells), draws=4000, level=0.6).loc[
        "a", "low"
    ] == pytest.approx(2.5 / 3)


def test_one_run_of_each_has_a_profile_and_no_band() -> None:
    runs = runs_of({("p", "a"): [1.0], ("p", "b"): [2.0], ("q", "a"): [3.0], ("q", "b"): [INF]})
    band, scores = stats.profile_band(runs, draws=10), stats.score_interval(runs, draws=10)
    assert band["a"]["share"].tolist() == [1, 1]
    assert band.loc[:, (slice(None), ["low", "high"])].isna().to_numpy().all()
    assert scores["score"].to_dict() == {"a": 1.0, "b": pytest.approx(1 / 3)}
    assert scores[["low", "high"]].isna().to_numpy().all()


def test_a_solver_without_a_cell_leaves_its_denominator_in_the_band_too() -> None:
    runs = runs_of({("p", "a"): [1.0, 1.0], ("p", "b"): [2.0, 2.0], ("q", "a"): [3.0, 3.0]})
    band = stats.profile_band(runs, draws=20, taus=[1.0, 2.0])
    assert band["b"].loc[2.0].tolist() == [1, 1, 1]
    assert stats.score_interval(runs, draws=20).loc["b"].tolist() == pytest.approx([2 / 3] * 3)


def test_a_band_knows_times_of_zero_and_problems_that_nobody_solves() -> None:
    runs = runs_of(
        {
            ("p", "a"): [0.0, 0.0],
            ("p", "b"): [1.0, 1.0],
            ("q", "a"): [INF, INF],
            ("q", "b"): [INF, INF],
        }
    )
    band = stats.profile_band(runs, draws=20, taus=[1.0, 9.0])
    assert band["a"].to_numpy().tolist() == [[0.5] * 3] * 2
    assert band["b"].to_numpy().tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (pd.DataFrame({"problem": ["p"], "solver": ["a"]}), "missing: \\['time'\\]"),
        (pd.DataFrame(columns=["problem", "solver", "time"]), "missing: rows"),
        (pd.DataFrame({"problem": ["p"], "solver": ["a"], "time": [-1.0]}), "not be negative"),
    ],
)
def test_runs_that_make_no_band_are_refused(runs: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.profile_band(runs)
    with pytest.raises(ValueError, match=message):
        stats.score_interval(runs)
