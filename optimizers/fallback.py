"""Plain updates for the parameters that a curvature method has no curvature for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

State = dict[str, Any]
Update = Callable[[Tensor, Tensor, State, dict[str, Any]], None]


def sgd_update(parameter: Tensor, gradient: Tensor, state: State, options: dict[str, Any]) -> None:
    """Heavy-ball SGD with decoupled weight decay; state: one momentum buffer."""
    parameter.mul_(1 - options["lr"] * options["weight_decay"])
    buffers: list[Tensor | None] = [state.get("momentum_buffer")]
    sgd(
        [parameter], [gradient], buffers, foreach=False, weight_decay=0.0, momentum=options["momentum"],
        lr=options["lr"], dampening=0.0, nesterov=False, maximize=False,
    )  # fmt: skip
    if buffers[0] is not None:
        state["momentum_buffer"] = buffers[0]


def adamw_update(parameter: Tensor, gradient: Tensor, state: State, options: dict[str, Any]) -> None:
    """AdamW with betas (0.9, 0.999); state: two moments and a step count."""
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] = torch.tensor(0.0)
    adamw(
        [parameter], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]], foreach=False,
        amsgrad=False, beta1=0.9, beta2=0.999, lr=options["lr"], weight_decay=options["weight_decay"], eps=1e-8,
        maximize=False,
    )  # fmt: skip


FALLBACKS: dict[str, Update] = {"adamw": adamw_update, "sgd": sgd_update}
