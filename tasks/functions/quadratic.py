"""A convex quadratic with a known spectrum and optional gradient noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least, require_choice, require_positive
from tasks.functions.function import FunctionTask, Interval
from tasks.task import generator_for


def _log(count: int, condition: float) -> Tensor:
    return torch.pow(condition, -torch.linspace(0, 1, count, dtype=torch.float64))


def _linear(count: int, condition: float) -> Tensor:
    return torch.linspace(1, 1 / condition, count, dtype=torch.float64)


def _clustered(count: int, condition: float) -> Tensor:
    large = max(1, count // 10)
    eigenvalues = torch.ones(count, dtype=torch.float64)
    eigenvalues[large:] = 1 / condition
    return eigenvalues


SPECTRA: dict[str, Callable[[int, float], Tensor]] = {
    "log": _log,
    "linear": _linear,
    "clustered": _clustered,
}


class Quadratic(FunctionTask):
    """The model of every smooth minimum: a bowl of a given condition number, randomly rotated.

        f(x) = 1/2 (x - x*)^T H (x - x*) = |r(x)|^2,
        H = Q diag(s) Q^T,   r(x) = diag(s)^(1/2) Q^T (x - x*) / sqrt(2)

    The eigenvalues run from 1 down to `1 / condition`. With `noise` s, example i has the target
    residuals `s e_i / sqrt(2)` with `e_i` standard normal. A batch of B then has the gradient `H (x
    - x*)` plus normal noise of covariance `s^2 H / B`: the noisy quadratic model of Zhang et al.,
    "Which algorithmic choices matter at which batch sizes?", 2019 (arXiv 1907.04164). The metric
    `gap` is always the noiseless `f`.

    `problem_seed` draws Q and `x*` (standard normal); the model's seed draws the start (standard
    normal).

    Args:
        dimension: n, at least 2.
        condition: the largest eigenvalue over the smallest, at least 1.
        spectrum: `log` (evenly spaced logarithms), `linear` (evenly spaced) or `clustered` (a tenth
            of the eigenvalues, rounded down but at least one, at 1, the others at `1 / condition`,
            as in an over-parameterised network).
        noise: the scale s of the gradient noise; 0 is the exact function.
        batch_size: B, without effect if there is no noise.
        problem_seed: the seed of the quadratic.

    Raises:
        ValueError: an argument is out of its range, or `spectrum` is none of the three.
    """

    def __init__(
        self,
        dimension: int = 100,
        condition: float = 1000.0,
        spectrum: str = "log",
        noise: float = 0.0,
        batch_size: int = 1,
        problem_seed: int = 0,
        steps: int = 2000,
        eval_every: int = 20,
        target: float | None = 1e-6,
    ) -> None:
        require_at_least(2, dimension=dimension)
        require_at_least(1, condition=condition)
        require_at_least(0, noise=noise)
        require_positive(batch_size=batch_size)
        require_choice(SPECTRA, spectrum=spectrum)
        super().__init__(
            dimension,
            dimension,
            steps=steps,
            eval_every=eval_every,
            target=target,
            batch_size=batch_size,
        )
        self.noise = noise
        generator = torch.Generator().manual_seed(problem_seed)
        rotation = torch.linalg.qr(
            torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
        ).Q
        self.eigenvalues = SPECTRA[spectrum](dimension, condition)
        self.root = self.eigenvalues.sqrt()[:, None] * rotation.T
        self.optimum = torch.randn(dimension, generator=generator, dtype=torch.float64)

    @property
    def hessian(self) -> Tensor:
        """The Hessian H, of shape `(n, n)`."""
        hessian: Tensor = self.root.T @ self.root
        return hessian

    @property
    def minimizers(self) -> Tensor:
        """The minimizer x*, `(1, n)`."""
        return self._place(self.optimum[None])

    @property
    def domain(self) -> tuple[Interval, Interval] | None:
        """A rectangle around `x*` and nearly all starts, which are standard normal."""
        if self.dimension != 2:
            return None
        low, high = self.optimum.clamp(max=0) - 2.5, self.optimum.clamp(min=0) + 2.5
        return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))

    def build(self) -> nn.Module:
        """The residuals' model at a standard normal start."""
        return QuadraticResiduals(
            torch.randn(self.dimension, dtype=torch.float64), self.root, self.optimum
        )

    def targets(self, seed: int, step: int) -> Tensor:
        """The targets of a step, `(batch_size, n)`: scaled normal draws, or zeros."""
        if self.noise == 0:
            return super().targets(seed, step)
        shape = (self.batch_size, self.dimension)
        draws = torch.randn(shape, generator=generator_for(seed, step), dtype=torch.float64)
        return draws * (self.noise / math.sqrt(2))


class QuadraticResiduals(nn.Module):
    """The point `x`, `(n,)`, and its residuals, `(N, n)` for inputs of shape `(N, ...)`."""

    root: Tensor
    optimum: Tensor

    def __init__(self, start: Tensor, root: Tensor, optimum: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start)
        self.register_buffer("root", root / math.sqrt(2), persistent=False)
        self.register_buffer("optimum", optimum, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The residuals `(N, n)`, one row for each input."""
        residuals: Tensor = self.root @ (self.x - self.optimum)
        return residuals.expand(len(inputs), -1)
