"""Copies trained together against the same runs one by one: parameters, histories, records,
ends."""

from __future__ import annotations

import math

import pytest
import torch

from suite.batched.stacked_model import StackedModel
from tests.suite.batched_cases import (
    MLP,
    SHORT,
    Pairs,
    assert_same_record,
    distance,
)

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
def test_copies_equal_separate_runs(name: str, apart_and_batched: Pairs) -> None:
    for alone, copy in apart_and_batched(settings(name)):
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
def test_tasks_whose_copies_equal_separate_runs_in_double_precision(
    name: str, apart_and_batched: Pairs
) -> None:
    given = (
        "optimizer=momentum",
        "precision=float64",
        "steps=8",
        "task.eval_every=4",
        *TASKS[name],
    )
    rates = [] if "optimizer.lr=1e-4" in given else ["optimizer.lr=0.02"]
    for alone, copy in apart_and_batched(
        [[*given, *rates, "seed=0"], [*given, "seed=0"], [*given, "seed=3"]]
    ):
        assert distance(alone, copy) < 1e-11
        assert_same_record(alone, copy, 1e-9)
        assert (copy.plan.directory / "path.csv").exists() == (
            alone.plan.directory / "path.csv"
        ).exists()


def test_a_copy_that_diverges_leaves_the_others_as_they_are(apart_and_batched: Pairs) -> None:
    rates = ("0.03", "1e6", "1e30", "0.05")
    given = [["optimizer=sgd", f"optimizer.lr={rate}", *SHORT] for rate in rates]
    pairs = apart_and_batched(given)
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
