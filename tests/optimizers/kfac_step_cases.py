"""What tests of a step of K-FAC share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.optimizers.cases import Problem

PLAIN: dict[str, object] = {
    "kl_clip": None,
    "momentum": 0.0,
    "statistics_period": 1,
    "inverse_period": 1,
}


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def moved(layer: nn.Linear | nn.Conv2d, before: Tensor) -> Tensor:
    """The change of weight and bias as one matrix, `before` the same matrix earlier."""
    return matrix(layer) - before


def matrix(layer: nn.Linear | nn.Conv2d) -> Tensor:
    weight = layer.weight.detach().flatten(1)
    return (
        weight.clone()
        if layer.bias is None
        else torch.cat([weight, layer.bias.detach()[:, None]], dim=1)
    )
