"""Problems 21 to 27: any number of parameters, coupled in pairs, in fours, or all with all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.functions.problem import Problem, any_from, counted, repeated

PENALTY = 1e-5


def extended_rosenbrock(x: Tensor) -> Tensor:
    """Separate valleys, n/2 of them, all residuals of the first kind first.

    `r_(2i-1) = 10 (x_(2i) - x_(2i-1)^2)`, `r_(2i) = 1 - x_(2i-1)`.
    """
    odd, even = x[::2], x[1::2]
    return torch.cat([10 * (even - odd**2), 1 - odd])


def extended_powell_singular(x: Tensor) -> Tensor:
    """Copies of Powell's singular function, n/4 of them, all first residuals first."""
    a, b, c, d = x[::4], x[1::4], x[2::4], x[3::4]
    return torch.cat(
        [a + 10 * b, math.sqrt(5) * (c - d), (b - 2 * c) ** 2, math.sqrt(10) * (a - d) ** 2]
    )


def penalty1(x: Tensor) -> Tensor:
    """A nearly singular ball.

    `r_i = a^(1/2) (x_i - 1)`, `r_(n+1) = sum_j x_j^2 - 1/4`, `a = 10^-5`.
    """
    return torch.cat([math.sqrt(PENALTY) * (x - 1), (x.square().sum() - 0.25)[None]])


def penalty2(x: Tensor) -> Tensor:
    """A nearly singular ellipsoid, `m = 2n`, `a = 10^-5`.

    `r_1 = x_1 - 0.2`, `r_i = a^(1/2) (e^(x_i/10) + e^(x_(i-1)/10) - y_i)` for `1 < i <= n`, then
    `a^(1/2) (e^(x_i/10) - e^(-1/10))` for the same i, then `sum_j (n - j + 1) x_j^2 - 1`, with
    `y_i = e^(i/10) + e^((i-1)/10)`.
    """
    j = counted(len(x), x)
    grown, data = torch.exp(x / 10), torch.exp(j / 10)
    chain = grown[1:] + grown[:-1] - (data[1:] + data[:-1])
    ends = (len(x) + 1 - j) @ x.square() - 1
    weak = math.sqrt(PENALTY) * torch.cat([chain, grown[1:] - math.exp(-0.1)])
    return torch.cat([x[:1] - 0.2, weak, ends[None]])


def variably_dimensioned(x: Tensor) -> Tensor:
    """One long direction.

    `r_i = x_i - 1`, `r_(n+1) = s`, `r_(n+2) = s^2` with `s = sum_j j (x_j - 1)`.
    """
    s = (counted(len(x), x) @ (x - 1))[None]
    return torch.cat([x - 1, s, s**2])


def trigonometric(x: Tensor) -> Tensor:
    """Coupled waves: `r_i = n - sum_j cos x_j + i (1 - cos x_i) - sin x_i`."""
    cosine = x.cos()
    return len(x) - cosine.sum() + counted(len(x), x) * (1 - cosine) - x.sin()


def brown_almost_linear(x: Tensor) -> Tensor:
    """All residuals but one are linear.

    `r_i = x_i + sum_j x_j - (n + 1)` for `i < n`, `r_n = prod_j x_j - 1`.
    """
    return torch.cat([x[:-1] + x.sum() - (len(x) + 1), product(x) - 1])


def product(x: Tensor) -> Tensor:
    """The product of all entries, `(1,)`, by halves: torch's `prod` fails under vmap."""
    while len(x) > 1:
        rest = x[len(x) // 2 * 2 :]
        x = torch.cat([x[: len(x) // 2] * x[len(x) // 2 : len(x) // 2 * 2], rest])
    return x


def penalty1_coordinate(dimension: int) -> float:
    """The value c of every entry of penalty1's minimizer.

    c is the positive root of `4n c^3 + (2a - 1) c - 2a`, by Newton's method from above. All entries
    are equal because the gradient `2a (x_j - 1) + 4 x_j (sum x^2 - 1/4)` vanishes.
    """
    c = 1.0
    for _ in range(100):
        c -= (4 * dimension * c**3 + (2 * PENALTY - 1) * c - 2 * PENALTY) / (
            12 * dimension * c**2 + 2 * PENALTY - 1
        )
    return c


def _penalty1_minimum(dimension: int) -> float:
    c = penalty1_coordinate(dimension)
    return PENALTY * dimension * (c - 1) ** 2 + (dimension * c**2 - 0.25) ** 2


def _penalty1_minimizer(dimension: int) -> Tensor:
    return torch.full((dimension,), penalty1_coordinate(dimension), dtype=torch.float64)


def _counting(dimension: int) -> Tensor:
    return torch.arange(1, dimension + 1, dtype=torch.float64)


def _falling(dimension: int) -> Tensor:
    return 1 - _counting(dimension) / dimension


def _reciprocal(dimension: int) -> Tensor:
    return torch.full((dimension,), 1 / dimension, dtype=torch.float64)


EXTENDED = (
    Problem(
        "extended_rosenbrock",
        number=21,
        dimension=10,
        sizes=any_from(2, 2),
        start=repeated(-1.2, 1.0),
        residuals=extended_rosenbrock,
        minimum=0.0,
        minimizers=(repeated(1.0),),
        box=((-2.0, 2.0), (-1.0, 3.0)),
    ),
    Problem(
        "extended_powell_singular",
        number=22,
        dimension=12,
        sizes=any_from(4, 4),
        start=repeated(3.0, -1.0, 0.0, 1.0),
        residuals=extended_powell_singular,
        minimum=0.0,
        minimizers=(repeated(0.0),),
    ),
    Problem(
        "penalty1",
        number=23,
        dimension=10,
        sizes=any_from(1),
        start=_counting,
        residuals=penalty1,
        minimum=_penalty1_minimum,
        minimizers=(_penalty1_minimizer,),
    ),
    Problem(
        "penalty2",
        number=24,
        dimension=10,
        sizes=any_from(1),
        start=repeated(0.5),
        residuals=penalty2,
        minimum={4: 9.37629300735544e-6, 10: 2.9366053745674594e-4},
    ),
    Problem(
        "variably_dimensioned",
        number=25,
        dimension=10,
        sizes=any_from(1),
        start=_falling,
        residuals=variably_dimensioned,
        minimum=0.0,
        minimizers=(repeated(1.0),),
    ),
    Problem(
        "trigonometric",
        number=26,
        dimension=10,
        sizes=any_from(1),
        start=_reciprocal,
        residuals=trigonometric,
        minimum=0.0,
        minimizers=(repeated(0.0),),
        local_minima=(2.79505612188e-5,),
    ),
    Problem(
        "brown_almost_linear",
        number=27,
        dimension=10,
        sizes=any_from(1),
        start=repeated(0.5),
        residuals=brown_almost_linear,
        minimum=0.0,
        minimizers=(repeated(1.0),),
        local_minima=(1.0,),
    ),
)
