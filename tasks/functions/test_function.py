"""The classical test functions as a task."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least, require_choice
from tasks.functions.function import FunctionTask, Interval
from tasks.functions.problem import Problem
from tasks.functions.problems import PROBLEMS


class TestFunction(FunctionTask):
    """Minimise one of the 35 functions of Moré, Garbow and Hillstrom, or one of seven others.

    `tasks.functions.problems.PROBLEMS` lists them. Most are sums of squares, `f(x) = |r(x)|^2`,
    without the factor 1/2 that least-squares programs often use; `rastrigin`, `styblinski_tang`,
    `ackley` and the saddles have no residuals, and offer a Hessian but no Gauss-Newton matrix.

    The metric `gap` is measured from `minimum`, which is

    - f* if it is known, a published value refined to double precision. A local minimum has a
      positive gap, and a value below f*, which would be a discovery, a negative one;
    - 0 for an n without a published f* (`penalty2`, `watson` and `chebyquad` at some n): a sum of
      squares cannot be smaller, but the gap need not reach 0;
    - -1 for the two functions without a minimum, `saddle` and `monkey_saddle`. Their saddle point,
      where f is 0, then has the gap 1, and only a run that leaves it reaches a small positive
      target.

    The start is the standard one, `x0`, moved by `spread * |x0_j| * draw` in every coordinate j,
    with standard normal draws of the model's seed. The spread is relative, because the functions'
    scales differ by twelve orders. Zero coordinates stay zero; a start of zeros moves by `spread *
    draw`.

    Sources: Moré, Garbow and Hillstrom, "Testing unconstrained optimization software", 1981; the
    others in the docstrings of their formulas.

    Args:
        name: the name of the function.
        dimension: n; None is the function's usual one. Most of the small functions have a fixed n.
        spread: the relative distance of the starts of different seeds; 0 is the standard start for
            every seed.

    Raises:
        ValueError: no function has that name, it is not defined for that n, or `spread` is below 0.
    """

    __test__ = False

    def __init__(
        self,
        name: str = "rosenbrock",
        dimension: int | None = None,
        spread: float = 0.01,
        steps: int = 1000,
        eval_every: int = 10,
        target: float | None = 1e-6,
    ) -> None:
        require_choice(PROBLEMS, name=name)
        require_at_least(0, spread=spread)
        self.problem = PROBLEMS[name]
        self.spread = spread
        chosen = self.problem.resolve(dimension)
        outputs = self.problem.outputs(self.problem.start(chosen))
        residuals = None if self.problem.residuals is None else len(outputs)
        super().__init__(chosen, residuals, steps=steps, eval_every=eval_every, target=target)
        lowest = self.problem.lowest(chosen)
        self.minimum = _level(lowest)

    @property
    def domain(self) -> tuple[Interval, Interval] | None:
        """The rectangle of the literature, or around start and minimizers; None unless n is 2."""
        if self.dimension != 2:
            return None
        return self.problem.box or _around(
            torch.stack([self.problem.start(2), *self._known_minimizers()])
        )

    @property
    def minimizers(self) -> Tensor:
        """The known global minimizers, `(k, n)`."""
        known = self._known_minimizers()
        return self._place(torch.stack(known)) if known else super().minimizers

    def build(self) -> nn.Module:
        """The function's model at the standard start, moved by a normal draw."""
        start = self.problem.start(self.dimension)
        scale = start.abs() if bool(start.any()) else torch.ones_like(start)
        return FunctionOutputs(self.problem, start + self.spread * scale * torch.randn_like(start))

    def _known_minimizers(self) -> list[Tensor]:
        return [minimizer(self.dimension) for minimizer in self.problem.minimizers]


class FunctionOutputs(nn.Module):
    """The point `x`, `(n,)`, and the function's residuals `(N, m)` or values `(N,)`."""

    def __init__(self, problem: Problem, start: Tensor) -> None:
        super().__init__()
        self.problem = problem
        self.x = nn.Parameter(start)

    def forward(self, inputs: Tensor) -> Tensor:
        """The residuals `(N, m)` or the values `(N,)` at `x`, one for each input."""
        outputs = self.problem.outputs(self.x)
        return outputs.expand(len(inputs), *outputs.shape)


def _around(points: Tensor) -> tuple[Interval, Interval]:
    """The rectangle around points, widened on every side by half its size or at least by 1."""
    low, high = points.min(0).values, points.max(0).values
    margin = ((high - low) / 2).clamp(min=1)
    low, high = low - margin, high + margin
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def _level(lowest: float | None) -> float:
    """The zero of the gap: f*, or 0 if f* is unknown, or -1 without a minimum."""
    if lowest is None:
        return 0.0
    return -1.0 if math.isinf(lowest) else lowest
