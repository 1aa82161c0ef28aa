"""Networks and hyperparameters for AdaFisher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from optimizers.diagonal import AdaFisher
from tests.optimizers.cases import Problem, mlp

Pair = tuple[Tensor, Tensor]


def classes(model: nn.Module, *shape: int, count: int = 120) -> Problem:
    torch.manual_seed(1)
    return Problem(
        model.double(),
        nn.CrossEntropyLoss(),
        torch.randn(count, *shape).double(),
        torch.randint(3, (count,)),
    )


def perceptron() -> Problem:
    torch.manual_seed(0)
    return classes(mlp((6, 8, 3)), 6)


def tokens() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)
    )
    return classes(model, 3, 4)


def batches(of: Problem, steps: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(len(of.inputs), generator=generator)[:24] for _ in range(steps)]
    return [(of.inputs[index], of.targets[index]) for index in chosen]


def trained(of: Problem, steps: int, **options: Any) -> AdaFisher:
    method, objective = AdaFisher(of.model.named_parameters(), **options), of.objective()
    for batch in batches(of, steps):
        method.step(objective.on(*batch))
    return method
