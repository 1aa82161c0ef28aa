"""AdamW with a proximal step in its own metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_range
from optimizers.structured.proximal import Proximal


class ProxAdamW(Proximal):
    r"""AdamW's step, then the regulariser's operator in the metric D = (sqrt(vhat) + eps) / lr.

    u = (1 - lr weight_decay) W - D^{-1} mhat, W <- argmin 1/2 ||W - u||_D^2 + strength psi(W). Both
    halves use the same metric, a condition of convergence (Yun, Lozano and Yang, 2021, ProxGen,
    arXiv 2003.07336, equation 3). Without a regulariser the method is torch's AdamW.

    Cost: 1 gradient-equivalent. State: 2 n numbers.

    Args:
        params: the parameters.
        lr: the learning rate.
        beta1, beta2: decays of the averages of the gradient and its square.
        eps: added to the root.
        strength: the factor of the regulariser.
        regulariser: `group_lasso`, `l1` or `nuclear`.
        groups: a group of the group lasso: the weights of one `input`, or of one `output`.
        weight_decay: decoupled, W *= 1 - lr weight_decay.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        strength: float = 1e-3,
        regulariser: str = "group_lasso",
        groups: str = "input",
        weight_decay: float = 0.0,
    ) -> None:
        require_range("beta1", beta1, high=1)
        require_range("beta2", beta2, high=1)
        require_range("eps", eps, open_low=True)
        require_range("weight_decay", weight_decay)
        options = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, options | {"strength": strength}, regulariser, groups)

    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Take AdamW's step and the proximal step in its metric for one tensor."""
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        lr, beta1, beta2, steps = (group[name] for name in ("lr", "beta1", "beta2", "steps"))
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        metric = ((square / (1 - beta2**steps)).sqrt_() + group["eps"]) / lr
        point = parameter * (1 - lr * group["weight_decay"]) - mean / (1 - beta1**steps) / metric
        parameter.copy_(self.prox(point, metric, group["strength"]))
