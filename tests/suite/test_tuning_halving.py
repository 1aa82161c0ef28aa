"""Successive halving: who goes on, and that a run which goes on is the run it would have been."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from suite.tune import __main__ as tune
from suite.tune import load_trials
from suite.tune.halving import Halt, rungs, scores_of, survivors

WORDS = [
    "optimizer=sgd",
    "task=quadratic",
    "jobs=1",
    "scale=quick",
    "task.steps=27",
    "task.eval_every=3",
]


def test_trials_are_compared_at_a_ninth_and_a_third() -> None:
    assert rungs(90) == [10, 30]
    assert rungs(100) == [12, 34]
    assert rungs(1) == [1, 1]


def test_the_best_third_goes_on_and_the_default_always() -> None:
    scores = {number: float(number) for number in range(9)}
    assert survivors(scores, 1) == {0, 6, 7, 8}
    assert survivors(scores, 2) == {0, 8}
    assert survivors({0: 1.0, 1: 2.0}, 1) == {0, 1}
    assert survivors({0: -1.0}, 1) == {0}


def test_of_equals_the_earlier_goes_on_and_no_failure_does() -> None:
    assert survivors({0: 0.0, 1: 5.0, 2: 5.0, 3: 5.0}, 1) == {0, 1, 2}
    assert survivors({0: 0.0, **dict.fromkeys(range(1, 9), -math.inf)}, 1) == {0}
    assert survivors({0: -math.inf, 1: -math.inf}, 1) == {0}


def test_a_run_is_stopped_at_the_first_evaluation_from_its_rung_on() -> None:
    halt = Halt(10, 90)
    assert [halt(step, 0.5) for step in (3, 9)] == [None, None]
    assert halt(12, 0.5) == "stopped by successive halving at step 12 of 90"


def test_scores_are_read_from_the_evaluations_of_a_history(tmp_path: Path) -> None:
    rows = [
        "step,loss,val/gap",
        "0,,9.0",
        "1,3.0,",
        "3,3.0,4.0",
        "6,1.0,",
        "9,1.0,2.0",
        "27,1.0,1.0",
    ]
    (tmp_path / "history.csv").write_text("\n".join(rows) + "\n")
    assert scores_of(tmp_path, 27, "gap", -1.0) == [-4.0, -2.0]
    (tmp_path / "history.csv").write_text("\n".join(rows[:4]) + "\n")
    assert scores_of(tmp_path, 27, "gap", -1.0) == [-4.0]
    assert scores_of(tmp_path / "absent", 27, "gap", -1.0) == []


@pytest.fixture
def home(results: Path) -> Path:
    (results / "tune").mkdir()
    (results / "tune" / "costs").symlink_to(results / "costs")
    return results


def validation(directory: Path) -> dict[int, float]:
    with (directory / "history.csv").open(newline="") as file:
        return {
            int(row["step"]): float(row["val/gap"])
            for row in csv.DictReader(file)
            if row["val/gap"]
        }


def test_a_halved_study_equals_whole_runs_looked_at_early(home: Path, tmp_path: Path) -> None:
    """The oracle is a study without a pruner.

    The same settings, run to the end, ranked by their curves.
    """
    tune.tune(tune.parse([*WORDS, "trials=7", f"out={tmp_path / 'a'}"]))
    whole = load_trials(home).set_index("number")
    (home / "tune" / "runs").rename(home / "tune" / "whole")
    tune.tune(tune.parse([*WORDS, "trials=7", "pruner=halving", f"out={tmp_path / 'b'}"]))
    both = load_trials(home)
    halved = both[both["pruner"] == "halving"].set_index("number")

    curves = {
        number: validation(Path(path.replace("/tune/runs/", "/tune/whole/")))
        for number, path in whole["path"].items()
    }
    alive: set[Any] = set(curves)
    for step, places in ((3, 3), (9, 1)):
        order = sorted(alive, key=lambda number: curves[number][step])
        stopped = alive - set(order[:places]) - {0}
        for number in stopped:
            assert halved.loc[number, "status"] == "pruned"
            assert halved.loc[number, "value"] == curves[number][step]
            assert halved.loc[number, "grad_equivalents"] == step
            assert (
                Path(halved.loc[number, "path"]) / "checkpoint.pt"
            ).exists()  # to go on from, if it is asked for
        alive -= stopped
    assert 1 <= len(alive) <= 2
    for number in alive:
        assert halved.loc[number, "status"] == "done"
        assert halved.loc[number, "value"] == whole.loc[number, "value"]
        assert validation(Path(halved.loc[number, "path"])) == curves[number]
    assert halved["grad_equivalents"].sum() < whole["grad_equivalents"].sum() / 1.5
    stops = [json.loads((Path(path) / "summary.json").read_text()) for path in halved["path"]]
    assert sum(
        s["message"].startswith("stopped by successive halving at step") for s in stops
    ) == 7 - len(alive)


def test_a_run_too_short_to_be_looked_at_early_is_run_whole(home: Path, tmp_path: Path) -> None:
    words = [word for word in WORDS if "eval_every" not in word] + ["task.eval_every=27"]
    tune.tune(tune.parse([*words, "trials=3", "pruner=halving", f"out={tmp_path / 'a'}"]))
    # lr=2.53 is too much here
    assert sorted(load_trials(home)["status"]) == ["diverged", "done", "done"]
