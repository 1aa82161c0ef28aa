"""What the methods share that find one step size for all parameters and hold it below the learning rate."""

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


class Sized(Method):
    """theta_g -= min(eta, lr_g) d_g, with one eta found at every step for all groups g.

    Lr is the largest step.

    A schedule therefore acts on the cap, and a group with lr = 0 stays where it is. The numbers
    that a method carries from step to step stand in the first parameter group: `steps`, `capped`
    (steps that were cut to lr), `step_size`.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, {**defaults, "steps": 0, "capped": 0, "step_size": 0.0})

    @property
    def memory(self) -> dict[str, Any]:
        """The group that holds what concerns all of them."""
        return self.param_groups[0]

    def gradients(self) -> list[Tensor]:
        """The gradients of the parameters that have one."""
        found = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        require_strided(found)
        return found

    def measured(self, loss: Tensor) -> tuple[float, float] | None:
        """The loss and |g|^2 as numbers; None, and counted, where one of them is not finite."""
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
        """The step sizes of the groups, eta held below their learning rates.

        The first one is remembered.
        """
        memory = self.memory
        sizes: list[float] = [min(eta, group["lr"]) for group in self.param_groups]
        memory["steps"] += 1
        memory["capped"] += eta > memory["lr"]
        memory["step_size"] = sizes[0]
        return sizes

    def per_epoch(self, growth: float, given: int | None) -> float:
        """growth^(1 / steps in an epoch): the factor of one step.

        Raises:
            ValueError: nobody has said how many steps make an epoch.
        """
        steps = (
            given
            if given is not None
            else self.horizon.steps_per_epoch
            if self.horizon is not None
            else None
        )
        if steps is None:
            raise ValueError(
                f"{type(self).__name__} grows its step by a factor an epoch: pass "
                f"steps_per_epoch=..., the number of "
                "mini-batches in a pass over the data (1: full batch), or tell it by expect(steps, "
                "steps_per_epoch)"
            )
        return float(growth ** (1 / max(1.0, steps)))

    def telemetry(self) -> dict[str, float]:
        """`step_size`: the last one, of the first group; `capped`.

        The share of the steps that were cut to lr.
        """
        memory = self.memory
        told = {
            "step_size": float(memory["step_size"]),
            "capped": memory["capped"] / max(1, memory["steps"]),
        }
        return {**super().telemetry(), **told}

    def require_bound(self, value: float, bound: float, option: str, help: str = "") -> None:
        """Refuse a loss that is negative where nobody has said how low it may get.

        Zero bounds it no longer.

        Raises:
            UnsupportedError: the loss is negative and the bound is zero.
        """
        if bound == 0 and value < -ROUNDING:
            raise UnsupportedError(
                f"{type(self).__name__} takes zero for a lower bound of the loss, which is "
                f"{value:.6g}: pass {option}="
                f"..., a number that no mini-batch's loss is below{help}"
            )


def dots(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The scalar product of two lists of tensors."""
    return torch.stack(
        [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(first, second, strict=True)]
    ).sum()
