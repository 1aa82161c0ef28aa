"""path.csv: where a model of two parameters stood after each step, through kills, resumption and
repetition."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import suite.report.__main__ as report
from suite.results.directory import EVERY_POINT, PathFile, RunRecord
from tasks.functions.rosenbrock import Rosenbrock

Train = Callable[..., Any]
PLANE = ("task=rosenbrock", "task.dimension=2")


class Killed(BaseException):
    """Ends a run as a kill does."""


def kill() -> None:
    raise Killed


def points(directory: Path) -> list[tuple[int, float, float]]:
    with (directory / "path.csv").open(newline="") as file:
        return [
            (int(row["step"]), float(row["x"]), float(row["y"])) for row in csv.DictReader(file)
        ]


def test_every_point_is_the_one_that_the_optimizer_reached(train: Train) -> None:
    done = train(
        "optimizer=sgd", *PLANE, "optimizer.lr=0.001", "steps=7", "task.eval_every=3", "log_every=5"
    )
    path = points(done.directory)
    assert [step for step, *_ in path] == list(range(8))
    task, lr = Rosenbrock(dimension=2), done.config["optimizer"]["lr"]
    for (_, x, y), (_, *following) in pairwise(path):
        slope = 200 * (y - x * x)
        assert following == pytest.approx(
            [x + lr * 2 * (x * slope + 1 - x), y - lr * slope], rel=1e-12
        )
    (value,) = task.values(torch.tensor([path[-1][1:]], dtype=torch.float64)).tolist()
    assert value == pytest.approx(done.summary["final_gap"], rel=1e-12)


@pytest.mark.parametrize(
    "pair", [("task=rosenbrock", "task.dimension=3"), ("task=mlp", "task.hidden=[8]")]
)
def test_only_models_of_two_parameters_leave_a_path(train: Train, pair: tuple[str, ...]) -> None:
    assert not (train("optimizer=sgd", *pair, "steps=3").directory / "path.csv").exists()


def test_a_resumed_path_equals_an_unbroken_one(
    train: Train, planned: Train, at_batch: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ("optimizer=newton", *PLANE, "steps=11", "task.eval_every=3")
    plan = planned(*pair)
    # only a process's first evaluation is saved
    monkeypatch.setattr("suite.training.checkpoint.CHECKPOINT_SHARE", 1e-9)
    with at_batch(plan, 9, kill), pytest.raises(Killed):
        train(*pair)
    assert (
        torch.load(RunRecord(plan.directory).checkpoint, weights_only=True)["numbers"]["step"] == 3
    )
    assert points(plan.directory)[-1][0] > 3
    with (plan.directory / "path.csv").open("a") as file:
        file.write("9,0.12")  # half a row

    resumed = points(train(*pair).directory)
    unbroken = points(train(*pair, "force=true").directory)

    assert [step for step, *_ in resumed] == list(range(12))
    assert resumed == unbroken


def test_a_path_that_lost_its_beginning_is_not_gone_on_with(
    train: Train, planned: Train, at_batch: Train
) -> None:
    pair = ("optimizer=sgd", *PLANE, "optimizer.lr=0.001", "steps=11", "task.eval_every=3")

    def fail() -> None:
        raise RuntimeError("lost contact")

    with at_batch(planned(*pair), 8, fail):
        failed = train(*pair)
    (failed.directory / "path.csv").unlink()
    assert train(*pair).status == "done"
    assert not (failed.directory / "path.csv").exists()


def test_a_diverged_path_goes_to_the_point_from_which_there_was_no_return(train: Train) -> None:
    done = train("optimizer=sgd", *PLANE, "optimizer.lr=1.0", "steps=50", "task.eval_every=50")
    assert done.status == "diverged"
    assert points(done.directory)[-1][0] == done.summary["steps"]


def test_long_paths_are_thinned_and_end_with_the_last_point(tmp_path: Path) -> None:
    path = PathFile(tmp_path / "path.csv")
    for step in range(5 * EVERY_POINT + 2):
        path.note(step, (float(step), -1.0))
    path.flush()
    path.flush()  # nothing is written twice
    steps = [step for step, *_ in points(tmp_path)]
    assert steps[: EVERY_POINT + 2] == [*range(EVERY_POINT + 1), EVERY_POINT + 2]
    assert {2 * EVERY_POINT, 2 * EVERY_POINT + 4, 4 * EVERY_POINT + 8, 5 * EVERY_POINT + 1} <= set(
        steps
    )
    assert steps == sorted(set(steps))
    assert (
        len(steps) == EVERY_POINT + 1 + EVERY_POINT // 2 + EVERY_POINT // 2 + EVERY_POINT // 8 + 1
    )


def test_the_report_draws_what_a_run_recorded(train: Train, results: Path) -> None:
    for optimizer, lr in (("sgd", 0.002), ("newton", 1.0)):
        train(
            f"optimizer={optimizer}", *PLANE, f"optimizer.lr={lr}", "steps=40", "task.eval_every=10"
        )
    assert report.main(["--runs", str(results / "runs"), "--out", str(results / "report")]) == 0
    names = {file.name for file in (results / "report" / "figures").glob("*rosenbrock*")}
    assert names >= {"landscape-rosenbrock.png", "animation-rosenbrock.gif", "order-rosenbrock.png"}
    with (results / "report" / "tables" / "orders_numbers.csv").open(newline="") as file:
        words = {row["optimizer"]: row["observed"] for row in csv.DictReader(file)}
    assert words["newton"].startswith("quadratic")
    assert not words["sgd"].startswith(("quadratic", "superlinear"))
