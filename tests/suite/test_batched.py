"""Copies trained together against the same runs one by one: parameters, histories, records,
ends."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
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

MLP = ("task=mlp", "steps=100", "task.eval_every=25", "task.hidden=[16]", "task.image_size=7")
SHORT = (*MLP, "steps=45", "task.eval_every=15", "precision=float64")
TIMED = {"seconds", "seconds_per_step", "target_seconds"}  # what no two runs share
MARKS = {"parallel", "batched"}


@dataclass(frozen=True)
class Left:
    """What a run has left on disk."""

    plan: Plan

    @cached_property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.plan.directory / "summary.json").read_text()))

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        with (self.plan.directory / "history.csv").open(newline="") as file:
            return [
                {key: value for key, value in row.items() if key != "seconds"}
                for row in csv.DictReader(file)
            ]

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        return dict(torch.load(self.plan.directory / "checkpoint.pt", weights_only=True))


Planned = Callable[..., Plan]
Pairs = Callable[[Sequence[Sequence[str]]], list[tuple[Left, Left]]]


@pytest.fixture
def elsewhere(tmp_path: Path, measured_costs: Path) -> Path:
    """Another folder of results, with the same oracle costs."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "costs").symlink_to(measured_costs)
    return folder


@pytest.fixture
def both(planned: Planned, elsewhere: Path) -> Pairs:
    """Each run by itself, and the same runs as a batch."""

    def carry_out(overrides: Sequence[Sequence[str]]) -> list[tuple[Left, Left]]:
        alone = [planned(*given) for given in overrides]
        batch = [planned(*given, results=elsewhere) for given in overrides]
        for plan in alone:
            run(plan)
        run_batched(batch)
        return list(zip(map(Left, alone), map(Left, batch), strict=True))

    return carry_out


def parameters(run: Left) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = run.checkpoint["model"]
    return found


def distance(one: Left, other: Left) -> float:
    """The largest difference between two runs' last parameters."""
    mine, theirs = parameters(one), parameters(other)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def assert_same_record(one: Left, other: Left, tolerance: float) -> None:
    """The same rows and the same summary but for seconds and for what marks a batch."""
    assert one.plan.directory.name == other.plan.directory.name
    assert [row.keys() for row in one.rows] == [row.keys() for row in other.rows]
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        assert [key for key in mine if not mine[key]] == [key for key in theirs if not theirs[key]]
        there = [key for key in mine if mine[key]]
        found, wanted = [float(theirs[key]) for key in there], [float(mine[key]) for key in there]
        assert found == pytest.approx(wanted, rel=tolerance, abs=tolerance, nan_ok=True)
    mine, theirs = (
        {k: v for k, v in run.summary.items() if k not in TIMED | MARKS} for run in (one, other)
    )
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        expected = (
            pytest.approx(value, rel=tolerance, abs=tolerance, nan_ok=True)
            if isinstance(value, float)
            else value
        )
        assert theirs[key] == expected, key


OPTIMIZERS = {
    "sgd": ("optimizer=sgd", "optimizer.lr=0.03,0.1"),
    "momentum": ("optimizer=momentum", "optimizer.lr=0.01,0.03"),
    "nesterov": ("optimizer=nesterov", "optimizer.lr=0.01,0.03"),
    "adam": ("optimizer=adam", "optimizer.lr=0.0003,0.003"),
    "adamw": ("optimizer=adamw", "optimizer.lr=0.0003,0.003", "optimizer.weight_decay=0.1"),
    "amsgrad": ("optimizer=adam", "optimizer.lr=0.0003,0.003", "optimizer.amsgrad=true"),
    "rmsprop": ("optimizer=rmsprop", "optimizer.lr=0.0003,0.001"),
    "lion": ("optimizer=lion", "optimizer.lr=0.0001,0.0003"),  # of a package, elementwise
    "lamb": ("optimizer=lamb", "optimizer.lr=0.001,0.003"),  # of a package, a norm for each layer
    "momo": ("optimizer=momo", "optimizer.lr=0.1,0.3"),  # asks for the loss's value
    "schedule_free": (
        "optimizer=schedule_free",
        "optimizer.lr=0.001,0.003",
    ),  # judged at other weights
}


