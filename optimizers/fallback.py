"""Plain updates for the parameters that a curvature method has no curvature for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

State = dict[str, Any]
Options = Mapping[str, Any]
Update = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[State], Options], None]


def sgd_updates(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[State],
    options: Options,
) -> None:
    """Heavy-ball SGD with decoupled weight decay; state: one momentum buffer for each parameter."""
    torch._foreach_mul_(list(parameters), 1 - options["lr"] * options["weight_decay"])
    buffers: list[Tensor | None] = [state.get("momentum_buffer") for state in states]
    sgd(
        list(parameters),
        list(gradients),
        buffers,
        foreach=len(parameters) > 1,
        weight_decay=0.0,
        momentum=options.get("momentum", 0.9),
        lr=options["lr"],
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    for state, buffer in zip(states, buffers, strict=True):
        if buffer is not None:
            state["momentum_buffer"] = buffer


def adamw_updates(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    states: Sequence[State],
    options: Options,
) -> None:
    """AdamW with betas (0.9, 0.999); state for each parameter: two moments and a step count."""
    for parameter, state in zip(parameters, states, strict=True):
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] = torch.tensor(0.0)
    many = len(parameters) > 1
    fused = many and all(parameter.is_cpu for parameter in parameters)  # half the time of foreach
    adamw(
        list(parameters),
        list(gradients),
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        foreach=many and not fused,
        fused=fused,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        eps=1e-8,
        maximize=False,
    )


FALLBACKS: dict[str, Update] = {"adamw": adamw_updates, "sgd": sgd_updates}


def scheduled_rate(group: Options) -> float:
    """The fallback's learning rate, scaled as the schedule scales the group's own."""
    first = group.get("initial_lr", group["lr"])
    return float(group["fallback_lr"] * (group["lr"] / first if first else 1.0))
