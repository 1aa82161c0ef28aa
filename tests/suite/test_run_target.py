"""The target: when it was reached, in both directions, and what stopping there changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Train = Callable[..., Any]

PAIRS = {
    "min": ("optimizer=sgd", "task=quadratic", "task.eval_every=2", "steps=12", "target=1.0"),
    "max": (
        "optimizer=adam",
        "task=mlp",
        "task.hidden=[16]",
        "task.eval_every=2",
        "steps=12",
        "target=0.25",
    ),
}
METRIC = {"min": "gap", "max": "accuracy"}


def first_at_target(done: Any, direction: str, target: float) -> dict[str, str]:
    """The first evaluation in the history whose metric is at least as good as the target."""
    values = [row for row in done.rows if row[f"val/{METRIC[direction]}"]]
    sign = 1 if direction == "max" else -1
    reached: dict[str, str] = next(
        row for row in values if sign * float(row[f"val/{METRIC[direction]}"]) >= sign * target
    )
    return reached


@pytest.mark.parametrize("direction", PAIRS)
def test_the_first_evaluation_at_the_target_is_noted_and_training_goes_on(
    train: Train, direction: str
) -> None:
    done = train(*PAIRS[direction])
    row = first_at_target(done, direction, done.summary["target"])

    assert (done.status, done.summary["steps"]) == ("done", 12)
    assert 0 < done.summary["target_step"] == int(row["step"]) < 12
    assert done.summary["target_seconds"] == pytest.approx(float(row["seconds"]), abs=1e-6)
    assert done.summary["target_grad_equivalents"] == pytest.approx(
        float(row["grad_equivalents"]), abs=1e-3
    )


@pytest.mark.parametrize("direction", PAIRS)
def test_a_run_may_stop_at_its_target(train: Train, direction: str) -> None:
    through = train(*PAIRS[direction])
    stopped = train(*PAIRS[direction], "stop_at_target=true")

    assert stopped.status == "target"
    assert (
        stopped.summary["steps"] == stopped.summary["target_step"] == through.summary["target_step"]
    )
    assert stopped.repeatable_rows[:-1] == through.repeatable_rows[: len(stopped.rows) - 1]
    assert stopped.rows[-1][f"test/{METRIC[direction]}"] != ""
    assert stopped.summary[f"final_{METRIC[direction]}"] is not None
    assert stopped.outcome.status.final


@pytest.mark.parametrize(
    ("direction", "target"), [("min", "target=-1"), ("max", "target=1.01"), ("max", "target=null")]
)
def test_a_target_that_is_not_reached_leaves_its_keys_empty(
    train: Train, direction: str, target: str
) -> None:
    done = train(*PAIRS[direction], target, "stop_at_target=true")

    assert done.status == "done"
    keys = ("target_step", "target_seconds", "target_grad_equivalents")
    assert [done.summary[key] for key in keys] == [None] * 3


@pytest.mark.parametrize("direction", PAIRS)
def test_best_is_the_best_and_final_is_the_last_evaluation(train: Train, direction: str) -> None:
    # the metric goes up and down
    rate = "optimizer.lr=2.5" if direction == "min" else "optimizer.lr=0.3"
    done = train(*PAIRS[direction], rate)
    values = done.column(f"val/{METRIC[direction]}")
    best = {"min": min, "max": max}[direction](values)

    assert done.summary[f"best_{METRIC[direction]}"] == best
    assert done.summary[f"final_{METRIC[direction]}"] == values[-1]
    assert best != values[-1]


def test_the_targets_key_counts_from_the_task_unless_the_run_says_otherwise(planned: Train) -> None:
    assert planned("optimizer=sgd", "task=quadratic", "task.target=0.25").config["target"] == 0.25
    assert (
        planned("optimizer=sgd", "task=quadratic", "task.target=0.25", "target=0.5").config[
            "target"
        ]
        == 0.5
    )
