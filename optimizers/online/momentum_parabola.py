"""Momentum with a step length from a parabola along it, gradient descent across it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.flat import add_, flatten
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.online.moments import Averages, begin, follow, weight

DIRECTIONS = ("current", "previous")
SEEN = ("repelled_share", "clipped_share")


class MomentumParabola(Method):
    r"""Momentum with a step length from a parabola fitted along it (Duda, 2019).

    arXiv 1907.07063. With v = m / |m|, the gradients along v are regressed on the parameters along
    v, g.v = l (theta.v - p), by exponential averages with the rate beta:

        l = cov(g.v, theta.v) / var(theta.v),   slope s = mean(g).v + l (theta - mean(theta)).v
        theta -= lr [ rate (g - (g.v) v) + clip(s / |l|) v ]

    so that the step leads to the parabola's vertex p where l > 0, and away from it where l < 0: a
    saddle repels. The length is clipped to growth rate |m|: the step along the momentum is at most
    `growth` times as long as that of descent at `rate`, and shorter where the curvature is sharp.
    Across v the method is plain descent.

    With noisy gradients the sign of l depends on v. If v contains the present gradient (`current`),
    the gradient's noise is part of v, g.v is too large after every step against v, and l is
    negative for any curvature. The length is then at its bound, and the method is momentum with
    some plain descent. `previous` takes v from the momentum before the gradient, which is
    independent of its noise.

    Where theta stops moving along v the variance is raised to `floor`, l goes to 0 and the length
    to its bound; such a step is counted as `degenerate`. The first step has no variance and counts
    too.

    The momentum turns from step to step. The two second moments are numbers and do not turn with
    it; the means are vectors, projected on the new v at every step. OGR with form=subspace,
    dimension=1 is the same method as long as v does not turn, with gamma=1, div=1 and cut = 1 /
    (growth rate), because an exact parabola's slope is the gradient's.

    Cost: a gradient and about 12 passes over n numbers. State: 3 n + 2.

    Choices that the paper's abstract leaves open: means and momentum begin at the first point and
    gradient, the moments at zero; the bound of the length; which momentum gives v.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: a multiplier of the whole step.
        rate: the learning rate of the descent across the momentum, and a factor of the bound along
            it.
        beta: the rate of the regression's averages.
        gamma: the rate of the momentum, m += gamma (g - m).
        growth: the bound of the step along the momentum, as a multiple of rate |m|.
        direction: v of the momentum with the present gradient (`current`) or without it
            (`previous`).
        floor: the smallest variance.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rate: float = 0.1,
        beta: float = 0.1,
        gamma: float = 0.1,
        growth: float = 10.0,
        direction: str = "current",
        floor: float = 1e-16,
        weight_decay: float = 0.0,
    ) -> None:
        require_range("lr", lr)
        require_range("rate", rate)
        require_range("beta", beta, high=1, open_low=True)
        require_range("gamma", gamma, high=1, open_low=True)
        require_range("growth", growth)
        require_choice("direction", direction, DIRECTIONS)
        require_range("floor", floor, open_low=True)
        require_range("weight_decay", weight_decay)
        self.direction = direction
        self.curvature = float("nan")
        self.seen: Counter[str] = Counter()
        names = ("lr", "rate", "beta", "gamma", "growth", "floor", "weight_decay")
        given = (lr, rate, beta, gamma, growth, floor, weight_decay)
        super().__init__(params, dict(zip(names, given, strict=True)))

    def telemetry(self) -> dict[str, float]:
        """The parabola's last `curvature`, and shares of all steps, beside the common numbers.

        `repelled_share` counts steps of negative curvature, `clipped_share` steps whose length was
        at its bound, without influence of the parabola.
        """
        steps = self.seen["steps"]
        shares = {name: self.seen[name] / steps for name in SEEN} if steps else {}
        return {**super().telemetry(), "curvature": self.curvature, **shares}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Move by the parabola along the momentum and by descent across it; return the loss."""
        group = self.whole(objective)
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        if group["weight_decay"]:
            torch._foreach_mul_(group["params"], 1 - group["lr"] * group["weight_decay"])
        step = self._step(group, flatten(group["params"]).detach(), objective.gradient())
        add_(group["params"], step, alpha=-group["lr"])
        return loss

    def _step(self, group: dict[str, Any], point: Tensor, gradient: Tensor) -> Tensor:
        averages = self.state[group["params"][0]]
        if "momentum" not in averages:
            begin(averages, point, gradient, at_start=True)
            averages["variance"], averages["covariance"] = point.new_zeros(()), point.new_zeros(())
        momentum = (
            averages["momentum"].clone() if self.direction == "previous" else averages["momentum"]
        )
        (deviation,), (gradient_deviation,) = follow(
            [averages], [point], [gradient], group["beta"], group["gamma"]
        )
        norm = momentum.norm()
        along = momentum / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        moved = deviation @ along
        curvature = self._regress(averages, group, moved, gradient_deviation @ along)
        # the deviation from the new mean is 1 - beta times that from the old one
        slope = averages["mean_gradient"] @ along + (1 - group["beta"]) * curvature * moved
        bound = group["growth"] * group["rate"] * norm
        length = (slope / curvature.abs().clamp_min(torch.finfo(norm.dtype).tiny)).clamp(
            -bound, bound
        )
        self._look(curvature, length.abs() >= bound, averages["variance"] <= group["floor"])
        step: Tensor = (
            group["rate"] * gradient + (length - group["rate"] * (gradient @ along)) * along
        )
        return step

    def _regress(
        self, averages: Averages, group: dict[str, Any], moved: Tensor, changed: Tensor
    ) -> Tensor:
        """Update the moments with a pair of deviations; return the curvature."""
        beta = group["beta"]
        averages["variance"].mul_(1 - beta).add_(weight(beta) * moved * moved)
        averages["covariance"].mul_(1 - beta).add_(weight(beta) * changed * moved)
        curvature: Tensor = averages["covariance"] / averages["variance"].clamp_min(group["floor"])
        return curvature

    def _look(self, curvature: Tensor, clipped: Tensor, degenerate: Tensor) -> None:
        """Record curvature and bounds of the step, with one synchronisation of the device."""
        marks = torch.stack([curvature, clipped.to(curvature), degenerate.to(curvature)])
        self.curvature, bounded, lost = marks.tolist()
        self.seen.update(
            steps=1, repelled_share=int(self.curvature < 0), clipped_share=int(bounded)
        )
        if lost:
            self.failures["degenerate"] += 1
