"""Forms of OGR, functions and paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers.online import OGR
from tests.optimizers.cases import Identity, Problem

AUTHORS: dict[str, Any] = {
    "lr": 1.0,
    "beta": 0.6,
    "gamma": 0.7,
    "div": 1.4,
    "cut": 5.0,
    "rotation": 0.1,
    "outside": 1e-3,
    "weight": 0.4,
    "variance": 1.0,
    "center": "origin",
    "floor": 1e-16,
    "weight_decay": 0.0,
}
FORMS: dict[str, dict[str, Any]] = {
    "diagonal": {"form": "diagonal"},
    "diagonal_slow": {
        "form": "diagonal",
        "beta": 0.1,
        "gamma": 1.0,
        "div": 2.0,
        "cut": 1.0,
        "lr": 0.5,
    },
    "diagonal_first": {
        "form": "diagonal",
        "center": "first",
        "variance": 0.1,
        "weight_decay": 0.01,
    },
    "cd": {"form": "cd", "beta": 0.4, "gamma": 0.5, "div": 1 / 0.6, "cut": 1e-9, "variance": 0.1},
    "cd_cut": {"form": "cd", "cut": 3.0, "center": "first", "floor": 1e-3},
    "full": {"form": "full", "beta": 0.5, "gamma": 0.9, "div": 1.5, "cut": 10.0},
    "full_floor": {"form": "full", "beta": 0.3, "gamma": 0.5, "variance": 0.0, "floor": 0.01},
    "subspace": {"form": "subspace", "dimension": 1, "cut": 15.0, "outside": 0.02},
    "subspace_two": {
        "form": "subspace",
        "dimension": 2,
        "rotation": 0.2,
        "gamma": 0.6,
        "cut": 10.0,
    },
    "subspace_all": {"form": "subspace", "dimension": 9, "center": "first", "cut": 8.0},
    "mixed": {"form": "mixed", "dimension": 2, "weight": 0.4, "div": 1.5, "cut": 6.0},
    "mixed_one": {"form": "mixed", "dimension": 1, "weight": 0.3, "rotation": 0.05, "lr": 0.7},
}
every = pytest.mark.parametrize("name", FORMS)


class Noisy(nn.Module):
    """f(x) + noise.x for every row of inputs, so that the gradient is f's with the noise added."""

    def __init__(self, start: Any, function: Any) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.x) + inputs @ self.x


def bowl(x: Tensor) -> Tensor:
    """Sharp, flat and negative curvature, coupled."""
    return 4 * x[0] ** 2 + 0.1 * x[1] ** 2 - torch.cos(x[2]) + x[0] * x[1] + 0.25 * x[2] ** 4


def path(function: Any, start: Any, noises: np.ndarray, **options: Any) -> tuple[np.ndarray, OGR]:
    """The points after each step, under given gradient noise."""
    model = Noisy(start, function)
    problem = Problem(model, Identity(), torch.zeros(1, len(start)).double(), torch.zeros(1))
    optimizer = OGR(model.named_parameters(), **AUTHORS | options)
    objective = problem.objective()
    points = []
    for noise in torch.as_tensor(noises):
        optimizer.step(objective.on(noise[None], problem.targets))
        points.append(model.x.detach().numpy().copy())
    return np.array(points), optimizer
