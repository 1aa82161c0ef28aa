"""The update of one replica: its optimizer's own step, or the fused kernel of that step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from suite.batched.replica_objective import Gradients, ReplicaObjective
from suite.training.optimizer import ObjectiveOptimizer

State = dict[str, Any]
Kernel = Callable[[dict[str, Any], list[Tensor], list[State]], None]


class Update:
    """Steps of one replica's own optimizer, given loss and gradients.

    Any optimizer steps as it does by itself. For torch's SGD, Adam and AdamW the first step makes
    the state, and the next ones call torch's fused kernel with it: the optimizer's Python code
    takes three times as long as the update of ten thousand parameters. The kernel equals torch's
    loop to rounding, obeys schedules, and leaves the state in the optimizer for checkpoints.
    """

    def __init__(self, optimizer: ObjectiveOptimizer) -> None:
        self.optimizer = optimizer
        self._kernel = KERNELS.get(type(optimizer)) if _plain(optimizer) else None
        self._states: list[State] | None = None

    @property
    def elementwise(self) -> bool:
        """Whether each number of a parameter is updated by itself."""
        return self._kernel is not None

    def step(self, objective: ReplicaObjective, loss: Tensor, gradients: Gradients) -> None:
        """One step at the objective's parameters."""
        present = [gradient for gradient in gradients if gradient is not None]
        if self._kernel is not None and self._states is not None and len(present) == len(gradients):
            objective.count()
            with torch.no_grad():
                self._kernel(self.optimizer.param_groups[0], present, self._states)
            return
        objective.give(loss, gradients)
        self.optimizer.step(objective)
        if self._kernel is not None and objective.clip is None and len(present) == len(gradients):
            state: dict[Tensor, State] = self.optimizer.state  # type: ignore[attr-defined]
            self._states = [_aligned(state[p], p) for p in self.optimizer.param_groups[0]["params"]]


def _plain(optimizer: ObjectiveOptimizer) -> bool:
    """Whether a torch optimizer has nothing set that its kernels are not called for here."""
    if len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    odd = any(group.get(name) for name in ("amsgrad", "maximize", "capturable", "differentiable"))
    return not odd and all(
        parameter.is_cpu and parameter.is_floating_point() for parameter in group["params"]
    )


def _aligned(state: State, parameter: Tensor) -> State:
    """The state in the parameter's memory layout, which a kernel needs and a checkpoint loses."""
    for name, value in state.items():
        if (
            isinstance(value, Tensor)
            and value.shape == parameter.shape
            and value.stride() != parameter.stride()
        ):
            state[name] = torch.empty_like(parameter).copy_(value)
    return state


def _sgd(group: dict[str, Any], gradients: list[Tensor], states: list[State]) -> None:
    torch._fused_sgd_(
        group["params"],
        gradients,
        [state["momentum_buffer"] for state in states] if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=float(group["lr"]),
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=False,
        is_first_step=False,
    )


def _adam(group: dict[str, Any], gradients: list[Tensor], states: list[State]) -> None:
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    kernel(
        group["params"],
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=float(group["lr"]),
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


KERNELS: dict[type, Kernel] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
}
