"""How replicas of a batch end, and which plans can be one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from suite.batched import reason_against, run_batched, together
from suite.batched.replicas import Ensemble
from suite.batched.stacked_model import StackedModel
from suite.config.plan import Plan
from suite.errors import ConfigError
from suite.results.status import Status
from suite.training.runner import run
from tests.suite.batched_cases import (
    SHORT,
    Left,
    Pairs,
    Planned,
    assert_same_record,
    distance,
)


def interrupt_once() -> Callable[[], None]:
    """Ctrl-C at the first call.

    The streams of several seeds come to the same step one after the other.
    """
    left = [1]

    def act() -> None:
        if left:
            left.pop()
            os.kill(os.getpid(), signal.SIGINT)

    return act


def trained(folder: Path, planned: Planned, *overrides: Sequence[str]) -> list[Left]:
    plans = [planned(*given, results=folder) for given in overrides]
    run_batched(plans)
    return [Left(plan) for plan in plans]


def test_what_is_done_is_skipped_on_either_side(planned: Planned) -> None:
    given = [["optimizer=sgd", f"optimizer.lr={rate}", *SHORT] for rate in ("0.01", "0.02", "0.03")]
    plans = [planned(*each) for each in given]
    run(plans[1])
    outcomes = run_batched([*plans, plans[0]])  # the last one is asked for twice
    assert [outcome.skipped for outcome in outcomes] == [False, True, False, False]
    assert [Left(plan).summary.get("batched") for plan in plans] == [2, None, 2]
    assert all(outcome.skipped for outcome in run_batched(plans))
    assert all(run(plan).skipped for plan in plans)


def test_each_copy_stops_at_its_own_target_and_budget(apart_and_batched: Pairs) -> None:
    rates = ("0.001", "0.1")
    stopping = ("target=0.5", "stop_at_target=true")
    for (alone, copy), status in zip(
        apart_and_batched(
            [["optimizer=sgd", f"optimizer.lr={rate}", *stopping, *SHORT] for rate in rates]
        ),
        ("done", "target"),
        strict=True,
    ):
        assert copy.summary["status"] == status
        assert_same_record(alone, copy, 1e-9)
    limited = [
        ["optimizer=sgd", f"optimizer.lr={rate}", "max_grad_equivalents=30", *SHORT]
        for rate in rates
    ]
    for alone, copy in apart_and_batched(limited):
        assert copy.summary["status"] == alone.summary["status"] == "timeout"
        assert copy.summary["steps"] == alone.summary["steps"] == 31


def test_gradients_are_clipped_copy_by_copy(apart_and_batched: Pairs) -> None:
    given = [["optimizer=sgd", f"optimizer.lr={r}", "clip_grad_norm=0.5", *SHORT] for r in (0.1, 1)]
    for alone, copy in apart_and_batched(given):
        assert distance(alone, copy) < 1e-11


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "rmsprop"])
def test_an_interrupted_batch_goes_on(
    optimizer: str,
    apart_and_batched: Pairs,
    planned: Planned,
    elsewhere: Path,
    at_batch: Callable[[Plan, int, Callable[[], object]], AbstractContextManager[None]],
) -> None:
    given = [[f"optimizer={optimizer}", f"seed={seed}", *SHORT] for seed in (0, 1)]
    batch = [planned(*each, results=elsewhere) for each in given]
    with at_batch(batch[0], 20, interrupt_once()):
        assert [outcome.status for outcome in run_batched(batch)] == [Status.INTERRUPTED] * 2
    assert [Left(plan).summary["steps"] for plan in batch] == [20, 20]
    for alone, copy in apart_and_batched(given):
        assert copy.summary["status"] == "done"
        assert distance(alone, copy) < 1e-11
        assert_same_record(alone, copy, 1e-9)
    run(planned(*given[0], results=elsewhere, command="again"))
    assert Left(batch[0]).summary["batched"] == 2


def test_a_run_by_itself_goes_on_where_a_batch_was_interrupted(
    apart_and_batched: Pairs,
    planned: Planned,
    elsewhere: Path,
    at_batch: Callable[[Plan, int, Callable[[], object]], AbstractContextManager[None]],
) -> None:
    given = [["optimizer=adamw", f"seed={seed}", *SHORT] for seed in (0, 1)]
    batch = [planned(*each, results=elsewhere) for each in given]
    with at_batch(batch[0], 20, interrupt_once()):
        run_batched(batch)
    run(batch[0])
    for alone, copy in apart_and_batched(given):
        assert distance(alone, copy) < 1e-11
    assert Left(batch[0]).summary.get("batched") is None


def test_the_failure_of_one_optimizer_is_its_own(elsewhere: Path, planned: Planned) -> None:
    step, calls = torch.optim.RMSprop.step, [0]

    def failing(self: Any, closure: Any = None) -> Any:
        if self.param_groups[0]["lr"] == 0.002 and calls[0] > 10:
            raise ZeroDivisionError("as arranged")
        calls[0] += 1
        return step(self, closure)

    given = [["optimizer=rmsprop", f"optimizer.lr={rate}", *SHORT] for rate in ("0.001", "0.002")]
    assert reason_against(planned(*given[0])) is None
    with mock.patch.object(torch.optim.RMSprop, "step", failing):
        fine, failed = trained(elsewhere, planned, *given)
    assert (fine.summary["status"], fine.summary["steps"]) == ("done", 45)
    assert failed.summary["status"] == "error"
    assert "as arranged" in failed.summary["message"]


def test_copies_that_do_not_fit_together_follow_one_another(
    apart_and_batched: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.batched.batch.BUDGET", 1)
    for alone, copy in apart_and_batched(
        [["optimizer=sgd", f"seed={seed}", *SHORT] for seed in (0, 1, 2)]
    ):
        assert copy.summary["batched"] == 1
        assert distance(alone, copy) < 1e-11


def test_a_batch_that_cannot_go_on_is_carried_out_one_by_one(
    apart_and_batched: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = mock.patch.object(
        StackedModel, "losses_and_gradients", side_effect=torch.OutOfMemoryError("too much")
    )
    with fails, mock.patch("suite.batched.batch.reason_for", return_value=None):
        pairs = apart_and_batched([["optimizer=sgd", f"seed={seed}", *SHORT] for seed in (0, 1)])
    assert "given up (OutOfMemoryError: too much)" in capsys.readouterr().err
    for alone, copy in pairs:
        assert distance(alone, copy) == 0
        assert "batched" not in copy.summary


def test_one_stream_of_data_serves_all_of_a_seed(planned: Planned) -> None:
    class Task:
        drawn = 0

        def batches(self, split: str, seed: int, start: int) -> Any:
            for number in range(start, 100):
                self.drawn += 1
                yield number, seed

    task: Any = Task()
    ensemble = Ensemble(task)
    streams = [ensemble.batches(seed, 5) for seed in (0, 0, 0, 1)]
    for step in range(5, 9):
        found = [next(stream) for stream in streams]
        assert [number for number, _ in found] == [step] * 4
        assert found[0] is found[1] is found[2]
        assert found[0] != found[3]
    assert task.drawn == 8


REASONS = {
    "needs": (["optimizer=kfac"], "asks for layers"),
    "searches": (["optimizer=sls"], "more than the loss and its gradient once"),
    "closure": (["optimizer=torch_lbfgs"], "more than the loss and its gradient once"),
    "recurrent": (["task=char_rnn"], "cannot be vectorised"),
    "compile": (["compile=true"], "compiled"),
    "bf16": (["precision=bf16"], "autocast"),
    "accumulate": (["accumulate=2"], "slices"),
    "telemetry": (["telemetry=true"], "telemetry"),
    "seconds": (["max_seconds=5"], "max_seconds"),
    "mirror": (["wandb.mode=offline"], "wandb.mode=disabled"),
    "large": (["task.hidden=[4096,4096]"], "parameters"),
    "setting": (["optimizer=adamw", "optimizer.lr=-1"], "cannot be built"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_plan_that_cannot_be_batched_is_told_why(name: str, planned: Planned) -> None:
    overrides, words = REASONS[name]
    plan = planned("optimizer=sgd", "task=mlp", *overrides)
    reason = reason_against(plan)
    assert reason is not None
    assert words in reason
    if name != "setting":
        with pytest.raises(ConfigError, match="cannot be batched"):
            run_batched([plan])
        assert not plan.directory.exists()


def test_random_models_and_several_processes_are_refused(
    planned: Planned, module: Callable[[str, str], str]
) -> None:
    assert "processes" in str(reason_against(planned("optimizer=sgd", "task=mlp", world_size=2)))
    source = """
        from torch import nn
        from tasks.vision.mlp import MLP

        class Dropping(MLP):
            def build(self):
                return nn.Sequential(super().build(), nn.Dropout(0.1))
    """
    module("dropping", "\n".join(line[8:] for line in source.splitlines()))
    plan = planned(
        "optimizer=sgd", "task=mlp", "task._target_=dropping.Dropping", "allow=[dropping]"
    )
    assert "random numbers" in str(reason_against(plan))


def test_what_may_differ_within_a_batch(planned: Planned) -> None:
    base = planned("optimizer=sgd", "task=mlp")
    for same in (
        ["optimizer.lr=0.5"],
        ["seed=7"],
        ["schedule=cosine"],
        ["optimizer.weight_decay=0.1", "seed=2"],
    ):
        assert together([base, planned("optimizer=sgd", "task=mlp", *same)]), same
    for other in (
        ["optimizer=adamw"],
        ["task=cnn"],
        ["steps=7"],
        ["task.batch_size=32"],
        ["clip_grad_norm=1"],
    ):
        assert not together([base, planned("optimizer=sgd", "task=mlp", *other)]), other
    with pytest.raises(ConfigError, match="differ in settings and seeds alone"):
        run_batched([base, planned("optimizer=sgd", "task=cnn")])
    assert together([])
    assert run_batched([]) == []
