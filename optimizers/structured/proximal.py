"""Base of the methods for a loss plus a regulariser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.structured.regularisers import GROUPS, REGULARISERS, regulariser


class Proximal(Method):
    """Minimise f(W) + strength psi(W): f by its gradients, psi by its proximal operator.

    psi acts on the tensors with two dimensions or more of every parameter group with nonzero
    `strength`; biases and scales are free. A step returns the loss f alone.
    """

    def __init__(
        self, params: Iterable[Any], options: dict[str, Any], kind: str, groups: str
    ) -> None:
        require_range("lr", options["lr"])
        require_range("strength", options["strength"])
        require_choice("regulariser", kind, REGULARISERS)
        require_choice("groups", groups, GROUPS)
        self.regulariser = regulariser(kind, groups)
        super().__init__(params, options | {"steps": 0})

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Update every tensor with a gradient; return the loss f before the step."""
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        for group in self.param_groups:
            self.begin(group)
            if group["lr"] == 0:
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, self.state[parameter], group)
        return loss

    def begin(self, group: dict[str, Any]) -> None:
        """Count a step of a parameter group before its tensors move."""
        group["steps"] += 1

    @abstractmethod
    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Move one tensor in place, with its state."""

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        """The regulariser's operator for a weight, or the point itself where psi does not act."""
        return (
            self.regulariser.prox(point, metric, strength) if strength and point.ndim > 1 else point
        )

    def telemetry(self) -> dict[str, float]:
        """`zero_units` and `penalty`, beside the common numbers.

        `zero_units` is the share of groups, weights or singular values that are zero, and `penalty`
        is strength psi.
        """
        weights = [
            (group["strength"], parameter.detach())
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.ndim > 1 and group["strength"]
        ]
        counted = [self.regulariser.zeros(weight) for _, weight in weights]
        units = sum(total for _, total in counted)
        return super().telemetry() | {
            "zero_units": sum(zero for zero, _ in counted) / units if units else 0.0,
            "penalty": sum(
                (strength * float(self.regulariser.value(weight)) for strength, weight in weights),
                0.0,
            ),
        }
