"""Poisson's equation, solved by a physics-informed network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.checks import positive_widths, require_at_least, require_choice
from tasks.losses import MSEPerExample
from tasks.physics.jets import JetNet
from tasks.task import SPLITS, Batch, DataTask, generator_for

POINTS = ("grid", "random")
GRID = 100


class PinnPoisson(DataTask):
    r"""Solve -Lap u = f on the unit square with u = 0 on its boundary, by least squares.

        loss = (1/n) sum_i (Lap u(x_i) + f(x_i))^2 + (1/m) sum_j u(b_j)^2,
        f = 2 pi^2 sin(pi x) sin(pi y)

    over n interior points x_i and m boundary points b_j, for a tanh network u; the solution is
    `u* = sin(pi x) sin(pi y)`. All numbers are float64, and the loss has no noise. Second-order
    methods reach errors that are orders of magnitude below those of first-order ones: Müller and
    Zeinhofer, "Achieving high accuracy with PINNs via energy natural gradients", 2023 (arXiv
    2302.13163).

    An example is a point `(x, y, b)`, b = 1 on the boundary and 0 inside. The model's output is its
    residual, `(N, 1)`, times the square root of `(n + m) / n` or `(n + m) / m`, so that the loss is
    the mean of the squared outputs for targets of zero, and a mini-batch's loss is an unbiased
    estimate of it.

    The metric `relative_error` is `|u - u*| / |u*|` in L2, by the midpoint rule on 100 x 100 cells,
    the same for every split. `loss` is the split's own; validation and test have as many other,
    random points.

    Differences from the paper's program for this equation (network 2-32-1, points 1/29 apart): the
    boundary's mean is not multiplied by its length 4, the interior grid has 30 x 30 points and the
    boundary 120 (there 28 x 28 and 116), the weights start as in torch instead of normal with
    deviation 0.1, and the error is relative.

    Args:
        hidden: the widths of the hidden layers.
        points: `grid` (regular, as in the paper) or `random` (uniform, drawn by `problem_seed`),
            for training.
        interior: n; a square number for `grid`.
        boundary: m; a multiple of 4 for `grid`.
        problem_seed: the seed of all random points.
        batch_size: None is the full batch.

    Raises:
        ValueError: an argument is out of its range, or `points` is neither of the two.
    """

    offers = frozenset(
        {"hessian", "ggn", "jacobian", "sampled", "per_example", "layers", "matrices"}
    )
    metric = "relative_error"
    direction = "min"
    dtype = torch.float64

    def __init__(
        self,
        hidden: Sequence[int] = (32,),
        points: str = "grid",
        interior: int = 900,
        boundary: int = 120,
        problem_seed: int = 0,
        batch_size: int | None = None,
        steps: int = 2000,
        eval_every: int = 20,
        target: float | None = None,
    ) -> None:
        self.hidden = positive_widths("hidden", hidden)
        require_choice(POINTS, points=points)
        require_at_least(1, interior=interior, boundary=boundary)
        self.weights = ((interior + boundary) / interior, (interior + boundary) / boundary)
        self.loss_fn = MSEPerExample()
        self.splits = {
            split: _batch(_random_points(interior, boundary, generator_for(problem_seed, stream)))
            for stream, split in enumerate(SPLITS)
        }
        if points == "grid":
            self.splits["train"] = _batch(_grid_points(interior, boundary))
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The network with its weighted residuals as outputs."""
        return PoissonResiduals(self.hidden, *self.weights)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The squared residual of each point, `loss` `(N,)`."""
        return {"loss": (outputs - targets).square().squeeze(1)}

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The `relative_error` of the network, and the split's `loss`."""
        metrics = super().evaluate(model, split)
        return {"relative_error": self._relative_error(model)} | metrics

    def _relative_error(self, model: nn.Module) -> float:
        """The relative L2 error on the cells' centres."""
        # flagged as boundary points, the residuals are the network's values times a known root
        centres = self._place((torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID)
        inside = torch.cartesian_prod(centres, centres)
        with torch.no_grad():
            values = model(_flagged(inside, 1.0)).squeeze(1) / math.sqrt(self.weights[1])
        exact = solution(inside)
        return float((values - exact).norm() / exact.norm())


class PoissonResiduals(nn.Module):
    """The residuals `(N, 1)` of points `(N, 3)`, whose last column is 1 on the boundary, else 0.

    They are `Lap u + f` inside and `u` on the boundary, times the square root of their weight.
    """

    def __init__(
        self, hidden: Sequence[int], interior_weight: float, boundary_weight: float
    ) -> None:
        super().__init__()
        self.network = JetNet(2, hidden)
        self.interior_root = math.sqrt(interior_weight)
        self.boundary_root = math.sqrt(boundary_weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """The weighted residuals `(N, 1)` of points `(N, 3)`."""
        points, on_boundary = inputs[:, :2], inputs[:, 2] > 0.5
        jet = self.network(points)
        inside = self.interior_root * (jet[:, 3] + 2 * math.pi**2 * solution(points))
        return torch.where(on_boundary, self.boundary_root * jet[:, 0], inside)[:, None]


def solution(points: Tensor) -> Tensor:
    """The solution u* at points `(N, 2)`."""
    return torch.sin(math.pi * points).prod(dim=1)


def _batch(points: Tensor) -> Batch:
    return points, torch.zeros(len(points), 1, dtype=points.dtype)


def _flagged(points: Tensor, flag: float) -> Tensor:
    return torch.cat([points, torch.full_like(points[:, :1], flag)], dim=1)


def _random_points(interior: int, boundary: int, generator: torch.Generator) -> Tensor:
    inside = torch.rand(interior, 2, generator=generator, dtype=torch.float64)
    along = 4 * torch.rand(boundary, generator=generator, dtype=torch.float64)
    return torch.cat([_flagged(inside, 0.0), _flagged(_around(along), 1.0)])


def _grid_points(interior: int, boundary: int) -> Tensor:
    side = math.isqrt(interior)
    if side**2 != interior:
        raise ValueError(f"interior must be a square number for points=grid, got {interior}")
    if boundary % 4:
        raise ValueError(f"boundary must be a multiple of 4 for points=grid, got {boundary}")
    axis = torch.arange(1, side + 1, dtype=torch.float64) / (side + 1)
    along = 4 * torch.arange(boundary, dtype=torch.float64) / boundary
    return torch.cat(
        [_flagged(torch.cartesian_prod(axis, axis), 0.0), _flagged(_around(along), 1.0)]
    )


def _around(along: Tensor) -> Tensor:
    """The boundary points `(N, 2)` at distances `along`, in [0, 4), counter-clockwise from 0."""
    side, rest = along.floor(), along.frac()
    zero, one = torch.zeros_like(rest), torch.ones_like(rest)
    corners = [(rest, zero), (one, rest), (1 - rest, one), (zero, 1 - rest)]
    choices = torch.stack([torch.stack(pair, dim=1) for pair in corners])
    return choices[side.long(), torch.arange(len(along))]
