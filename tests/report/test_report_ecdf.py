"""The ECDF over problems, levels and seeds: shares by hand, bands, and the odd cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.report.sections.answers.ecdf import reach, relative_costs, section
from suite.results.aggregate import aggregated
from suite.results.time_to_target import level_costs
from suite.stats import at

INF = math.inf


def rows(cells: dict[tuple[str, str], list[list[float]]]) -> pd.DataFrame:
    """`{(problem, method): a list of seeds, each with the costs of its levels}`."""
    return pd.DataFrame(
        [
            {"problem": problem, "optimizer": name, "seed": seed, "level": f"{level}", "cost": cost}
            for (problem, name), seeds in cells.items()
            for seed, costs in enumerate(seeds)
            for level, cost in enumerate(costs)
        ]
    )


def test_shares_by_hand() -> None:
    one = reach(
        rows({("p", "a"): [[0.1, 0.5], [0.2, INF]], ("p", "b"): [[1, 2], [INF, INF]]}), ["a", "b"]
    )
    assert one is not None
    heights = at(one.shares, [0.05, 0.1, 0.2, 0.5, 1, 5])
    assert list(heights["a"]) == [0, 0.25, 0.5, 0.75, 0.75, 0.75]
    assert list(heights["b"]) == [0, 0, 0, 0, 0.25, 0.5]


def test_a_problem_not_run_has_none_of_its_levels_reached_but_a_missing_seed_does_not_count() -> (
    None
):
    cells = {("p", "a"): [[1.0]], ("q", "a"): [[1.0], [1.0]], ("q", "b"): [[1.0]]}
    one = reach(rows(cells), ["a", "b"])
    assert one is not None
    assert at(one.shares, [1.0]).iloc[0].to_dict() == {"a": 1.0, "b": 0.5}


def test_the_band_comes_from_the_seeds() -> None:
    same = reach(rows({("p", "a"): [[0.1, 0.5]] * 3}), ["a"])
    assert same is not None
    low, high = same.bands["a"]
    np.testing.assert_allclose(low, high)
    np.testing.assert_allclose(low, at(same.shares, same.grid * (1 + 1e-12))["a"])
    apart = reach(rows({("p", "a"): [[0.1], [1.0], [INF]]}), ["a"])
    assert apart is not None
    low, high = apart.bands["a"]
    assert (low[0], high[0], low[-1], high[-1]) == (0, 1, 0, 1)
    assert reach(rows({("p", "a"): [[0.1, 0.2]]}), ["a"]).bands == {}  # type: ignore[union-attr]


def test_bands_resample_each_problem_by_itself() -> None:
    """Two problems: in each a seed with and a seed without success, a mean of four coins with
    weights a quarter."""
    one = reach(rows({(problem, "a"): [[0.1], [INF]] for problem in "pqrs"}), ["a"])
    assert one is not None
    low, high = one.bands["a"]
    # eight draws, each a success or not
    draws = np.random.default_rng(1).binomial(8, 0.5, size=100_000) / 8
    assert (low[0], high[0]) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.126)


def test_costs_are_in_units_of_the_baselines_whole_run(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [50, INF], ("mlp", "kfac"): [10, 20]},
        config={"levels": {50: 0.25, 100: 0.5}},
        seconds_per_step=lambda task, optimizer: 0.04 if optimizer == "kfac" else 0.01,
    )
    reached = level_costs(records)
    tables, left_out = relative_costs(records, reached, aggregated(records, reached))
    cost = tables["steps"].set_index(["optimizer", "level", "seed"])["cost"]
    # the target is the latter
    assert cost.index.get_level_values("level").unique().tolist() == ["50 %", "100 %"]
    assert (cost["sgd", "100 %", 0], cost["kfac", "100 %", 1], cost["sgd", "100 %", 1]) == (
        0.5,
        0.2,
        INF,
    )
    seconds = tables["seconds"].set_index(["optimizer", "level", "seed"])["cost"]
    assert seconds["kfac", "100 %", 1] == pytest.approx(0.8)
    assert left_out == ""


def test_seconds_need_a_clock_for_every_run(plant: Callable[..., Any]) -> None:
    """kfac shared the machine.

    It is never at cnn's target, for which no clock is needed, but at the level below.
    """
    records = plant(
        {
            ("mlp", "sgd"): [50, 60],
            ("mlp", "kfac"): [10, 20],
            ("cnn", "sgd"): [50, 60],
            ("cnn", "kfac"): [INF, INF],
            ("vae", "sgd"): [50, 60],
        },
        config={"levels": {50: 0.25, 100: 0.5}},
        summary=lambda task, optimizer: {"parallel": optimizer == "kfac"},
    )
    reached = level_costs(records)
    chosen = aggregated(records, reached)
    assert list(chosen.rough) == ["mlp"]
    assert set(chosen.by_unit["seconds"]["problem"]) == {"cnn", "vae"}
    tables, left_out = relative_costs(records, reached, chosen)
    assert left_out == "Left out of the seconds, too: cnn (not every run has a clock)."
    assert set(tables["seconds"]["problem"]) == {"vae"}
    assert set(tables["steps"]["problem"]) == {"mlp", "cnn", "vae"}


def test_one_problem_is_enough_for_a_picture(plant: Callable[..., Any], context: Any) -> None:
    records = plant(
        {("mlp", "sgd"): [50, 60], ("mlp", "kfac"): [10, INF]},
        config={"levels": {50: 0.25, 80: 0.4}},
    )
    (picture,) = section(context(records)).pictures
    assert picture.file.exists()
    assert "1 problem with 3 levels each." in picture.caption
    assert "From 4 runs." in picture.caption
    assert "steps: sgd 100% and kfac 67%" in picture.alt


@pytest.mark.parametrize("steps", [[INF], [INF, INF]])
def test_nothing_reached_is_said(
    plant: Callable[..., Any], context: Any, steps: list[float]
) -> None:
    records = plant({("mlp", "sgd"): steps})
    (picture,) = section(context(records)).pictures
    assert "no band" in picture.caption
    assert "sgd 0%" in picture.alt


def test_no_level_or_no_baseline_is_no_picture(
    record: Callable[..., Path], plant: Callable[..., Any], context: Any
) -> None:
    record("mlp", "sgd")
    assert not section(context(plant({}))).is_shown
    assert not section(context(plant({("cnn", "kfac"): [10.0]}))).is_shown