def settings(name: str) -> list[list[str]]:
    """Two learning rates with two seeds each, on a cosine schedule for one of them."""
    optimizer, rates, *more = OPTIMIZERS[name]
    key, _, values = rates.partition("=")
    rows = [
        [optimizer, f"{key}={value}", f"seed={seed}", *more, *MLP]
        for value in values.split(",")
        for seed in (0, 1)
    ]
    rows[0].append("schedule=cosine")
    return rows


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copies_equal_separate_runs(name: str, both: Pairs) -> None:
    for alone, copy in both(settings(name)):
        assert copy.summary["status"] == alone.summary["status"] == "done"
        assert distance(alone, copy) < 1e-5
        assert_same_record(alone, copy, 1e-4)
        assert copy.summary["parallel"]
        assert copy.summary["batched"] == 4
        sizes = [(run.plan.directory / "checkpoint.pt").stat().st_size for run in (copy, alone)]
        assert sizes[0] < 1.5 * sizes[1]  # not the whole stack
        assert torch.equal(copy.checkpoint["generator"], alone.checkpoint["generator"])


TASKS = {
    "logistic": ("task=logistic", "steps=100"),
    "cnn": ("task=cnn", "task.channels=[4,4]", "task.image_size=14"),
    "batch_norm": ("task=resnet", "task.width=4"),
    "matrix_factorisation": ("task=matrix_factorisation", "steps=100"),
    "two_parameters": ("task=rosenbrock", "optimizer.lr=1e-4", "steps=50"),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_whose_copies_equal_separate_runs_in_double_precision(name: str, both: Pairs) -> None:
    given = (
        "optimizer=momentum",
        "precision=float64",
        "steps=8",
        "task.eval_every=4",
        *TASKS[name],
    )
    rates = [] if "optimizer.lr=1e-4" in given else ["optimizer.lr=0.02"]
    for alone, copy in both([[*given, *rates, "seed=0"], [*given, "seed=0"], [*given, "seed=3"]]):
        assert distance(alone, copy) < 1e-11
        assert_same_record(alone, copy, 1e-9)
        assert (copy.plan.directory / "path.csv").exists() == (
            alone.plan.directory / "path.csv"
        ).exists()


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


def test_a_copy_that_diverges_leaves_the_others_as_they_are(both: Pairs) -> None:
    rates = ("0.03", "1e6", "1e30", "0.05")
    given = [["optimizer=sgd", f"optimizer.lr={rate}", *SHORT] for rate in rates]
    pairs = both(given)
    for (alone, copy), rate in zip(pairs, rates, strict=True):
        assert (
            copy.summary["status"]
            == alone.summary["status"]
            == ("diverged" if float(rate) > 1 else "done")
        )
        if float(rate) < 1:
            assert distance(alone, copy) < 1e-11
            assert_same_record(alone, copy, 1e-9)
        else:
            assert [row["step"] for row in copy.rows] == [row["step"] for row in alone.rows]
            assert copy.summary["steps"] < 45
            assert not (copy.plan.directory / "checkpoint.pt").exists()


def test_a_row_that_is_not_a_number_does_not_reach_another() -> None:
    torch.manual_seed(0)
    models = [
        torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
        for _ in range(3)
    ]
    inputs, targets = torch.randn(7, 5), torch.randint(0, 3, (7,))
    loss_fn = torch.nn.CrossEntropyLoss()
    expected = [
        torch.autograd.grad(loss_fn(m(inputs), targets), list(m.parameters())) for m in models
    ]
    stack = StackedModel(models, loss_fn)
    with torch.no_grad():
        models[1][0].weight.fill_(math.inf)
    losses, gradients = stack.losses_and_gradients([(inputs, targets)] * 3)
    assert torch.isfinite(losses).tolist() == [True, False, True]
    for place in (0, 2):
        for gradient, wanted in zip(gradients, expected[place], strict=True):
            assert gradient is not None
            torch.testing.assert_close(gradient[place], wanted)


def test_a_stack_keeps_some_of_its_replicas() -> None:
    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2) for _ in range(4)]
    values = [model.weight.detach().clone() for model in models]
    stack = StackedModel(models, torch.nn.MSELoss())
    stack.keep([1, 3])
    with torch.no_grad():
        models[3].weight.add_(1.0)
    inputs, targets = torch.randn(5, 3), torch.randn(5, 2)
    losses, _ = stack.losses_and_gradients([(inputs, targets), (inputs, targets)])
    wanted = [torch.nn.functional.mse_loss(models[place](inputs), targets) for place in (1, 3)]
    torch.testing.assert_close(losses, torch.stack(wanted).detach())
    torch.testing.assert_close(models[0].weight.detach(), values[0])
    torch.testing.assert_close(models[3].weight.detach(), values[3] + 1)
    assert models[0].weight.untyped_storage().nbytes() == values[0].nbytes


