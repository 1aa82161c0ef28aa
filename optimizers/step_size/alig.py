"""ALI-G: Polyak's step size with a cap and Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_range
from optimizers.objective import Objective
from optimizers.step_size.polyak import Polyak


class ALIG(Polyak):
    r"""Adaptive learning rates for interpolation with gradients (Berrada et al., 2020).

    Berrada, Zisserman and Kumar, Algorithm 1:

        eta = min((f - f*) / (|g|^2 + eps), lr)
        v <- momentum v - eta g,    theta += momentum v - eta g

    f must contain every regulariser: the loss of an objective contains the task's L2 term. The
    authors' other regularisation, by a ball, is `max_norm`: theta is projected on |theta| <=
    max_norm after each step. Clipping the gradient makes the steps longer, not shorter, as the size
    divides by |g|^2.

    Cost: one gradient, one reduction. State: n numbers with momentum, none without.

    Differences: f* is a hyperparameter (zero in the paper); a negative loss is refused with f* = 0.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the largest step, the one hyperparameter to be tuned.
        momentum: Nesterov's momentum.
        adjusted: v <- momentum v - g, theta += eta (momentum v - g): the velocity is independent of
            step sizes.
        f_star: a lower bound of the losses of all mini-batches.
        max_norm: the radius of the ball for all parameters as one vector; None for none.
        eps: added to the denominator.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: a loss is negative and f_star is zero.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        adjusted: bool = False,
        f_star: float = 0.0,
        max_norm: float | None = None,
        eps: float = 1e-5,
    ) -> None:
        require_range("lr", lr)
        require_range("momentum", momentum, high=1)
        require_range("f_star", f_star, low=float("-inf"))
        require_range("eps", eps)
        if max_norm is not None:
            require_range("max_norm", max_norm, open_low=True)
        self.adjusted = adjusted
        self.f_star = f_star
        self.max_norm = max_norm
        self.eps = eps
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Take a capped Polyak step with Nesterov's momentum; return the loss before it."""
        loss = objective()
        numbers = self.measured(loss)
        if numbers is None:
            return loss
        eta = self.gap(*numbers) / (numbers[1] + self.eps) if numbers[1] else 0.0
        for group, size in zip(self.param_groups, self.recorded(eta), strict=True):
            self._move(group, size)
        if self.max_norm is not None:
            project_(list[Tensor](self.parameters()), self.max_norm)
        return loss

    def _move(self, group: dict[str, Any], size: float) -> None:
        moving = [p for p in group["params"] if p.grad is not None]
        if not moving or group["lr"] == 0:
            return
        gradients, momentum = [p.grad for p in moving], group["momentum"]
        torch._foreach_add_(moving, gradients, alpha=-size)
        if momentum == 0:
            return
        velocities = [self._velocity(p) for p in moving]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients, alpha=-1.0 if self.adjusted else -size)
        torch._foreach_add_(
            moving, velocities, alpha=momentum * size if self.adjusted else momentum
        )

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity: Tensor = state["velocity"]
        return velocity


def project_(params: list[Tensor], radius: float) -> None:
    """Scale the parameters, as one vector, down to the radius."""
    norm = float(torch.stack(torch._foreach_norm(params)).norm())
    if norm > radius:
        torch._foreach_mul_(params, radius / norm)
