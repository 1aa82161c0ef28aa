"""INNAprop: inertial Newton dynamics with the gradient scaled as by RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.flat import require_strided
from optimizers.method import Method, require_range
from optimizers.objective import Objective


class INNAprop(Method):
    r"""Inertial Newton dynamics with RMSprop's scaling (Bolte et al., 2024).

    arXiv 2410.05871, algorithm 1. The dynamics theta'' + alpha theta' + beta d/dt g(theta) +
    g(theta) = 0 contain the Hessian, as dg/dt = H theta'. With psi in the place of theta' they are
    of first order and need g alone (Castera et al., 2021, arXiv 1905.12278):

        theta' = (1/beta - alpha) theta - psi / beta - beta g,
        psi'   = (1/beta - alpha) theta - psi / beta.

    Discretised with the step lr, g divided by the root of its running second moment v:

        theta *= 1 - lr weight_decay,   v = sigma v + (1 - sigma) g^2,
        psi   += lr ( (1/beta - alpha) theta - psi / beta ),
        theta += lr / (beta - lr) ( (1 - alpha beta) theta - psi )
                 - lr beta g / ( sqrt(v / (1 - sigma^t)) + eps ),

    psi begins at (1 - alpha beta) theta, so that the first step is -lr beta sign(g). With alpha
    beta = 1, psi stays zero and the method is AdamW without momentum, at lr beta. The authors
    recommend (alpha, beta) = (0.1, 0.9), fast at first, and (2, 2), better in the end. As in their
    code, weight decay does not change psi.

    Cost per step: 1 gradient-equivalent. State: 2 n numbers.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the step of the discretisation, below beta (gamma in the paper).
        alpha: viscous friction.
        beta: damping by the Hessian.
        sigma: decay of the running second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled.

    Raises:
        ValueError: a hyperparameter out of its range; lr is not below beta, also when a schedule
            makes it so.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        alpha: float = 0.1,
        beta: float = 0.9,
        sigma: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        require_range("lr", lr)
        require_range("alpha", alpha)
        require_range("beta", beta, open_low=True)
        require_range("sigma", sigma, high=1 - 1e-12)
        require_range("eps", eps, open_low=True)
        require_range("weight_decay", weight_decay)
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "beta": beta,
            "sigma": sigma,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            _require_below(group)

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Apply INNAprop's update of psi, moments and parameters; return the loss before it."""
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        for group in self.param_groups:
            _require_below(group)
            used = [parameter for parameter in group["params"] if parameter.grad is not None]
            if used:
                self._update(group, used)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Write the moments, psi and parameters of a group."""
        lr, alpha, beta, sigma = group["lr"], group["alpha"], group["beta"], group["sigma"]
        states = [self._state(parameter, 1 - alpha * beta) for parameter in params]
        gradients = [parameter.grad for parameter in params if parameter.grad is not None]
        require_strided(gradients)
        psi, squares = [state["psi"] for state in states], [state["exp_avg_sq"] for state in states]

        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_mul_(squares, sigma)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - sigma)
        scales = torch._foreach_sqrt(squares)
        torch._foreach_div_(scales, [sqrt(1 - sigma ** state["step"]) for state in states])
        torch._foreach_add_(scales, group["eps"])

        torch._foreach_mul_(psi, 1 - lr / beta)
        torch._foreach_add_(psi, params, alpha=lr * (1 / beta - alpha))
        torch._foreach_mul_(params, 1 + lr * (1 - alpha * beta) / (beta - lr))
        torch._foreach_add_(params, psi, alpha=-lr / (beta - lr))
        torch._foreach_addcdiv_(params, gradients, scales, -lr * beta)

    def _state(self, parameter: Tensor, share: float) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            state["psi"] = share * parameter.detach()
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        return state


def _require_below(group: dict[str, Any]) -> None:
    if group["lr"] >= group["beta"]:
        raise ValueError(
            f"lr must be below beta={group['beta']!r}, got {group['lr']!r}; lower lr or raise beta"
        )
