"""Seeds at each level: counts and steps by hand, the order of levels, and the odd cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.report.sections.answers.seeds_per_level import level_steps, section
from suite.results.time_to_target import level_costs

INF = math.inf


def test_counts_and_steps_by_hand(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [10, 40, INF], ("mlp", "kfac"): [5, 5, 5]},
        config={"levels": {50: 0.2, 100: 0.5}},
    )
    steps = level_steps(records, level_costs(records))["mlp"]
    easy, hard = steps["sgd"]
    # the target is the latter's value
    assert [one.level for one in steps["sgd"]] == ["50 %", "100 %"]
    assert (easy.reached, easy.runs, easy.first, easy.last, easy.middle) == (3, 3, 5, 80, 20)
    assert (hard.reached, hard.runs, hard.first, hard.last) == (2, 3, 10, 40)
    assert (hard.middle, hard.seen) == (40, 25)
    assert steps["kfac"][-1].reached == 3


def test_levels_of_a_metric_that_falls_stand_from_the_easiest(
    plant: Callable[..., Any], record: Callable[..., Path], training: Any
) -> None:
    config = {"direction": "min", "metric": "gap", "target": 0.1, "levels": {50: 0.5, 80: 0.2}}
    record("mlp", "sgd", 0, training(final=0.3), config=config)
    records = plant({})
    assert [one.level for one in level_steps(records, level_costs(records))["mlp"]["sgd"]] == [
        "50 %",
        "80 %",
        "target",
    ]


def test_the_picture_and_its_words(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "sgd"): [10, INF], ("mlp", "kfac"): [20, 20], ("cnn", "sgd"): [INF]})
    (picture,) = section(context(records)).pictures
    assert picture.file.exists()
    assert "mlp, target, with all seeds: kfac (20 steps)" in picture.alt
    assert "cnn, target, with all seeds: nobody" in picture.alt
    assert "No run reached any level of cnn." in picture.caption
    assert "From 5 runs." in picture.caption


@pytest.mark.parametrize("many", [1, 40])
def test_long_labels_and_many_methods(
    plant: Callable[..., Any], record: Callable[..., Path], context: Any, many: int
) -> None:
    cells = {
        ("a_task_with_quite_a_long_name", f"a_method_with_a_long_name_{n}"): [5.0 + 5 * (n % 4)]
        for n in range(many)
    }
    (picture,) = section(context(plant(cells))).pictures
    assert f"From {many} run{'s' if many > 1 else ''}." in picture.caption


def test_no_levels_no_picture(
    plant: Callable[..., Any], record: Callable[..., Path], context: Any
) -> None:
    record("mlp", "sgd")
    assert not section(context(plant({}))).is_shown
