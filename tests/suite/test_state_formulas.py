"""The formula of an optimizer's state in its YAML, against the tensors it holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optimizers import Objective
from optimizers.method import Method
from suite.config import registry
from suite.config.instantiate import construct, locate
from suite.training.measures.memory import state_bytes

STEPS = 45  # as many as fill a history, or bring a lazy preconditioner into being
NAMES = {"min": min, "max": max, "sum": sum, "len": len}


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)
    ), torch.randn(64, 20)


def sizes(model: nn.Module) -> dict[str, Any]:
    """What the formulas speak of: see docs/guide/your-optimizer.md."""
    tensors = list(model.parameters())
    matrices = [(len(p), p[0].numel()) for p in tensors if p.ndim > 1]
    lengths = [p.numel() for p in tensors if p.ndim < 2]
    return {
        "n": sum(p.numel() for p in tensors),
        "tensors": len(tensors),
        "vectors": sum(lengths),
        "lengths": lengths,
        "matrices": matrices,
        "hidden": matrices[:-1],
        "layers": [(outputs, inputs + 1) for outputs, inputs in matrices],
    }


@pytest.mark.parametrize("name", registry.names("optimizer"))
def test_an_optimizer_names_its_paper_and_keeps_as_many_numbers_as_its_yaml_says(name: str) -> None:
    node = registry.read("optimizer", name)
    about = registry.about(node)
    assert about["paper"]
    model, inputs = network()
    squares = "jacobian" in getattr(locate(node["_target_"]), "needs", ())
    loss_fn, targets = (
        (nn.MSELoss(), torch.randn(64, 5))
        if squares
        else (nn.CrossEntropyLoss(), torch.randint(5, (64,)))
    )
    optimizer = construct(node, list(model.named_parameters()))
    if isinstance(optimizer, Method):
        optimizer.expect(STEPS, STEPS)
    if hasattr(optimizer, "train"):
        optimizer.train()
    objective = Objective(model, loss_fn, inputs, targets)
    for _ in range(STEPS):
        optimizer.step(objective.on(inputs, targets))
    size = eval(str(about["state"]), {"__builtins__": {}} | NAMES | node | sizes(model))
    assert state_bytes(optimizer) == 4 * size
