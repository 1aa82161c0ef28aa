"""Base of the methods that divide a momentum by a periodically refreshed diagonal of curvature."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.diagonal.probes import DISTRIBUTIONS, hutchinson
from optimizers.linalg.flat import flatten, unflatten
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phase

Group = dict[str, Any]
MOMENTUM, DIAGONAL = "momentum", "diagonal"  # the states


class LazyDiagonal(Method):
    """A momentum m of the gradients over a diagonal estimate refreshed every `period` steps.

    Momentum and diagonal have the units of the canonical loss (summed over outputs, averaged over
    examples), so that a mean and a sum over the batch make the same steps. A parameter without
    influence on the loss has gradient and curvature zero. A curvature that is not finite is
    skipped and estimated again in the next step (`failures/curvature`); before the first finite
    curvature the step is refused.

    State: two numbers a parameter. On a refresh the graph of the gradient lives until the products
    are computed.
    """

    def __init__(self, params: Iterable[Any], options: Group, period: int) -> None:
        for name in ("beta1", "beta2"):
            require_range(name, options[name], high=1)
            if options[name] == 1:
                raise ValueError(
                    f"{name} must be below 1, or the average never changes; got {options[name]!r}"
                )
        require_range("lr", options["lr"])
        require_range("eps", options["eps"], open_low=True)
        require_range("weight_decay", options["weight_decay"])
        require_range("period", period, low=1, whole=True)
        self.period = period
        super().__init__(params, {**options, "steps": 0, "refreshes": 0, "age": 0})

    @abstractmethod
    def estimate(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """The loss, its gradients in `.grad`, and an estimate of its curvature's diagonal (n,)."""

    @abstractmethod
    def learn(
        self, group: Group, running: list[Tensor], estimates: list[Tensor], scale: float
    ) -> None:
        """Update a group's running diagonal with estimates for `scale` times the canonical loss."""

    @abstractmethod
    def move(
        self, group: Group, params: list[Tensor], momenta: list[Tensor], running: list[Tensor]
    ) -> None:
        """Update the parameters of a group in place."""

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Refresh the diagonal if due, then move every group; return the loss before it."""
        first = self.param_groups[0]
        due = first["refreshes"] == 0 or first["age"] >= self.period
        loss, estimate = self.estimate(objective) if due else (objective(), None)
        if not self.finite(loss, objective):
            return loss
        if estimate is not None and not bool(torch.isfinite(estimate.norm())):
            self.failures["curvature"] += 1
            estimate = None
            if first["refreshes"] == 0:
                return loss
        parts = (
            {}
            if estimate is None
            else dict(zip(objective.params, unflatten(estimate, objective.params), strict=True))
        )
        for group in self.param_groups:
            self._step_group(group, objective.scale, parts)
        return loss

    def _step_group(self, group: Group, scale: float, parts: dict[Any, Tensor]) -> None:
        group["steps"] += 1
        group["age"] = 1 if parts else group["age"] + 1
        group["refreshes"] += bool(parts)
        params: list[Tensor] = [p for p in group["params"] if p.requires_grad]
        if not params:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        momenta, running = self._states(params, MOMENTUM), self._states(params, DIAGONAL)
        average_(momenta, gradients, group["beta1"], scale)
        if parts:
            self.learn(group, running, [parts[p] for p in params], scale)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        with phase("precondition"):
            self.move(group, params, momenta, running)

    def _states(self, params: list[Tensor], key: str) -> list[Tensor]:
        for parameter in params:
            if key not in self.state[parameter]:
                self.state[parameter][key] = torch.zeros_like(parameter)
        return [self.state[parameter][key] for parameter in params]

    def diagonal(self) -> Tensor | None:
        """The running estimate of the curvature's diagonal as a vector (n,); None before any step.

        The diagonal belongs to the canonical loss: `objective.scale` times it is that of the loss.
        """
        parts = [part for group in self.param_groups for part in self.estimated(group)]
        return flatten(parts) if parts else None

    def estimated(self, group: Group) -> list[Tensor]:
        """A group's part of the running estimate, tensor by tensor."""
        return [self.state[p][DIAGONAL] for p in group["params"] if DIAGONAL in self.state[p]]

    def telemetry(self) -> dict[str, float]:
        """`age` and the failures, by the common names."""
        return {**super().telemetry(), "age": float(self.param_groups[0]["age"])}


class LazyHessian(LazyDiagonal):
    """A lazy diagonal of the Hessian, estimated by random probes on the gradient's graph."""

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        options: Group,
        period: int,
        distribution: str,
        probes: int,
        seed: int,
    ) -> None:
        require_choice("distribution", distribution, DISTRIBUTIONS)
        require_range("probes", probes, low=1, whole=True)
        require_range("seed", seed, whole=True)
        self.distribution = distribution
        self.probes = probes
        self.seed = seed
        super().__init__(params, options, period)

    def estimate(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """The loss, and Hutchinson's estimate (n,) of the Hessian's diagonal."""
        curvature = objective.hessian(once=self.probes == 1)
        use_gradient(objective, curvature.gradient)
        first = self.seed + self.probes * self.param_groups[0]["refreshes"]
        return curvature.loss, hutchinson(curvature, self.distribution, self.probes, first)


def average_(means: list[Tensor], values: list[Tensor], decay: float, scale: float) -> None:
    """Set means to decay means + (1 - decay) values / scale, in place."""
    if scale == 1:
        torch._foreach_lerp_(means, values, 1 - decay)
        return
    torch._foreach_mul_(means, decay)
    torch._foreach_add_(means, values, alpha=(1 - decay) / scale)


def use_gradient(objective: Objective, gradient: Tensor) -> None:
    """Write a flat gradient into `.grad`, clipped where the objective clips gradients."""
    if objective.clip is not None:
        gradient = gradient.clone()  # an observer may hold a reference to it
    for parameter, part in zip(
        objective.params, unflatten(gradient, objective.params), strict=True
    ):
        parameter.grad = part
    if objective.clip is not None:
        torch.nn.utils.clip_grad_norm_(objective.params, objective.clip)
