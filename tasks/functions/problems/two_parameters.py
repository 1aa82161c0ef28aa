"""Problems 1 to 6, of two parameters, and Himmelblau's function."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.functions.problem import Problem, constant, counted, repeated


def rosenbrock(x: Tensor) -> Tensor:
    """A curved valley: `r = (10 (x2 - x1^2), 1 - x1)`."""
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def freudenstein_roth(x: Tensor) -> Tensor:
    """Two cubics: `r = (-13 + x1 + ((5 - x2) x2 - 2) x2, -29 + x1 + ((x2 + 1) x2 - 14) x2)`."""
    first = -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1]
    second = -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]
    return torch.stack([first, second])


def powell_badly_scaled(x: Tensor) -> Tensor:
    """Two curves that meet at scales a million apart.

    `r = (10^4 x1 x2 - 1, e^-x1 + e^-x2 - 1.0001)`.
    """
    return torch.stack([1e4 * x[0] * x[1] - 1, torch.exp(-x[0]) + torch.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x: Tensor) -> Tensor:
    """A minimizer whose entries differ by twelve orders.

    `r = (x1 - 10^6, x2 - 2 10^-6, x1 x2 - 2)`.
    """
    return torch.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x: Tensor) -> Tensor:
    """A valley towards `x2 = 1`: `r_i = y_i - x1 (1 - x2^i)`, `y = (1.5, 2.25, 2.625)`."""
    powers = torch.stack([x[1], x[1] ** 2, x[1] ** 3])
    return constant((1.5, 2.25, 2.625), x) - x[0] * (1 - powers)


def jennrich_sampson(x: Tensor) -> Tensor:
    """Exponentials fitted to a line: `r_i = 2 + 2i - (e^(i x1) + e^(i x2))`, `i = 1 .. 10`."""
    i = counted(10, x)
    return 2 + 2 * i - (torch.exp(i * x[0]) + torch.exp(i * x[1]))


def himmelblau(x: Tensor) -> Tensor:
    """Four equal minima: `r = (x1^2 + x2 - 11, x1 + x2^2 - 7)`."""
    return torch.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


TWO_PARAMETERS = (
    Problem(
        "rosenbrock",
        number=1,
        dimension=2,
        start=repeated(-1.2, 1.0),
        residuals=rosenbrock,
        minimum=0.0,
        minimizers=(repeated(1.0),),
        box=((-2.0, 2.0), (-1.0, 3.0)),
    ),
    Problem(
        "freudenstein_roth",
        number=2,
        dimension=2,
        start=repeated(0.5, -2.0),
        residuals=freudenstein_roth,
        minimum=0.0,
        minimizers=(repeated(5.0, 4.0),),
        local_minima=(48.98425367924,),
        box=((-4.0, 16.0), (-4.0, 6.0)),
    ),
    Problem(
        "powell_badly_scaled",
        number=3,
        dimension=2,
        start=repeated(0.0, 1.0),
        residuals=powell_badly_scaled,
        minimum=0.0,
        minimizers=(repeated(1.0981593296997149e-05, 9.106146739866525),),
        box=((-5e-5, 1e-4), (-1.0, 11.0)),
    ),
    Problem(
        "brown_badly_scaled",
        number=4,
        dimension=2,
        start=repeated(1.0),
        residuals=brown_badly_scaled,
        minimum=0.0,
        minimizers=(repeated(1e6, 2e-6),),
        box=((-2e5, 1.2e6), (-0.5, 1.5)),
    ),
    Problem(
        "beale",
        number=5,
        dimension=2,
        start=repeated(1.0),
        residuals=beale,
        minimum=0.0,
        minimizers=(repeated(3.0, 0.5),),
        box=((-4.5, 4.5), (-4.5, 4.5)),
    ),
    Problem(
        "jennrich_sampson",
        number=6,
        dimension=2,
        start=repeated(0.3, 0.4),
        residuals=jennrich_sampson,
        minimum=124.36218235561483,
        minimizers=(repeated(0.2578252136703641),),
        box=((0.0, 0.5), (0.0, 0.5)),
    ),
    Problem(
        "himmelblau",
        dimension=2,
        start=repeated(0.0),
        residuals=himmelblau,
        minimum=0.0,
        minimizers=(
            repeated(3.0, 2.0),
            repeated(-2.805118086952745, 3.131312518250573),
            repeated(-3.779310253377747, -3.283185991286170),
            repeated(3.584428340330492, -1.848126526964404),
        ),
        box=((-5.0, 5.0), (-5.0, 5.0)),
    ),
)
