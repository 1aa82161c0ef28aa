"""Entropic optimal transport between two clouds of points, in semi-dual form."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least, require_positive
from tasks.task import Batch, Task, require_split
from tasks.transport.sinkhorn import solve

RADIUS, THICKNESS = 2.0, 0.2


class OptimalTransport(Task):
    """Find the prices of the cheapest transport of one cloud of points onto another.

    For n source points x of weight 1/n, m target points y of weight b_j = 1/m and costs
    C_ij = |x_i - y_j|^2, divided by their mean, the entropic transport cost is the maximum over
    prices g in R^m of the semi-dual

        D(g) = sum_j b_j g_j - (epsilon / n) sum_i log sum_j b_j exp((g_j - C_ij) / epsilon),

    concave and smooth. The logits z_ij = (g_j - C_ij) / epsilon + log b_j have the softmax over j
    as the shares of source i's mass. -D / epsilon is up to a constant the mean cross-entropy of z
    with the soft targets b. The loss is that cross-entropy, `nn.CrossEntropyLoss`. The plan is its
    predictive distribution, and as z is linear in g, Gauss-Newton matrix, Fisher information and
    Hessian are equal.

    The gradient is (the target marginal of the plan - b) / epsilon, the Hessian (diag(marginal) -
    mean_i p_i p_i^T) / epsilon^2. As epsilon falls, the plan becomes sparse and the Hessian the
    Laplacian of an almost disconnected graph: its smallest eigenvalues vanish exponentially. Adding
    a constant to g changes nothing: one eigenvalue is zero.

    The metric `gap` is the maximum of D less D(g), in units of the mean cost. Sinkhorn's iterations
    with a falling epsilon and Newton's method compute the maximum. `marginal_error` is the L1
    distance of the plan's target marginal from b. All splits are the one problem, without sampling
    error; every batch is the full batch. float64.

    Cuturi, "Sinkhorn distances", 2013 (arXiv 1306.0895); the semi-dual: Cuturi and Peyre 2016
    (arXiv 1503.02533); Genevay, Cuturi, Peyre and Bach 2016 (arXiv 1605.08527).

    Args:
        points: n, the points of a standard normal cloud in the plane.
        target_points: m, the points of a noisy circle.
        epsilon: the regularisation, in units of the mean cost.
        spread: the standard deviation of the prices at the start, drawn by the model's seed.
        problem_seed: draws the clouds.

    Raises:
        ValueError: an argument is out of its range, or `epsilon` is too small for a maximum in
            float64.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example"})
    metric = "gap"
    direction = "min"
    dtype = torch.float64

    def __init__(
        self,
        points: int = 200,
        target_points: int = 100,
        epsilon: float = 0.003,
        spread: float = 0.1,
        problem_seed: int = 0,
        steps: int = 2000,
        eval_every: int = 20,
        target: float | None = 1e-6,
    ) -> None:
        require_positive(points=points, epsilon=epsilon)
        require_at_least(2, target_points=target_points)
        require_at_least(0, spread=spread)
        super().__init__(steps=steps, eval_every=eval_every, target=target)
        self.epsilon, self.spread = epsilon, spread
        self.costs = clouds_apart(points, target_points, problem_seed)
        self.weights = torch.full((points, target_points), 1 / target_points, dtype=torch.float64)
        self.loss_fn = nn.CrossEntropyLoss()
        self.optimum = solve(self.costs, self.weights[0], epsilon)
        self.minimum = self._loss(self.optimum)

    @property
    def cost(self) -> float:
        """The entropic transport cost, min over P of sum P C + epsilon KL(P | independent plan)."""
        constant = float((self.weights * self.costs).sum(dim=1).mean())
        entropy = -float(self.weights[0] @ self.weights[0].log())
        return constant - self.epsilon * (self.minimum - entropy)

    def build(self) -> nn.Module:
        """The prices at a normal start of deviation `spread`."""
        count = self.costs.shape[1]
        start = self.spread * torch.randn(count, dtype=torch.float64)
        return Prices(start, self.weights[0].log(), self.epsilon)

    def batches(self, split: str, seed: int, start: int = 0) -> Iterator[Batch]:
        """The whole problem as one batch: costs `(n, m)` and target weights `(n, m)`."""
        require_split(split)
        batch = self._place(self.costs), self._place(self.weights)
        return repeat(batch) if split == "train" else iter([batch])

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """`gap`, `marginal_error` and `loss` at the model's prices."""
        costs, weights = next(self.batches(split, 0))
        with torch.no_grad():
            logits = model(costs)
            loss = float(self.loss_fn(logits, weights))
            marginal = logits.softmax(dim=1).mean(dim=0)
        return {
            "gap": max(self.epsilon * (loss - self.minimum), 0.0) if loss == loss else loss,
            "marginal_error": float((marginal - weights[0]).abs().sum()),
            "loss": loss,
        }

    def _loss(self, prices: Tensor) -> float:
        logits = (prices - self.costs) / self.epsilon + self.weights[0].log()
        return float(self.loss_fn(logits, self.weights))

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.precision)


class Prices(nn.Module):
    """The prices `g`, `(m,)`, and the logits of the plan."""

    log_weights: Tensor

    def __init__(self, start: Tensor, log_weights: Tensor, epsilon: float) -> None:
        super().__init__()
        self.prices = nn.Parameter(start)
        self.register_buffer("log_weights", log_weights, persistent=False)
        self.epsilon = epsilon

    def forward(self, costs: Tensor) -> Tensor:
        """The logits `(n, m)` of the plan for costs `(n, m)`."""
        return (self.prices - costs) / self.epsilon + self.log_weights


def clouds_apart(points: int, target_points: int, seed: int) -> Tensor:
    """Squared distances `(points, target_points)`, of mean 1, of a cloud from a noisy circle."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(points, 2, generator=generator, dtype=torch.float64)
    angles = 2 * torch.pi * torch.rand(target_points, generator=generator, dtype=torch.float64)
    circle = RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)
    circle = circle + THICKNESS * torch.randn(
        target_points, 2, generator=generator, dtype=torch.float64
    )
    costs = (source[:, None] - circle[None]).square().sum(dim=2)
    return costs / costs.mean()
