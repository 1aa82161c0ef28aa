"""Functions with many local minima, in any dimension; none is a sum of squares."""

from __future__ import annotations

import math

from torch import Tensor

from tasks.functions.problem import Problem, any_from, repeated

# The root of 4 x^3 - 32 x + 5 near -2.9 and half the quartic there.
STYBLINSKI_TANG_AT = -2.903534027771177
STYBLINSKI_TANG_LOW = -39.16616570377142


def rastrigin(x: Tensor) -> Tensor:
    """A bowl with a ripple of period one.

    `f = sum_j 10 + x_j^2 - 10 cos(2 pi x_j)` (Rastrigin, 1974).
    """
    return (10 + x.square() - 10 * (2 * math.pi * x).cos()).sum()


def styblinski_tang(x: Tensor) -> Tensor:
    """Two wells a coordinate (Styblinski and Tang, 1990).

    `f = 1/2 sum_j x_j^4 - 16 x_j^2 + 5 x_j`.
    """
    return (x**4 - 16 * x**2 + 5 * x).sum() / 2


def ackley(x: Tensor) -> Tensor:
    """A ripple on a plain.

    `f = -20 exp(-0.2 sqrt(mean x^2)) - exp(mean cos(2 pi x)) + 20 + e` (Ackley, 1987). f has a kink
    at its minimizer: the gradient does not vanish near it and is NaN at the point itself.
    """
    hole = 20 * (-0.2 * x.square().mean().sqrt()).exp()
    ripple = (2 * math.pi * x).cos().mean().exp()
    return 20 + math.e - hole - ripple


def _styblinski_tang_minimum(dimension: int) -> float:
    return STYBLINSKI_TANG_LOW * dimension


MULTIMODAL = (
    Problem(
        "rastrigin",
        dimension=2,
        sizes=any_from(1),
        start=repeated(2.3, -1.7),
        value=rastrigin,
        minimum=0.0,
        minimizers=(repeated(0.0),),
        box=((-5.12, 5.12), (-5.12, 5.12)),
    ),
    Problem(
        "styblinski_tang",
        dimension=2,
        sizes=any_from(1),
        start=repeated(0.0),
        value=styblinski_tang,
        minimum=_styblinski_tang_minimum,
        minimizers=(repeated(STYBLINSKI_TANG_AT),),
        box=((-5.0, 5.0), (-5.0, 5.0)),
    ),
    Problem(
        "ackley",
        dimension=2,
        sizes=any_from(1),
        start=repeated(2.3, -1.7),
        value=ackley,
        minimum=0.0,
        minimizers=(repeated(0.0),),
        box=((-5.0, 5.0), (-5.0, 5.0)),
    ),
)
