"""RAMDA: regularised, adaptive, momentum dual averaging."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_range
from optimizers.structured.proximal import Proximal


class RAMDA(Proximal):
    r"""Dual averaging in an adaptive metric, for structured sparsity (Lee et al., 2024).

    arXiv 2403.14398, Algorithm 1. In step t = 1, 2, ... with eta = lr sqrt(t):

        G += eta g,    V += eta g^2,    a += eta,    D = V^{1/3} + eps
        Wt = argmin over W of <G, W> + 1/2 ||W - W0||_D^2 + a strength psi(W)
        W <- (1 - c) W + c Wt

    All gradients since the start count, so that their noise averages out and the pattern of zeros
    becomes that of a stationary point after finitely many steps (their Theorem 2). The iterate W is
    a mixture, with the zeros that all Wt share: c has to grow to 1 in the end, or exact zeros come
    late.

    At a restart W0 becomes W, the sums return to zero, and lr and eps are divided by ten; after the
    last restart c = min(1, c sqrt(steps since)). `adaptive=false` is RMDA (Huang and Lee, 2022,
    arXiv 2102.09572): D = sqrt(t).

    Cost: 1 gradient-equivalent. State: 3 n numbers (2 n for RMDA).

    Differences from the authors' code: the group lasso's operator is exact instead of proximal
    gradient steps; restarts are given as shares of the training.

    Args:
        params: the parameters.
        lr: the learning rate; a length moves as lr^(2/3).
        averaging: c, the share of the new point.
        eps: added to the metric.
        strength: the factor of the regulariser.
        regulariser: `group_lasso`, `l1` or `nuclear`.
        groups: a group of the group lasso: the weights of one `input`, or of one `output`.
        adaptive: whether the metric adapts to the gradients.
        restarts: the shares of the training at which the method restarts.
        total_steps: the length of the training; None for the length announced by `expect`.

    Raises:
        ValueError: a hyperparameter out of its range; restarts without a known length of the
            training.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        averaging: float = 0.1,
        eps: float = 1e-6,
        strength: float = 1e-3,
        regulariser: str = "group_lasso",
        groups: str = "input",
        adaptive: bool = True,
        restarts: Sequence[float] = (0.6, 0.85),
        total_steps: int | None = None,
    ) -> None:
        require_range("averaging", averaging, high=1, open_low=True)
        require_range("eps", eps, open_low=True)
        if not isinstance(restarts, Sequence) or not all(_is_share(share) for share in restarts):
            raise ValueError(
                f"restarts must be a list of shares of the training in [0, 1], got {restarts!r}"
            )
        if total_steps is not None:
            require_range("total_steps", total_steps, low=1, whole=True)
        self.adaptive = adaptive
        self.restarts = sorted(restarts)
        self.total_steps = total_steps
        options = {"lr": lr, "averaging": averaging, "eps": eps, "strength": strength}
        super().__init__(
            params, options | {"taken": 0, "rounds": 0, "sum": 0.0, "eta": 0.0}, regulariser, groups
        )

    def begin(self, group: dict[str, Any]) -> None:
        """Count a step: `steps` since the last restart, `taken` in all; restart where due."""
        due = sum(group["taken"] >= share * self._length() for share in self.restarts)
        if due > group["rounds"]:
            group.update(rounds=due, steps=0, sum=0.0)
            for parameter in group["params"]:
                self.state.pop(parameter, None)
        group["taken"] += 1
        group["steps"] += 1
        group["eta"] = group["lr"] * 0.1 ** group["rounds"] * sqrt(group["steps"])
        group["sum"] += group["eta"]

    def update(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update the sums of one tensor and move it towards the minimiser Wt."""
        if "start" not in state:
            state["start"] = parameter.clone()
            state["gradients"] = torch.zeros_like(parameter)
            if self.adaptive:
                state["squares"] = torch.zeros_like(parameter)
        eta = group["eta"]
        total = state["gradients"].add_(gradient, alpha=eta)
        if self.adaptive:
            squares = state["squares"].addcmul_(gradient, gradient, value=eta)
            metric = squares.pow(1 / 3).add_(group["eps"] * 0.1 ** group["rounds"])
        else:
            metric = torch.full_like(parameter, sqrt(group["steps"]))
        point = self.prox(state["start"] - total / metric, metric, group["sum"] * group["strength"])
        last = group["rounds"] == len(self.restarts)
        share = min(1.0, group["averaging"] * (sqrt(group["steps"]) if last else 1.0))
        parameter.lerp_(point, share)

    def _length(self) -> int:
        length = self.total_steps or (self.horizon.steps if self.horizon else None)
        if length is None and self.restarts:
            raise ValueError(
                "RAMDA's restarts are shares of the training: pass total_steps=<steps>, or "
                "restarts=[]"
            )
        return length or 0


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
