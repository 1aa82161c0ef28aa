"""MoMo: a Polyak step size for momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from optimizers.method import require_range
from optimizers.step_size.model_based import ModelBased


class MoMo(ModelBased):
    r"""SGD with momentum and a step size from averaged linear models (Schaipp et al., 2024).

    With d <- beta d + (1 - beta) g, and the same averages of f and <g, theta>:

        tau = min(lr / rho, (fbar + <d, theta> - gamma - rho f*)_+ / |d|^2)
        theta <- (theta - tau d) / (1 + lr wd)

    With weight decay the numerator is that of `ModelBased`. rho is 1 and the averages begin with
    the first gradient; with `bias_correction`, rho = 1 - beta^k and the averages begin with zero.
    beta = 0 is SPS_max with c = 1, with weight decay ProxSPS. f is the loss of the task with its L2
    term. Clipping the gradient makes the steps longer, not shorter, as the size divides by |d|^2.

    Weight decay is the paper's proximal form, a division by 1 + lr wd.

    Cost: one gradient, four reductions. State: n numbers.

    Differences from momo-opt 0.1.0: <g, theta> is averaged over all parameters at once; with
    several groups the estimate uses the first group's lr and weight decay; a negative loss is
    refused where lower_bound is zero.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the largest step.
        beta: decay of the averages.
        weight_decay: proximal.
        lower_bound: a lower bound of the losses of all mini-batches, and of the estimate.
        estimate: estimate a better lower bound on the way.
        bias_correction: begin the averages with zero.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: a loss is negative and lower_bound is zero.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        lower_bound: float = 0.0,
        estimate: bool = False,
        bias_correction: bool = False,
    ) -> None:
        require_range("beta", beta, high=0.9999)
        super().__init__(params, lr, beta, weight_decay, lower_bound, estimate, bias_correction)

    def direction(
        self, params: list[Tensor], averages: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """The averaged gradients themselves: the metric is the identity."""
        return averages
