"""Rosenbrock's curved valley in any number of dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least
from tasks.functions.function import FunctionTask, Interval


class Rosenbrock(FunctionTask):
    """A narrow curved valley: easy to find, hard to follow without curvature.

        f(x) = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2,   i = 1 .. n-1

    as the sum of squares of the `2(n-1)` residuals `10 (x_{i+1} - x_i^2)` and `1 - x_i`. The
    minimum is 0 at `(1, ..., 1)`. From four dimensions on a second local minimum lies near `(-1, 1,
    ..., 1)` (f = 3.9866 for n = 10). Correct solvers may end there from the classic start: a large
    final gap is then no error.

    The start is the classic `(-1.2, 1, -1.2, 1, ...)` plus `spread` times a standard normal draw of
    the model's seed.

    Rosenbrock, "An automatic method for finding the greatest or least value of a function", 1960.

    Args:
        dimension: n, at least 2.
        spread: the distance between the starts of different seeds; 0 is the classic start for every
            seed.

    Raises:
        ValueError: `dimension` is below 2 or `spread` below 0.
    """

    def __init__(
        self,
        dimension: int = 2,
        spread: float = 0.1,
        steps: int = 5000,
        eval_every: int = 50,
        target: float | None = 1e-6,
    ) -> None:
        require_at_least(2, dimension=dimension)
        require_at_least(0, spread=spread)
        super().__init__(
            dimension, 2 * (dimension - 1), steps=steps, eval_every=eval_every, target=target
        )
        self.spread = spread

    @property
    def minimizers(self) -> Tensor:
        """The minimizer `(1, ..., 1)`, of shape `(1, n)`."""
        return self._place(torch.ones(1, self.dimension))

    @property
    def domain(self) -> tuple[Interval, Interval] | None:
        """The usual rectangle around the valley for n = 2, else None."""
        return ((-2.0, 2.0), (-1.0, 3.0)) if self.dimension == 2 else None

    def build(self) -> nn.Module:
        """The residuals' model at the classic start plus a normal draw."""
        start = torch.ones(self.dimension, dtype=torch.float64)
        start[::2] = -1.2
        return RosenbrockResiduals(
            start + self.spread * torch.randn(self.dimension, dtype=torch.float64)
        )


class RosenbrockResiduals(nn.Module):
    """The point `x`, `(n,)`, and its residuals, `(N, 2(n-1))` for inputs of shape `(N, ...)`."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start)

    def forward(self, inputs: Tensor) -> Tensor:
        """The residuals `(N, 2(n-1))`, one row for each input."""
        here, following = self.x[:-1], self.x[1:]
        return torch.cat([10 * (following - here**2), 1 - here]).expand(len(inputs), -1)
