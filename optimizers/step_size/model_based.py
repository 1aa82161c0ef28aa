"""Averaged linear models of a loss, and the steps of MoMo and MoMo-Adam along them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_range
from optimizers.objective import Objective
from optimizers.step_size.global_step import GlobalStep, dots

ELSEWHERE = "; with estimate=true the bound is estimated on the way, never below that number"


@dataclass(frozen=True)
class Model:
    """The averaged linear model.

    Attributes:
        loss: the average of the losses.
        offset: the average of <g, theta>.
        along: the product of the average of g with theta.
        squares: the squared length of that average in the metric.
        weight: rho, the sum of the weights.
    """

    loss: float
    offset: float
    along: float
    squares: float
    weight: float

    @property
    def value(self) -> float:
        """The model's value at the present parameters, times rho."""
        return self.loss + self.along - self.offset


class ModelBased(GlobalStep):
    """A step to where the average linear model reaches a lower bound, at most of length lr.

    With d the average of the gradients and D a metric, h = fbar + <d, theta> - gamma the average of
    the models at the present parameters, gamma the average of <g, theta>:

        tau = min(lr / rho, max((1 + lr wd)(fbar - rho f*- gamma) + <d, theta>, 0) / |d|^2_{D^-1})
        theta <- (theta - tau D^-1 d) / (1 + lr wd)

    (Schaipp, Ohana, Eickenberg, Defazio and Gower, 2024, arXiv 2305.07583); rho is the sum of the
    weights of the average. With `estimate` f* follows from each step as (h - tau |d|^2 / 2) / rho,
    halved where the next numerator would be negative, and never below `lower_bound`. The estimate
    is no bound: on a quadratic whose steps never reach the cap it can end above observed losses,
    and the steps become zero.
    """

    proximal = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        beta: float,
        weight_decay: float,
        lower_bound: float,
        estimate: bool,
        bias_correction: bool,
        **options: float,
    ) -> None:
        require_range("lr", lr)
        require_range("weight_decay", weight_decay)
        require_range("lower_bound", lower_bound, low=float("-inf"))
        self.lower_bound = lower_bound
        self.estimate = estimate
        self.bias_correction = bias_correction
        numbers = {"loss": 0.0, "offset": 0.0, "bound": lower_bound}
        super().__init__(
            params, {"lr": lr, "beta": beta, "weight_decay": weight_decay, **options, **numbers}
        )

    @abstractmethod
    def direction(
        self, params: list[Tensor], averages: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """The direction D^-1 d of the parameters; the gradients update the metric's averages."""

    def move(
        self, params: list[Tensor], directions: list[Tensor], tau: float, decay: float
    ) -> None:
        """Set theta to (theta - tau D^-1 d) / (1 + decay), or (1 - decay) theta - tau D^-1 d."""
        if decay and not self.proximal:
            torch._foreach_mul_(params, 1 - decay)
        torch._foreach_add_(params, directions, alpha=-tau)
        if decay and self.proximal:
            torch._foreach_div_(params, 1 + decay)

    def telemetry(self) -> dict[str, float]:
        """`lower_bound`, the present one, beside the numbers of all step sizes."""
        return {**super().telemetry(), "lower_bound": float(self.memory["bound"])}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Step to where the averaged model reaches the lower bound; return the loss before it."""
        self.stuck = ""
        loss = objective()
        numbers = self.measured(loss)
        if numbers is None:
            return loss
        self._require(numbers[0])
        params, gradients = self._moving()
        if not params:
            return loss
        averages = self._averages(params, gradients)
        along_new = dots(params, gradients)
        torch._foreach_lerp_(averages, gradients, 1 - self.memory["beta"])
        directions = self.direction(params, averages, gradients)
        products = torch.stack(
            (along_new, dots(params, averages), dots(averages, directions))
        ).tolist()
        self._apply(self._model(numbers[0], *products), directions)
        return loss

    def _require(self, value: float) -> None:
        if value < self.lower_bound:
            self.require_bound(value, self.lower_bound, "lower_bound", ELSEWHERE)
            self.failures["below_lower_bound"] += 1

    def _moving(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters with a present or past gradient; a missing gradient counts as zero."""
        params: list[Tensor] = [
            p for p in self.parameters() if p.grad is not None or "average" in self.state[p]
        ]
        return params, [torch.zeros_like(p) if p.grad is None else p.grad for p in params]

    def _averages(self, params: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        for parameter, gradient in zip(params, gradients, strict=True):
            state = self.state[parameter]
            if "average" not in state:
                state["average"] = (
                    torch.zeros_like(gradient) if self.bias_correction else gradient.clone()
                )
        return [self.state[parameter]["average"] for parameter in params]

    def _model(self, value: float, along_new: float, along: float, squares: float) -> Model:
        """Update the averages with the newest linear model; return the averaged model."""
        memory = self.memory
        beta, steps = memory["beta"], memory["steps"] + 1
        if steps == 1 and not self.bias_correction:
            memory["loss"], memory["offset"] = value, along_new
        memory["loss"] += (1 - beta) * (value - memory["loss"])
        memory["offset"] += (1 - beta) * (along_new - memory["offset"])
        weight = 1 - beta**steps if self.bias_correction else 1.0
        return Model(memory["loss"], memory["offset"], along, squares, weight)

    def _apply(self, model: Model, directions: list[Tensor]) -> None:
        """Step along the directions, group by group, to the first group's lower bound."""
        memory, first = self.memory, 0
        bound = self._raised(model)
        if model.squares == 0:
            self.stuck = "the averaged gradient is zero"
        for group in self.param_groups:
            params = [p for p in group["params"] if "average" in self.state[p]]
            decay = group["lr"] * group["weight_decay"]
            size = self._reach(model, bound, decay) if model.squares else 0.0
            tau = min(group["lr"] / model.weight, size)
            if group is memory:
                self._record(model, size, tau)
            if params:
                self.move(params, directions[first : first + len(params)], tau, decay)
            first += len(params)

    def _reach(self, model: Model, bound: float, decay: float) -> float:
        """The step length at which the model, with the decay, reaches the bound."""
        below = (1 + decay) * (model.loss - model.weight * bound - model.offset) + model.along
        return max(below, 0.0) / model.squares

    def _raised(self, model: Model) -> float:
        """The lower bound for this step; an estimate above the model is withdrawn."""
        memory = self.memory
        decay = 1 + memory["lr"] * memory["weight_decay"]
        if self.estimate:
            cap = decay * (model.loss - model.offset) + model.along
            if cap < decay * model.weight * memory["bound"]:
                memory["bound"] = max(cap / (2 * decay * model.weight), self.lower_bound)
        return float(memory["bound"])

    def _record(self, model: Model, size: float, tau: float) -> None:
        memory = self.memory
        self.recorded(size * model.weight)
        memory["step_size"] = tau
        if self.estimate:
            memory["bound"] = max(
                (model.value - tau * model.squares / 2) / model.weight, self.lower_bound
            )
