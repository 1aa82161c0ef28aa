"""Performance profiles.

Heights and scores worked out by hand, bands, and where there is little to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.report.sections.answers.profiles import Profile, profile, section
from suite.stats import at, redrawn
from suite.stats.profile_bands import ratios_to_best

INF = math.inf


def rows(cells: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"problem": problem, "optimizer": name, "seed": seed, "cost": cost}
            for (problem, name), costs in cells.items()
            for seed, cost in enumerate(costs)
        ]
    )


def profile_of(cells: dict[tuple[str, str], list[float]], methods: list[str]) -> Profile:
    one = profile(rows(cells), methods)
    assert one is not None
    return one


def test_heights_and_scores_by_hand() -> None:
    """Ratios of a: 1, 2; of b: 2, 1; of c.

    Never, 4 (counted at the third problem, which only c fails, as never).
    """
    cells = {
        ("p", "a"): [10.0],
        ("p", "b"): [20.0],
        ("p", "c"): [INF],
        ("q", "a"): [40.0],
        ("q", "b"): [20.0],
        ("q", "c"): [80.0],
    }
    one = profile_of(cells, ["a", "b", "c"])
    assert list(one.shares.index) == [1, 2, 4]
    assert one.shares.to_numpy().T.tolist() == [[0.5, 1, 1], [0.5, 1, 1], [0, 0, 0.5]]
    assert one.scores["score"].to_dict() == pytest.approx(
        {"a": (1 + 2 / 3) / 2, "b": (1 + 2 / 3) / 2, "c": 0}
    )
    assert (one.low, one.high) == (None, None)
    assert "low" not in one.scores


def test_the_median_over_seeds_counts_and_failures_are_infinite() -> None:
    cells = {
        ("p", "a"): [10, 30, INF],
        ("q", "a"): [10, INF, INF],
        ("p", "b"): [60] * 3,
        ("q", "b"): [60] * 3,
    }
    one = profile_of(
        {key: [float(cost) for cost in costs] for key, costs in cells.items()}, ["a", "b"]
    )
    assert at(one.shares, [1, 2]).to_numpy().T.tolist() == [[0.5, 0.5], [0.5, 1]]


def test_a_problem_that_a_method_did_not_run_on_counts_as_not_reached() -> None:
    cells = {("p", "a"): [10.0], ("p", "b"): [20.0], ("q", "b"): [20.0]}
    one = profile_of(cells, ["a", "b"])
    assert one.shares["a"].max() == 0.5
    assert one.shares["b"].max() == 1


def test_the_band_has_no_width_where_seeds_agree_and_spans_what_they_allow() -> None:
    same = profile_of(
        {
            (problem, name): [cost] * 3
            for problem in "pq"
            for name, cost in (("a", 1.0), ("b", 2.0))
        },
        ["a", "b"],
    )
    assert same.low is not None
    assert same.high is not None
    pd.testing.assert_frame_equal(same.low, same.shares)
    pd.testing.assert_frame_equal(same.high, same.shares)
    assert list(same.scores["low"]) == list(same.scores["score"]) == list(same.scores["high"])
    cells = {
        ("p", "a"): [1.0, 1.0, 9.0],
        ("p", "b"): [3.0] * 3,
        ("q", "a"): [1.0] * 3,
        ("q", "b"): [3.0] * 3,
    }
    wide = profile_of(cells, ["a", "b"])
    assert wide.low is not None
    assert wide.high is not None
    # a's median on p is 9 in 7 of 27 draws: then it is three times as slow as b there
    assert (wide.low.loc[1.0, "a"], wide.shares.loc[1.0, "a"], wide.high.loc[1.0, "a"]) == (
        0.5,
        1.0,
        1.0,
    )
    assert (wide.low.loc[1.0, "b"], wide.shares.loc[1.0, "b"], wide.high.loc[1.0, "b"]) == (
        0.0,
        0.0,
        0.5,
    )


def test_the_share_of_redrawn_scores_is_that_of_the_draws() -> None:
    """One cell of two seeds: its median is 1, 2 or 3 with chances 1/4, 1/2, 1/4."""
    cells = {
        ("p", "a"): [1.0, 3.0],
        ("p", "b"): [1.0, 1.0],
        ("q", "a"): [1.0] * 2,
        ("q", "b"): [1.0] * 2,
    }
    one = profile_of(cells, ["a", "b"])
    assert one.scores.loc["a", "low"] == pytest.approx((1 / 3 + 1) / 2)
    assert one.scores.loc["a", "high"] == pytest.approx(1.0)


def test_redrawn_medians_of_three_seeds_are_costs_of_seeds() -> None:
    cells = redrawn([np.array([2.0, 3.0, 7.0]), np.array([1.0])], draws=1000)
    drawn = ratios_to_best(np.stack([np.median(cell, axis=1) for cell in cells], axis=1))
    assert set(drawn[:, 0]) == {2.0, 3.0, 7.0}
    # each end has 7 of 27
    assert (drawn[:, 0] == 3.0).mean() == pytest.approx(13 / 27, abs=0.06)
    assert (drawn[:, 1] == 1.0).all()


def test_a_redrawn_failure_scores_nothing() -> None:
    cells = {
        ("p", "a"): [1.0, INF],
        ("p", "b"): [1.0, 1.0],
        ("q", "a"): [1.0] * 2,
        ("q", "b"): [1.0] * 2,
    }
    one = profile_of(cells, ["a", "b"])
    assert (one.scores.loc["a", "low"], one.scores.loc["a", "high"]) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("methods", [["a"], ["a", "b"]])
def test_too_little_gives_no_profile(methods: list[str]) -> None:
    assert profile(rows({("p", name): [1.0] for name in methods}), methods) is None
    assert profile(rows({("p", "a"): [1.0], ("q", "a"): [1.0]}), ["a"]) is None


def test_the_picture_of_two_problems(plant: Callable[..., Any], context: Any) -> None:
    records = plant(
        {
            (task, name): [10, 20, 40 if name == "sgd" else 10]
            for task in ("mlp", "cnn")
            for name in ("sgd", "kfac")
        }
    )
    content = section(context(records))
    (picture,), (table,) = content.pictures, content.tables
    assert picture.file.exists()
    assert picture.file.with_suffix(".pdf").exists()
    assert "From 12 runs." in picture.caption
    assert "95 %" in picture.caption
    assert (
        "2 problems in steps, 2 problems in seconds and 2 problems in gradient-equivalents"
        in picture.caption
    )
    assert "best scores in steps: kfac (1.00)" in picture.alt.lower()
    assert [row[0].text for row in table.rows] == ["kfac", "sgd"]
    assert float(str(table.rows[0][2].order)) == 1.0


def test_nobody_reached_anything(plant: Callable[..., Any], context: Any) -> None:
    records = plant({(task, name): [INF] for task in ("mlp", "cnn") for name in ("sgd", "kfac")})
    (picture,) = section(context(records)).pictures
    assert "One seed each: no band." in picture.caption
    assert "the highest line ends at 0%" in picture.alt


def test_one_problem_or_no_target_is_said_or_silent(
    plant: Callable[..., Any], record: Callable[..., Path], context: Any
) -> None:
    record("cnn", "sgd")
    empty = section(context(plant({})))
    assert not empty.is_shown
    records = plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [20]})
    content = section(context(records))
    assert not content.pictures
    assert (
        "need two problems and two methods; here are 1 problem and 2 methods that count."
        in content.note
    )
    assert "Left out: cnn (no target)." in content.note


def test_shared_seconds_leave_their_panel_empty(plant: Callable[..., Any], context: Any) -> None:
    cells = {(task, name): [10.0, 20.0] for task in ("mlp", "cnn") for name in ("sgd", "kfac")}
    records = plant(cells, summary={"parallel": True})
    content = section(context(records))
    assert content.tables[0].columns == [
        "optimizer",
        "problems run",
        "steps",
        "gradient-equivalents",
    ]
    assert (
        "Left out of the seconds: cnn and mlp (runs shared the machine"
        in content.pictures[0].caption
    )


def test_a_cost_of_zero_is_the_least(plant: Callable[..., Any]) -> None:
    one = profile_of(
        {
            ("p", "a"): [0.0, 0.0],
            ("p", "b"): [5.0, 5.0],
            ("q", "a"): [1.0] * 2,
            ("q", "b"): [1.0] * 2,
        },
        ["a", "b"],
    )
    assert at(one.shares, [1.0]).iloc[0].to_dict() == {"a": 1.0, "b": 0.5}
    assert one.low is not None
    assert not np.isnan(one.low.to_numpy()).any()
