"""SGD with momentum and a proximal step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_range
from optimizers.structured.proximal import Proximal


class ProxSGD(Proximal):
    r"""Heavy-ball proximal SGD: W+ = prox_{lr strength psi}(W - lr g + momentum (W - W-)).

    The momentum is that of the iterates (Ochs et al., 2014, iPiano, arXiv 1404.4805, Algorithm 1):
    a running sum of gradients would weaken the regulariser by the factor 1 - momentum in the limit.
    With full batches and no momentum the method is the proximal gradient method (Beck and Teboulle,
    2009, section 1), which converges for lr < 2 / L. With mini-batches the noise of a single
    gradient determines which groups are zero, and the pattern changes until the end. RAMDA avoids
    that (Huang and Lee, 2022, arXiv 2102.09572). Without a regulariser and at a constant rate the
    method is torch's SGD.

    Cost: 1 gradient-equivalent. State: n numbers.

    Args:
        params: the parameters.
        lr: the learning rate.
        momentum: the share of the last move that is repeated.
        strength: the factor of the regulariser.
        regulariser: `group_lasso`, `l1` or `nuclear`.
        groups: a group of the group lasso: the weights of one `input`, or of one `output`.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        strength: float = 1e-3,
        regulariser: str = "group_lasso",
        groups: str = "input",
    ) -> None:
        require_range("momentum", momentum, high=1)
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "strength": strength}, regulariser, groups
        )

    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Take the heavy-ball step and the proximal step for one tensor."""
        if "last_move" not in state:
            state["last_move"] = torch.zeros_like(parameter)
        lr = group["lr"]
        point = parameter - lr * gradient + group["momentum"] * state["last_move"]
        after = self.prox(point, torch.full_like(point, 1 / lr), group["strength"])
        torch.sub(after, parameter, out=state["last_move"])
        parameter.copy_(after)
