"""SGD-BB: one Barzilai-Borwein step size an epoch."""

from __future__ import annotations

from collections import Counter
from math import exp, inf, log
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from optimizers.linalg.flat import flatten
from optimizers.objective import Objective


class Keeping(Protocol):
    """The part of a method that `Epochs` uses."""

    failures: Counter[str]
    state: Any

    def finite(self, loss: Tensor, objective: Objective) -> bool:
        """Whether loss and gradients are finite."""
        ...

    def stored(self, key: str) -> Tensor | None:
        """A flat vector of the state, or None."""
        ...

    def keep(self, key: str, vector: Tensor) -> None:
        """Store a flat vector in the state."""
        ...


class Epochs:
    r"""Steps theta -= lr eta g with a new eta at each epoch (Tan, Ma, Dai and Qian, 2016).

    The average ghat <- a g + (1 - a) ghat is updated at every step. At the beginning of epoch k =
    2, 3, ... of b steps, with theta_k, ghat_k the present values and theta_{k-1}, ghat_{k-1} those
    an epoch earlier (their SGD-BB),

        eta_k = |theta_k - theta_{k-1}|^2 / |(theta_k - theta_{k-1}).(ghat_k - ghat_{k-1})| / b

    and with `smoothing` eta_k <- C_k / k, C_k the geometric mean of j eta_j, j = 2..k. Epochs 0 and
    1 use the first step size. A quotient that is not a positive number changes nothing and counts
    as `failures/pair`.

    State: three vectors of n numbers.
    """

    numbers: ClassVar[dict[str, Any]] = {"count": 0, "eta": 0.0, "mean_log": 0.0, "sizes": 0}

    def __init__(
        self, method: Keeping, first: float, averaging: float | None, smoothing: bool
    ) -> None:
        self.method = method
        self.first = first
        self.averaging = averaging
        self.smoothing = smoothing

    def step(self, objective: Objective, group: dict[str, Any], steps: int) -> Tensor:
        """Take one stochastic gradient step; return the loss before it."""
        loss = objective()
        if not self.method.finite(loss, objective):
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in objective.params]
        averages = self._averages(objective)
        epoch, place = divmod(group["count"], steps)
        if place == 0:
            self._begin(objective, group, epoch, flatten(averages), steps)
        torch._foreach_lerp_(
            averages, gradients, min(1.0, 10 / steps) if self.averaging is None else self.averaging
        )
        group["count"] += 1
        group["step_size"] = group["lr"] * group["eta"]
        torch._foreach_add_(list[Tensor](objective.params), gradients, alpha=-group["step_size"])
        return loss

    def _averages(self, objective: Objective) -> list[Tensor]:
        """The average of every parameter's gradients; the first call creates the state."""
        if self.method.stored("average") is None:
            nothing = torch.zeros_like(flatten(objective.params))
            for key in ("average", "last_average", "theta"):
                self.method.keep(key, nothing)
        return [self.method.state[parameter]["average"] for parameter in objective.params]

    def _begin(
        self, objective: Objective, group: dict[str, Any], epoch: int, average: Tensor, steps: int
    ) -> None:
        """Choose the epoch's step size, and store its first point and average."""
        theta = flatten(objective.params)
        group["eta"] = group["eta"] or self.first
        before, last = self.method.stored("theta"), self.method.stored("last_average")
        if epoch > 1 and before is not None and last is not None:
            s, y = theta - before, average - last
            along = abs(float(s @ y))
            self._choose(group, epoch, float(s @ s) / along / steps if along else inf)
        if epoch > 0:
            self.method.keep("theta", theta)
            self.method.keep("last_average", average)

    def _choose(self, group: dict[str, Any], epoch: int, size: float) -> None:
        if not 0 < size < 1e10:
            self.method.failures["pair"] += 1
            return
        if self.smoothing:
            group["sizes"] += 1
            group["mean_log"] += (log(size * epoch) - group["mean_log"]) / group["sizes"]
            size = exp(group["mean_log"]) / epoch
        group["eta"] = size
