"""A run asked for again.

Skipped when it is done, continued when it is not, repeated with force=true.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.results.directory import RunRecord
from suite.training.runner import record_failure

Train = Callable[..., Any]

TINY_TRANSFORMER = (
    *(
        "task=char_transformer",
        "task.context=8",
        "task.width=16",
        "task.layers=1",
        "task.batch_size=4",
    ),
    *("task.val_size=8", "task.test_size=8", "task.dropout=0.2"),
)
PAIRS = {
    "sgd with noise": ("optimizer=sgd", "task=quadratic", "task.noise=0.5", "task.batch_size=4"),
    "adam with batch norm": (
        "optimizer=adam",
        "task=cnn",
        "task.channels=[2,4]",
        "task.batch_norm=true",
    ),
    "adamw with dropout, exponential": (
        "optimizer=adamw",
        *TINY_TRANSFORMER,
        "schedule=exponential",
    ),
    "kfac": (
        "optimizer=kfac",
        "task=mlp",
        "optimizer.statistics_period=3",
        "optimizer.inverse_period=4",
    ),
    "kfac with dropout": ("optimizer=kfac", *TINY_TRANSFORMER, "schedule=linear"),
    "muon with batch norm": ("optimizer=muon", "task=resnet", "task.width=2", "task.batch_size=16"),
    "ggn_cg": (
        "optimizer=ggn_cg",
        "task=autoencoder",
        "task.widths=[8,4]",
        "optimizer.max_iterations=3",
    ),
    "ggn_cg with dropout": ("optimizer=ggn_cg", *TINY_TRANSFORMER, "optimizer.max_iterations=2"),
    "torch_lbfgs, cosine": (
        "optimizer=torch_lbfgs",
        "task=logistic",
        "optimizer.max_iter=3",
        "schedule=cosine",
    ),
    "newton": ("optimizer=newton", "task=rosenbrock"),
    "newton_cg": ("optimizer=newton_cg", "task=mlp"),
    "saddle_free_newton by Lanczos": (
        "optimizer=saddle_free_newton",
        "task=mlp",
        "optimizer.krylov=3",
    ),
}
LENGTH = ("steps=11", "task.eval_every=3", "log_every=2")


class Killed(BaseException):
    """Ends a run as a kill does: nothing is caught, nothing is tidied up."""


def kill() -> None:
    raise Killed


def equal(a: Any, b: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) or (a != a and b != b)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", PAIRS)
def test_a_resumed_run_equals_an_unbroken_one(
    train: Train, planned: Train, at_batch: Train, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed after rows that no checkpoint knows of, then stopped by Ctrl-C between two logged
    steps."""
    pair = (*PAIRS[name], *LENGTH)
    plan = planned(*pair)
    # only a process's first evaluation is saved
    monkeypatch.setattr("suite.training.checkpoint.CHECKPOINT_SHARE", 1e-9)
    with at_batch(plan, 8, kill), pytest.raises(Killed):
        train(*pair)
    record = RunRecord(plan.directory)
    assert record.status() is None
    assert torch.load(record.checkpoint, weights_only=True)["numbers"]["step"] == 3
    killed_after = record.history.read_text().splitlines()
    assert killed_after[-1].startswith("6,")

    with at_batch(plan, 7, interrupt):
        stopped = train(*pair)
    assert (stopped.status, stopped.summary["steps"]) == ("interrupted", 7)
    # the rows until step 3, seconds and all
    assert record.history.read_text().splitlines()[:4] == killed_after[:4]

    resumed = train(*pair)
    final_state = resumed.checkpoint
    resumed_rows = resumed.repeatable_rows
    monkeypatch.undo()
    unbroken = train(*pair, "force=true")

    assert resumed.status == unbroken.status == "done"
    assert [int(row["step"]) for row in resumed_rows] == [0, 2, 3, 4, 6, 8, 9, 10, 11]
    assert resumed_rows == unbroken.repeatable_rows
    assert resumed.repeatable_summary == unbroken.repeatable_summary
    assert unbroken.checkpoint["numbers"].pop("seconds") != final_state["numbers"].pop("seconds")
    assert equal(final_state, unbroken.checkpoint)


def test_equal_sees_a_difference_of_one_bit() -> None:
    one = {"a": [torch.ones(2), 1.0, float("nan")]}
    assert equal(one, {"a": [torch.ones(2), 1.0, float("nan")]})
    assert not equal(
        one, {"a": [torch.nextafter(torch.ones(2), torch.zeros(2)), 1.0, float("nan")]}
    )
    assert not equal(one, {"a": [torch.ones(2).double(), 1.0, float("nan")]})


def test_a_run_that_is_done_is_skipped_and_left_as_it_is(train: Train) -> None:
    pair = ("optimizer=sgd", "task=quadratic", "steps=5")
    first = train(*pair)
    stamps = {path.name: path.stat().st_mtime_ns for path in first.directory.iterdir()}

    again = train(*pair, "threads=2", "wandb.project=other")

    assert not first.outcome.skipped
    assert again.outcome.skipped
    assert again.summary == first.summary
    assert again.outcome.metric == "gap"
    assert {path.name: path.stat().st_mtime_ns for path in again.directory.iterdir()} == stamps


