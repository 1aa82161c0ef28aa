"""Problems 7, 13 and 14: three and four parameters, with a root of all residuals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.functions.problem import Problem, repeated


def helical_valley(x: Tensor) -> Tensor:
    """A valley along a helix: `r = (10 (x3 - 10 theta), 10 (sqrt(x1^2 + x2^2) - 1), x3)`.

    theta is the angle of (x1, x2) in turns, between -1/4 and 3/4: f jumps across the half-plane x1
    = 0, x2 < 0.
    """
    theta = 0.25 + torch.atan2(-x[0], x[1]) / (2 * math.pi)
    return torch.stack(
        [10 * (x[2] - 10 * theta), 10 * (torch.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]]
    )


def powell_singular(x: Tensor) -> Tensor:
    """A function with a singular Hessian at its root.

    `r = (x1 + 10 x2, 5^(1/2) (x3 - x4), (x2 - 2 x3)^2, 10^(1/2) (x1 - x4)^2)`.
    """
    linear = [x[0] + 10 * x[1], math.sqrt(5) * (x[2] - x[3])]
    return torch.stack([*linear, (x[1] - 2 * x[2]) ** 2, math.sqrt(10) * (x[0] - x[3]) ** 2])


def wood(x: Tensor) -> Tensor:
    """Two coupled valleys.

    `r = (10 (x2 - x1^2), 1 - x1, 90^(1/2) (x4 - x3^2), 1 - x3,
    10^(1/2) (x2 + x4 - 2), 10^(-1/2) (x2 - x4))`.
    """
    valleys = [10 * (x[1] - x[0] ** 2), 1 - x[0], math.sqrt(90) * (x[3] - x[2] ** 2), 1 - x[2]]
    return torch.stack([*valleys, math.sqrt(10) * (x[1] + x[3] - 2), (x[1] - x[3]) / math.sqrt(10)])


SMALL_SYSTEMS = (
    Problem(
        "helical_valley",
        number=7,
        dimension=3,
        start=repeated(-1.0, 0.0, 0.0),
        residuals=helical_valley,
        minimum=0.0,
        minimizers=(repeated(1.0, 0.0, 0.0),),
    ),
    Problem(
        "powell_singular",
        number=13,
        dimension=4,
        start=repeated(3.0, -1.0, 0.0, 1.0),
        residuals=powell_singular,
        minimum=0.0,
        minimizers=(repeated(0.0),),
    ),
    Problem(
        "wood",
        number=14,
        dimension=4,
        start=repeated(-3.0, -1.0),
        residuals=wood,
        minimum=0.0,
        minimizers=(repeated(1.0),),
    ),
)
