"""K-FAC preconditions every matrix of the suite's networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimizers import Objective
from optimizers.natural_gradient import EKFAC, KFAC
from suite.training.measures import layer_coverage
from tasks.language.char_rnn import CharRNN
from tasks.language.char_transformer import CharTransformer
from tasks.sequence.long_memory import LongMemory
from tasks.task import Task
from tasks.vision.autoencoder import Autoencoder
from tasks.vision.cnn import CNN
from tasks.vision.resnet import ResNet

SMALL: dict[str, Any] = {"batch_size": 4, "val_size": 20, "test_size": 20}
NETWORKS: dict[str, Task] = {
    "lstm": CharRNN(hidden=8, embedding=6, context=5, **SMALL),
    "gpt": CharTransformer(width=8, layers=2, heads=2, context=5, **SMALL),
    "tied gpt": CharTransformer(width=8, layers=1, heads=2, context=5, tied=True, **SMALL),
    "resnet": ResNet(depth=8, width=2, image_size=8, **SMALL),
    "cnn": CNN(image_size=8, **SMALL),
    "autoencoder": Autoencoder(data="digits", widths=[6, 3], batch_size=20),
    "rnn": LongMemory(batch_size=64),
}


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_matrix_is_preconditioned(name: str, method: type[KFAC]) -> None:
    task = NETWORKS[name]
    model = task.model(0)
    inputs, targets = next(task.batches("train", 0))
    objective = Objective(model, task.loss_fn, inputs, targets)
    optimizer = method(model.named_parameters(), statistics_period=1, lr=0.01)
    losses = [float(optimizer.step(objective.on(inputs, targets))) for _ in range(5)]
    coverage = optimizer.layer_coverage()
    matrices = [n for n, p in model.named_parameters() if p.ndim >= 2]
    assert matrices
    assert {coverage[n] for n in matrices} == {optimizer.rule}
    assert set(coverage.values()) == {optimizer.rule}  # biases, scales and shifts as well
    assert not optimizer.failures
    assert min(losses) < losses[0]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_shares_of_the_parameters() -> None:
    named = [
        ("a", torch.zeros(6)),
        ("b", torch.zeros(3)),
        ("c", torch.zeros(1)),
        ("frozen", torch.zeros(90)),
    ]
    shares = layer_coverage.shares({"b": "adamw", "a": "kfac", "c": "adamw"}, named)
    assert shares == {"kfac": 0.6, "adamw": 0.4}
    assert (
        layer_coverage.in_words(shares)
        == "updated: 60 % of the parameters by kfac, 40 % of the parameters by adamw"
    )
    assert layer_coverage.rules(torch.optim.SGD([torch.zeros(1, requires_grad=True)])) == {}


def test_a_run_prints_and_keeps_the_rules(command: Callable[..., Any], results: Path) -> None:
    output = command("optimizer=kfac", "task=mlp", "steps=2", "optimizer.skip=[bias]")
    (directory,) = (results / "runs/mlp/kfac").iterdir()
    recorded = json.loads((directory / "environment.json").read_text())["layer_coverage"]
    assert {rule for name, rule in recorded.items() if name.endswith("weight")} == {"kfac"}
    assert {rule for name, rule in recorded.items() if name.endswith("bias")} == {"adamw"}
    stored = json.loads((directory / "summary.json").read_text())["coverage"]
    assert stored["kfac"] > 0.9 > stored["adamw"] > 0
    assert f"  {layer_coverage.in_words(stored)}" in output.out.splitlines()


def test_an_optimizer_of_one_rule_has_no_coverage(train: Callable[..., Any]) -> None:
    finished = train("optimizer=sgd", "task=mlp", "steps=2")
    assert "coverage" not in finished.summary
    assert "layer_coverage" not in finished.environment
