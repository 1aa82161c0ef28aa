"""Packaged optimizers and problems that they are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.packaged import PytorchOptimizer
from tests.optimizers.cases import Problem, mlp

po = pytest.importorskip("pytorch_optimizer")


def problem(dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(0)
    inputs = torch.randn(48, 4, dtype=dtype)
    return Problem(
        mlp((4, 6, 5, 3)).to(dtype), nn.CrossEntropyLoss(), inputs, torch.randint(3, (48,))
    )


def batches(case: Problem, steps: int, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randperm(len(case.inputs), generator=generator)[:size]
        yield case.inputs[chosen], case.targets[chosen]


def train(case: Problem, optimizer: Any, steps: int = 50) -> list[float]:
    objective = case.objective()
    return [float(optimizer.step(objective.on(*batch))) for batch in batches(case, steps)]


def far(first: Problem, second: Problem) -> float:
    """The largest difference of two models' parameters."""
    return max(
        float((a - b).detach().abs().max())
        for a, b in zip(first.params, second.params, strict=True)
    )


def named(case: Problem, name: str, **settings: Any) -> PytorchOptimizer:
    return PytorchOptimizer(case.model.named_parameters(), name, settings=settings)