def test_what_is_done_is_skipped_on_either_side(planned: Planned) -> None:
    given = [["optimizer=sgd", f"optimizer.lr={rate}", *SHORT] for rate in ("0.01", "0.02", "0.03")]
    plans = [planned(*each) for each in given]
    run(plans[1])
    outcomes = run_batched([*plans, plans[0]])  # the last one is asked for twice
    assert [outcome.skipped for outcome in outcomes] == [False, True, False, False]
    assert [Left(plan).summary.get("batched") for plan in plans] == [2, None, 2]
    assert all(outcome.skipped for outcome in run_batched(plans))
    assert all(run(plan).skipped for plan in plans)


def test_each_copy_stops_at_its_own_target_and_budget(both: Pairs) -> None:
    rates = ("0.001", "0.1")
    stopping = ("target=0.5", "stop_at_target=true")
    for (alone, copy), status in zip(
        both([["optimizer=sgd", f"optimizer.lr={rate}", *stopping, *SHORT] for rate in rates]),
        ("done", "target"),
        strict=True,
    ):
        assert copy.summary["status"] == status
        assert_same_record(alone, copy, 1e-9)
    limited = [
        ["optimizer=sgd", f"optimizer.lr={rate}", "max_grad_equivalents=30", *SHORT]
        for rate in rates
    ]
    for alone, copy in both(limited):
        assert copy.summary["status"] == alone.summary["status"] == "timeout"
        assert copy.summary["steps"] == alone.summary["steps"] == 31


def test_gradients_are_clipped_copy_by_copy(both: Pairs) -> None:
    given = [["optimizer=sgd", f"optimizer.lr={r}", "clip_grad_norm=0.5", *SHORT] for r in (0.1, 1)]
    for alone, copy in both(given):
        assert distance(alone, copy) < 1e-11


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "rmsprop"])
def test_an_interrupted_batch_goes_on(
    optimizer: str,
    both: Pairs,
    planned: Planned,
    elsewhere: Path,
    at_batch: Callable[[Plan, int, Callable[[], object]], AbstractContextManager[None]],
) -> None:
    given = [[f"optimizer={optimizer}", f"seed={seed}", *SHORT] for seed in (0, 1)]
    batch = [planned(*each, results=elsewhere) for each in given]
    with at_batch(batch[0], 20, interrupt_once()):
        assert [outcome.status for outcome in run_batched(batch)] == [Status.INTERRUPTED] * 2
    assert [Left(plan).summary["steps"] for plan in batch] == [20, 20]
    for alone, copy in both(given):
        assert copy.summary["status"] == "done"
        assert distance(alone, copy) < 1e-11
        assert_same_record(alone, copy, 1e-9)
    run(planned(*given[0], results=elsewhere, command="again"))
    assert Left(batch[0]).summary["batched"] == 2


def test_a_run_by_itself_goes_on_where_a_batch_was_interrupted(
    both: Pairs,
    planned: Planned,
    elsewhere: Path,
    at_batch: Callable[[Plan, int, Callable[[], object]], AbstractContextManager[None]],
) -> None:
    given = [["optimizer=adamw", f"seed={seed}", *SHORT] for seed in (0, 1)]
    batch = [planned(*each, results=elsewhere) for each in given]
    with at_batch(batch[0], 20, interrupt_once()):
        run_batched(batch)
    run(batch[0])
    for alone, copy in both(given):
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
    both: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.batched.batch.BUDGET", 1)
    for alone, copy in both([["optimizer=sgd", f"seed={seed}", *SHORT] for seed in (0, 1, 2)]):
        assert copy.summary["batched"] == 1
        assert distance(alone, copy) < 1e-11


def test_a_batch_that_cannot_go_on_is_carried_out_one_by_one(
    both: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = mock.patch.object(
        StackedModel, "losses_and_gradients", side_effect=torch.OutOfMemoryError("too much")
    )
    with fails, mock.patch("suite.batched.batch.reason_for", return_value=None):
        pairs = both([["optimizer=sgd", f"seed={seed}", *SHORT] for seed in (0, 1)])
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
