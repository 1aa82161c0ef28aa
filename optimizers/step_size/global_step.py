"""Base of the methods with one step size for all parameters, capped by the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import require_strided
from optimizers.method import Method

ROUNDING = 1e-6  # a loss this far below zero may still be zero


class GlobalStep(Method):
    """Steps theta_g -= min(eta, lr_g) d_g, with one eta a step for all groups g.

    lr is the largest step: a schedule changes the cap, and a group with lr = 0 does not move. The
    first parameter group holds the numbers of the method: `steps`, `capped` (the number of steps
    cut to lr) and `step_size`.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, {**defaults, "steps": 0, "capped": 0, "step_size": 0.0})

    @property
    def memory(self) -> dict[str, Any]:
        """The group that holds the numbers of all groups."""
        return self.param_groups[0]

    def gradients(self) -> list[Tensor]:
        """The gradients of the parameters that have one."""
        gradients = [
            parameter.grad for parameter in self.parameters() if parameter.grad is not None
        ]
        require_strided(gradients)
        return gradients

    def measured(self, loss: Tensor) -> tuple[float, float] | None:
        """The loss and |g|^2 as numbers; None, counted as a failure, if one is not finite."""
        gradients = self.gradients()
        norm = (
            torch.stack(torch._foreach_norm(gradients)).norm()
            if gradients
            else torch.zeros_like(loss)
        )
        value, length = torch.stack((loss, norm.to(loss))).tolist()
        if not (isfinite(value) and isfinite(length)):
            self.failures["non_finite"] += 1
            return None
        return value, length**2

    def recorded(self, eta: float) -> list[float]:
        """The step sizes of the groups: eta, cut to their learning rates; stores the first."""
        memory = self.memory
        sizes: list[float] = [min(eta, group["lr"]) for group in self.param_groups]
        memory["steps"] += 1
        memory["capped"] += eta > memory["lr"]
        memory["step_size"] = sizes[0]
        return sizes

    def per_epoch(self, growth: float, given: int | None) -> float:
        """The factor growth^(1 / steps in an epoch) of one step.

        Raises:
            ValueError: the number of steps in an epoch is unknown.
        """
        announced = self.horizon.steps_per_epoch if self.horizon is not None else None
        steps = announced if given is None else given
        if steps is None:
            raise ValueError(
                f"{type(self).__name__} grows its step by a factor an epoch: pass "
                "steps_per_epoch=..., the number of mini-batches in a pass over the data (1: full "
                "batch), or call expect(steps, steps_per_epoch)"
            )
        return float(growth ** (1 / max(1.0, steps)))

    def telemetry(self) -> dict[str, float]:
        """`step_size` of the first group's last step, and `capped`, the share of cut steps."""
        memory = self.memory
        numbers = {
            "step_size": float(memory["step_size"]),
            "capped": memory["capped"] / max(1, memory["steps"]),
        }
        return {**super().telemetry(), **numbers}

    def require_bound(self, value: float, bound: float, option: str, help: str = "") -> None:
        """Refuse a negative loss with the default lower bound, zero.

        Raises:
            UnsupportedError: the loss is negative and the bound is zero.
        """
        if bound == 0 and value < -ROUNDING:
            raise UnsupportedError(
                f"{type(self).__name__} takes zero for a lower bound of the loss, which is "
                f"{value:.6g}: pass {option}=..., a number that no mini-batch's loss is below{help}"
            )


def dots(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The scalar product of two lists of tensors."""
    return torch.stack(
        [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(first, second, strict=True)]
    ).sum()
