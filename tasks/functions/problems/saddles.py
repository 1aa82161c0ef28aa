"""Functions of two parameters with a saddle point at the origin."""

from __future__ import annotations

import math

from torch import Tensor

from tasks.functions.problem import Problem, repeated


def saddle(x: Tensor) -> Tensor:
    """The plain saddle `f = x^2 - y^2`, unbounded below: Hessian `diag(2, -2)` everywhere."""
    return x[0] ** 2 - x[1] ** 2


def monkey_saddle(x: Tensor) -> Tensor:
    """Three valleys, `f = x^3 - 3 x y^2`, unbounded below; no curvature at the origin."""
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2


def quartic_saddle(x: Tensor) -> Tensor:
    """A saddle of Hessian `diag(10, -2)` between two minima, `f = 5 x^2 - y^2 + y^4 / 4`."""
    return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4


# Starts close to the ridge: a method that ignores the sign of the curvature runs into the saddle.
SADDLES = (
    Problem(
        "saddle",
        dimension=2,
        start=repeated(1.0, 1e-3),
        value=saddle,
        minimum=-math.inf,
        box=((-1.5, 1.5), (-1.5, 1.5)),
    ),
    Problem(
        "monkey_saddle",
        dimension=2,
        start=repeated(1.0, 1e-3),
        value=monkey_saddle,
        minimum=-math.inf,
        box=((-1.5, 1.5), (-1.5, 1.5)),
    ),
    Problem(
        "quartic_saddle",
        dimension=2,
        start=repeated(1.0, 1e-3),
        value=quartic_saddle,
        minimum=-1.0,
        minimizers=(repeated(0.0, math.sqrt(2)), repeated(0.0, -math.sqrt(2))),
        box=((-1.5, 1.5), (-2.5, 2.5)),
    ),
)
