"""Sophia: momentum over a diagonal curvature, clipped coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.diagonal.lazy import DIAGONAL, Group, LazyDiagonal, LazyHessian, average_
from optimizers.linalg.flat import flatten
from optimizers.method import require_range
from optimizers.objective import Objective
from optimizers.phases import phase


class _Clipped(LazyDiagonal):
    """Clipped steps along momentum over a running mean h of the estimates."""

    def learn(
        self, group: Group, running: list[Tensor], estimates: list[Tensor], scale: float
    ) -> None:
        """Update the running mean h with the estimates."""
        average_(running, estimates, group["beta2"], scale)

    def move(
        self, group: Group, params: list[Tensor], momenta: list[Tensor], running: list[Tensor]
    ) -> None:
        """Subtract lr clip(m / max(rho h, eps), 1) from the parameters."""
        rho = group["rho"]
        # clip(m / max(rho h, eps), 1) = clip(m / max(h, eps / rho), rho) / rho
        floors = torch._foreach_clamp_min(running, group["eps"] / rho)
        quotients = torch._foreach_div(momenta, floors)
        torch._foreach_clamp_min_(quotients, -rho)
        torch._foreach_clamp_max_(quotients, rho)
        torch._foreach_add_(params, quotients, alpha=-group["lr"] / rho)

    def telemetry(self) -> dict[str, float]:
        """`clipped` and `without_curvature`, shares of the parameters, and the common numbers.

        Without positive curvature (h at most eps / rho) the step is lr sign(m), and counts as
        clipped.
        """
        numbers = super().telemetry()
        clipped = flat = total = 0
        for group in self.param_groups:
            for state in (self.state[p] for p in group["params"] if DIAGONAL in self.state[p]):
                floor, diagonal = group["eps"] / group["rho"], state[DIAGONAL]
                clipped += int(
                    (state["momentum"].abs() >= group["rho"] * diagonal.clamp_min(floor)).sum()
                )
                flat += int((diagonal <= floor).sum())
                total += diagonal.numel()
        return numbers | (
            {"clipped": clipped / total, "without_curvature": flat / total} if total else {}
        )


class SophiaH(_Clipped, LazyHessian):
    r"""Momentum over a clipped diagonal Hutchinson estimate of the Hessian (Liu et al., 2024).

    arXiv 2305.14342, algorithms 1 and 3; rho is their gamma:

        m <- beta1 m + (1 - beta1) g
        h <- beta2 h + (1 - beta2) z o Hz, signed, every `period` steps from the first on
        theta <- (1 - lr weight_decay) theta - lr clip(m / max(rho h, eps), 1)

    A coordinate moves by at most lr; without positive estimated curvature it moves by lr sign(m).

    Nothing is corrected for starting at zero, as in the paper: at the first step m is (1 - beta1) g
    and h is (1 - beta2) z o Hz. pytorch_optimizer.SophiaH clips at p = rho with its lr our lr /
    rho.

    Cost per step: a gradient, and every `period` steps its graph and `probes` products, about 2
    gradients more. Memory: the graph, about twice that of a gradient. State: 2 n numbers.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate, the largest change of a coordinate.
        beta1: decay of the momentum.
        beta2: decay of the diagonal, per refresh.
        rho: the share of the Newton step's inverse: larger ones clip less. The authors' advice is
            to choose it so that 50 to 90 % of the coordinates are clipped (`clipped` in the
            telemetry).
        eps: the least denominator.
        period: steps between two probes of the Hessian.
        probes: products per refresh.
        distribution: distribution of the probes, `gaussian` (the paper's) or `rademacher`, whose
            variance is smaller.
        weight_decay: decoupled, theta *= 1 - lr weight_decay; 0.2 in the paper.
        seed: seed of the probes.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        beta1: float = 0.96,
        beta2: float = 0.99,
        rho: float = 0.01,
        eps: float = 1e-12,
        period: int = 10,
        probes: int = 1,
        distribution: str = "gaussian",
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        require_range("rho", rho, open_low=True)
        options = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "rho": rho,
        }
        super().__init__(params, options, period, distribution, probes, seed)


class SophiaG(_Clipped):
    r"""Clipped momentum over the Gauss-Newton diagonal of sampled targets (Liu et al., 2024).

    arXiv 2305.14342, algorithm 2. It is `SophiaH` with the Gauss-Newton-Bartlett estimate hhat = B
    ghat o ghat, where ghat is the gradient of the mean of the loss's B terms for targets drawn from
    the model. E[hhat] is the diagonal of the generalised Gauss-Newton matrix, never negative. B is
    the number of terms in the loss's mean: examples, or the positions of all sequences.

    The loss's reduction and the size of the batch do not change the step: for a loss s times the
    mean of its B terms the estimate is (B / s) ghat o ghat, and B and s come from the objective.
    (In the released code B is an argument of `step` with the default 5120; a wrong factor in B
    changes rho by the same factor.) The gradient of a task's regulariser l2 / 2 |theta|^2 is
    subtracted from ghat, and l2 is added to the estimate.

    Differences: the first step refreshes h, as in the paper; the released code begins with sign(m)
    while h is zero. The denominator is max(rho h, eps), not rho h + eps.

    Cost per step: a gradient, and every `period` steps another one. State: 2 n numbers.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate, the largest change of a coordinate.
        beta1: decay of the momentum.
        beta2: decay of the diagonal, per refresh.
        rho: the share of the Newton step's inverse; see `SophiaH`.
        eps: the least denominator.
        period: steps between two estimates.
        weight_decay: decoupled, theta *= 1 - lr weight_decay; 0.2 in the paper.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: at the first step, the loss is not the negative log-likelihood of a known
            distribution.
    """

    needs = frozenset({"sampled"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        beta1: float = 0.965,
        beta2: float = 0.99,
        rho: float = 0.05,
        eps: float = 1e-12,
        period: int = 10,
        weight_decay: float = 0.0,
    ) -> None:
        require_range("rho", rho, open_low=True)
        options = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "rho": rho,
        }
        super().__init__(params, options, period)

    def estimate(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """The loss, and the Gauss-Newton-Bartlett estimate (n,) of the diagonal."""
        sampled = objective.sampled()
        loss = objective()
        gradients = [parameter.grad for parameter in objective.params]
        with phase("curvature"):
            sampled()
        slope = sampled.gradient()
        for parameter, gradient in zip(objective.params, gradients, strict=True):
            parameter.grad = gradient
        if objective.l2:
            slope -= objective.l2 * flatten(objective.params)
        return loss, slope.square_().mul_(objective.terms / objective.scale).add_(objective.l2)