def test_a_run_that_is_skipped_belongs_to_the_experiment_that_asked_for_it(train: Train) -> None:
    pair = ("optimizer=sgd", "task=quadratic", "steps=5")
    assert train(*pair).config["experiment"] is None
    again = train(*pair, experiment="quick")
    assert again.outcome.skipped
    assert again.config["experiment"] == "quick"


def test_force_repeats_a_run_bit_for_bit(train: Train) -> None:
    pair = ("optimizer=kfac", "task=mlp", "task.hidden=[8]", "steps=6", "task.eval_every=2")
    first = train(*pair)
    rows, summary = first.repeatable_rows, first.repeatable_summary

    again = train(*pair, "force=true")

    assert not again.outcome.skipped
    assert again.rows != first.rows  # the seconds are new
    assert again.repeatable_rows == rows
    assert again.repeatable_summary == summary


def test_a_run_that_failed_is_tried_again_from_its_last_checkpoint(
    train: Train, planned: Train, at_batch: Train
) -> None:
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH)

    def fail() -> None:
        raise RuntimeError("lost contact")

    with at_batch(planned(*pair), 8, fail):
        failed = train(*pair)
    assert (failed.status, failed.summary["message"]) == ("error", "RuntimeError: lost contact")
    assert failed.summary["final_gap"] is None

    done = train(*pair)
    assert done.status == "done"
    assert done.rows[:3] == failed.rows[:3]
    assert done.repeatable_rows == train(*pair, "force=true").repeatable_rows


def test_termination_is_treated_as_ctrl_c_is(train: Train, planned: Train, at_batch: Train) -> None:
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH)
    with at_batch(planned(*pair), 5, lambda: signal.raise_signal(signal.SIGTERM)):
        stopped = train(*pair)

    assert stopped.status == "interrupted"
    assert stopped.outcome.status.exit_code == 130
    assert stopped.checkpoint["numbers"]["step"] == stopped.summary["steps"] == 5
    assert stopped.summary["final_gap"] == stopped.column("val/gap")[-1]


def test_a_checkpoint_loads_as_weights_and_holds_all_that_has_state(train: Train) -> None:
    checkpoint = train(
        "optimizer=momentum", "task=quadratic", "schedule=cosine", "steps=4"
    ).checkpoint

    assert set(checkpoint) == {
        *(
            "model",
            "optimizer",
            "schedule",
            "numbers",
            "objective",
            "generator",
            "host_generator",
            "device_generator",
        )
    }
    assert checkpoint["optimizer"]["state"][0]["momentum_buffer"].shape == (100,)
    assert checkpoint["schedule"]["last_epoch"] == checkpoint["numbers"]["step"] == 4


def test_a_checkpoint_without_its_history_starts_from_nothing(
    train: Train, planned: Train, at_batch: Train
) -> None:
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH)
    with at_batch(planned(*pair), 5, interrupt):
        stopped = train(*pair)
    (stopped.directory / "history.csv").unlink()

    done = train(*pair)

    assert done.status == "done"
    assert done.column("step")[0] == 0


def test_an_unfinished_run_survives_a_time_in_which_it_cannot_be_built(
    train: Train, planned: Train, at_batch: Train
) -> None:
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH)
    with at_batch(planned(*pair), 5, interrupt):
        stopped = train(*pair)
    before = stopped.rows

    refused = record_failure(
        planned(*pair), FileNotFoundError("the data set is on a disk that is not there")
    )
    assert refused.status == "error"

    assert train(*pair).rows[: len(before)] == before


def test_what_a_checkpoint_knows_of_is_on_disk_before_it(
    train: Train, planned: Train, at_batch: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH)
    last: list[str] = []
    history = RunRecord(planned(*pair).directory).history
    monkeypatch.setattr(
        "suite.training.checkpoint.Checkpoint.save",
        lambda *_: last.append(history.read_text().splitlines()[-1].split(",")[0]),
    )
    monkeypatch.setattr("suite.training.checkpoint.CHECKPOINT_SHARE", 1e9)
    with at_batch(planned(*pair), 8, interrupt):
        train(*pair)

    assert last == ["3", "6", "8"]  # two evaluations, and the step after which it was stopped


def test_checkpoints_take_no_more_than_their_share_of_the_time(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        "suite.training.checkpoint.Checkpoint.save",
        lambda checkpoint: saved.append(checkpoint.context.state.step),
    )
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH, "force=true")

    monkeypatch.setattr("suite.training.checkpoint.CHECKPOINT_SHARE", 1e9)
    train(*pair)

    assert saved == [3, 6, 9, 11]


def test_the_second_ctrl_c_does_not_wait(train: Train, planned: Train, at_batch: Train) -> None:
    pair = ("optimizer=sgd", "task=quadratic", *LENGTH)

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with at_batch(planned(*pair), 5, twice), pytest.raises(KeyboardInterrupt):
        train(*pair)
