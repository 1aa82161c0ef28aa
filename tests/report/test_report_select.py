"""Choosing runs by their settings, and the long frame of all their steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.errors import ConfigError
from suite.results.frame import Records, only
from suite.results.load import load_runs
from suite.results.run import Run
from suite.results.select import select, setting


@pytest.fixture
def recorded(plant: Callable[..., Any], runs: Path) -> list[Run]:
    """Two tasks, two optimizers, two seeds; one task belongs to an experiment."""
    plant(
        {(task, name): [10, 20] for task in ("mlp", "cnn") for name in ("sgd", "kfac")},
        config=lambda task, name: {"experiment": "quick" if task == "mlp" else None},
        settings=lambda task, name: {"depth": 3 if task == "mlp" else 5},
    )
    return load_runs(runs)[0]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 8),
        ({"task": "mlp"}, 4),
        ({"task": "mlp,cnn", "optimizer": "kfac"}, 4),
        ({"experiment": "quick"}, 4),
        ({"experiment": "null"}, 4),
        ({"seed": "1", "optimizer": "sgd"}, 2),
        ({"depth": "3"}, 4),
        ({"task.depth": "5", "seed": "0,1"}, 4),
    ],
)
def test_every_filter_must_be_passed(
    recorded: list[Run], filters: dict[str, str], count: int
) -> None:
    selected = select(recorded, filters)
    assert len(selected) == count
    assert selected == [run for run in recorded if run in selected]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"optimizer": "kfca"}, r"optimizer=kfca.*Did you mean kfac.*There are: kfac, sgd"),
        ({"task": "cnn", "experiment": "quick"}, "no run has experiment=quick"),
        ({"scael": "quick"}, "no run has a setting .scael.. Did you mean scale"),
    ],
)
def test_a_filter_that_nothing_passes_says_what_there_is(
    recorded: list[Run], filters: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        select(recorded, filters)


def test_of_no_runs_none_are_selected() -> None:
    assert select([], {"task": "mlp"}) == []


def test_a_group_of_settings_has_no_value(recorded: list[Run]) -> None:
    assert setting(recorded[0], "task._target_")
    assert setting(recorded[0], "nothing.here") is None


def test_the_long_frame_has_a_row_for_each_logged_step(plant: Callable[..., Any]) -> None:
    records: Records = plant(
        {("mlp", "sgd"): [10, math.inf], ("cnn", "kfac"): [5]}, config={"experiment": "quick"}
    )
    frame = records.tidy()
    assert len(frame) == sum(map(len, records.histories.values()))
    assert frame["run_id"].nunique() == 3
    assert set(frame["experiment"]) == {"quick"}
    one = frame[(frame["optimizer"] == "kfac") & (frame["step"] == 5)]
    (index,) = records.pair("cnn", "kfac").index
    history = records.histories[index].set_index("step")
    metric = one["metric"].item()
    for name, column in (
        ("value", f"val/{metric}"),
        ("seconds", "seconds"),
        ("grad_equivalents", "grad_equivalents"),
    ):
        assert one[name].item() == history.loc[5, column]


def test_a_run_without_history_stays_countable(
    record: Callable[..., Path], plant: Callable[..., Any], training: Any
) -> None:
    record("mlp", "newton", 0, training(status="unsupported"), config={"target": 0.5})
    frame = plant({("mlp", "sgd"): [10]}).tidy()
    refused = frame[frame["optimizer"] == "newton"]
    assert refused["status"].unique() == ["unsupported"]
    assert frame.groupby("optimizer")["run_id"].nunique().to_dict() == {"newton": 1, "sgd": 1}


def test_the_long_frame_of_a_problem_is_its_part_of_the_whole(plant: Callable[..., Any]) -> None:
    records = plant({("mlp", "sgd"): [10], ("cnn", "sgd"): [10]})
    assert set(only(records, "mlp").tidy()["task"]) == {"mlp"}
