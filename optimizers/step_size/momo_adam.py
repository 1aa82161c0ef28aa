"""MoMo-Adam: MoMo's step size in Adam's metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_range
from optimizers.step_size.model_based import ModelBased


class MoMoAdam(ModelBased):
    r"""Adam with a step size from averaged linear models of the losses (Schaipp et al., 2024).

    With Adam's averages d and v, D = eps + sqrt(v / (1 - beta2^k)) and rho = 1 - beta1^k:

        tau = min(lr / rho, (fbar + <d, theta> - gamma - rho f*)_+ / |d|^2_{D^-1})
        theta <- theta - tau D^-1 d

    Weight decay is a proximal step, theta / (1 + lr wd), or as in AdamW. At the cap the method is
    Adam. Clipping the gradient makes the steps below the cap longer, not shorter.

    Cost: one gradient, four reductions. State: 2 n numbers.

    Differences from momo-opt 0.1.0: as for MoMo.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the largest step.
        beta1, beta2: decays of the averages of gradients and of their squares.
        eps: added to the root.
        weight_decay: proximal, or decoupled.
        proximal: divide by 1 + lr wd after the step; else theta *= 1 - lr wd before it, as AdamW.
        lower_bound: a lower bound of the losses of all mini-batches, and of the estimate.
        estimate: estimate a better lower bound on the way.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: a loss is negative and lower_bound is zero.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        proximal: bool = True,
        lower_bound: float = 0.0,
        estimate: bool = False,
    ) -> None:
        require_range("beta1", beta1, high=0.9999)
        require_range("beta2", beta2, high=0.999999)
        require_range("eps", eps, open_low=True)
        self.proximal = proximal
        self.eps = eps
        super().__init__(
            params,
            lr,
            beta1,
            weight_decay,
            lower_bound,
            estimate,
            bias_correction=True,
            beta2=beta2,
        )

    def direction(
        self, params: list[Tensor], averages: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """The directions D^-1 d, after an update of Adam's second moment."""
        beta2, steps = self.memory["beta2"], self.memory["steps"] + 1
        for parameter in params:
            if "square" not in self.state[parameter]:
                self.state[parameter]["square"] = torch.zeros_like(parameter)
        squares = [self.state[parameter]["square"] for parameter in params]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        metric = torch._foreach_div(squares, 1 - beta2**steps)
        torch._foreach_sqrt_(metric)
        torch._foreach_add_(metric, self.eps)
        return list(torch._foreach_div(averages, metric))
