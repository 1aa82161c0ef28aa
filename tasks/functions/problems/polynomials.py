"""Problems 20 and 32 to 35: linear residuals, and coefficients or nodes of a polynomial."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.functions.problem import Problem, any_from, counted, repeated

# The paper leaves m >= n free in the linear problems.
ROWS_PER_PARAMETER = 2


def watson(x: Tensor) -> Tensor:
    """A differential equation solved by a polynomial with coefficients x, `m = 31`.

    `r_i = sum_j (j - 1) x_j t_i^(j-2) - (sum_j x_j t_i^(j-1))^2 - 1`, `t_i = i / 29`, `i = 1 ..
    29`, then `r_30 = x_1` and `r_31 = x_2 - x_1^2 - 1`.
    """
    order = counted(len(x), x) - 1
    powers = (counted(29, x) / 29)[:, None] ** order
    slopes = powers[:, :-1] @ (order[1:] * x[1:])
    return torch.cat([slopes - (powers @ x) ** 2 - 1, x[:1], x[1:2] - x[:1] ** 2 - 1])


def linear_full_rank(x: Tensor) -> Tensor:
    """A linear function of full rank, `m = 2n`.

    `r_i = x_i - (2/m) sum_j x_j - 1` for `i <= n`, else `r_i = -(2/m) sum_j x_j - 1`.
    """
    rows = ROWS_PER_PARAMETER * len(x)
    padded = torch.cat([x, torch.zeros(rows - len(x), dtype=x.dtype, device=x.device)])
    return padded - 2 / rows * x.sum() - 1


def linear_rank1(x: Tensor) -> Tensor:
    """A linear function of rank one: `r_i = i sum_j j x_j - 1`, `m = 2n`."""
    return counted(ROWS_PER_PARAMETER * len(x), x) * (counted(len(x), x) @ x) - 1


def linear_rank1_zero(x: Tensor) -> Tensor:
    """A linear function of rank one with zero columns and rows, `m = 2n`.

    `r_i = (i - 1) sum_(1 < j < n) j x_j - 1` for `1 < i < m`, `r_1 = r_m = -1`.
    """
    rows = ROWS_PER_PARAMETER * len(x)
    weights = counted(rows, x) - 1
    inside = weights * (weights < rows - 1)
    return inside * (counted(len(x), x)[1:-1] @ x[1:-1]) - 1


def chebyquad(x: Tensor) -> Tensor:
    """The nodes of an equal-weight quadrature on [0, 1].

    `r_i = (1/n) sum_j T_i(x_j) - int_0^1 T_i`, `m = n`. T_i is Chebyshev's polynomial of degree i
    on [0, 1]; its integral is 0 for odd i and `-1 / (i^2 - 1)` for even i.
    """
    shifted = 2 * x - 1
    before, latest = torch.ones_like(x), shifted
    means = []
    for _ in range(len(x)):
        means.append(latest.mean())
        before, latest = latest, 2 * shifted * latest - before
    degree = counted(len(x), x)
    even = degree.remainder(2) == 0
    return torch.stack(means) + torch.where(even, 1 / (degree**2 - 1).clamp(min=1), 0)


def _full_rank_minimum(dimension: int) -> float:
    return float((ROWS_PER_PARAMETER - 1) * dimension)


def _rank1_minimum(dimension: int) -> float:
    m = ROWS_PER_PARAMETER * dimension
    return m * (m - 1) / (2 * (2 * m + 1))


def _rank1_zero_minimum(dimension: int) -> float:
    m = ROWS_PER_PARAMETER * dimension
    return (m**2 + 3 * m - 6) / (2 * (2 * m - 3))


def _spaced(dimension: int) -> Tensor:
    return torch.arange(1, dimension + 1, dtype=torch.float64) / (dimension + 1)


# The tables hold the n for which the paper gives f*, refined from six digits to a double's.
POLYNOMIALS = (
    Problem(
        "watson",
        number=20,
        dimension=6,
        sizes=range(2, 32),
        start=repeated(0.0),
        residuals=watson,
        minimum={6: 2.2876700535524362e-3, 9: 1.39976013809902e-6, 12: 4.722381105891757e-10},
    ),
    Problem(
        "linear_full_rank",
        number=32,
        dimension=10,
        sizes=any_from(1),
        start=repeated(1.0),
        residuals=linear_full_rank,
        minimum=_full_rank_minimum,
        minimizers=(repeated(-1.0),),
    ),
    Problem(
        "linear_rank1",
        number=33,
        dimension=10,
        sizes=any_from(1),
        start=repeated(1.0),
        residuals=linear_rank1,
        minimum=_rank1_minimum,
    ),
    Problem(
        "linear_rank1_zero",
        number=34,
        dimension=10,
        sizes=any_from(3),
        start=repeated(1.0),
        residuals=linear_rank1_zero,
        minimum=_rank1_zero_minimum,
    ),
    Problem(
        "chebyquad",
        number=35,
        dimension=8,
        sizes=any_from(1),
        start=_spaced,
        residuals=chebyquad,
        minimum=dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 9), 0.0)
        | {8: 3.5168737256779264e-3, 10: 6.503954800882302e-3},
        box=((0.0, 1.0), (0.0, 1.0)),
    ),
)
