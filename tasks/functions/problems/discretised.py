"""Problems 28 to 31: systems of n equations from discretised or banded couplings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.functions.problem import Problem, any_from, counted, repeated


def discrete_boundary_value(x: Tensor) -> Tensor:
    """The problem `u'' = (u + t + 1)^3 / 2` on [0, 1], zero at both ends, by central differences.

    `r_i = 2 x_i - x_(i-1) - x_(i+1) + h^2 (x_i + t_i + 1)^3 / 2`, `h = 1 / (n + 1)`, `t_i = i h`,
    `x_0 = x_(n+1) = 0`.
    """
    h = 1 / (len(x) + 1)
    padded = F.pad(x, (1, 1))
    return 2 * x - padded[:-2] - padded[2:] + h**2 * (x + h * counted(len(x), x) + 1) ** 3 / 2


def discrete_integral_equation(x: Tensor) -> Tensor:
    """The same boundary-value problem as an integral over its Green's function.

    `r_i = x_i + h/2 ((1 - t_i) sum_(j <= i) t_j c_j + t_i sum_(j > i) (1 - t_j) c_j)`, `c_j = (x_j
    + t_j + 1)^3`.
    """
    h = 1 / (len(x) + 1)
    t = h * counted(len(x), x)
    cubes = (x + t + 1) ** 3
    above = (1 - t) * cubes
    after = above.flip(0).cumsum(0).flip(0) - above
    return x + h / 2 * ((1 - t) * (t * cubes).cumsum(0) + t * after)


def broyden_tridiagonal(x: Tensor) -> Tensor:
    """Broyden's system: `r_i = (3 - 2 x_i) x_i - x_(i-1) - 2 x_(i+1) + 1`, `x_0 = x_(n+1) = 0`."""
    padded = F.pad(x, (1, 1))
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def broyden_banded(x: Tensor) -> Tensor:
    """Broyden's banded system.

    `r_i = x_i (2 + 5 x_i^2) + 1 - sum_j x_j (1 + x_j)` over the `j != i` with `i - 5 <= j <= i +
    1`.
    """
    padded = F.pad(x * (1 + x), (5, 1))
    neighbours = [padded[offset : offset + len(x)] for offset in (0, 1, 2, 3, 4, 6)]
    return x * (2 + 5 * x**2) + 1 - torch.stack(neighbours).sum(0)


def _parabola(dimension: int) -> Tensor:
    """The values `t_j (t_j - 1)`, which are exact at both ends."""
    t = torch.arange(1, dimension + 1, dtype=torch.float64) / (dimension + 1)
    return t * (t - 1)


DISCRETISED = (
    Problem(
        "discrete_boundary_value",
        number=28,
        dimension=10,
        sizes=any_from(1),
        start=_parabola,
        residuals=discrete_boundary_value,
        minimum=0.0,
    ),
    Problem(
        "discrete_integral_equation",
        number=29,
        dimension=10,
        sizes=any_from(1),
        start=_parabola,
        residuals=discrete_integral_equation,
        minimum=0.0,
    ),
    Problem(
        "broyden_tridiagonal",
        number=30,
        dimension=10,
        sizes=any_from(1),
        start=repeated(-1.0),
        residuals=broyden_tridiagonal,
        minimum=0.0,
    ),
    Problem(
        "broyden_banded",
        number=31,
        dimension=10,
        sizes=any_from(1),
        start=repeated(-1.0),
        residuals=broyden_banded,
        minimum=0.0,
    ),
)
