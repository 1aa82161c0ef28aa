"""SPS: the stochastic Polyak step size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import require_choice, require_range
from optimizers.objective import Objective
from optimizers.step_size.polyak import Polyak

RULES = ("smooth_iter", "max")


class SPS(Polyak):
    r"""Gradient steps of Polyak's size on every mini-batch (Loizou et al., 2021).

    Loizou, Vaswani, Laradji and Lacoste-Julien. With p = (f_i - f*) / (c |g_i|^2 + eps) for the
    mini-batch i, theta -= min(eta, lr) g and

    - `max`: eta = p, which is SPS_max with lr = gamma_b;
    - `smooth_iter`: eta = min(gamma^(1/b) eta_before, p), b steps an epoch: the smoothing of their
      experiments, which limits the growth of the step to the factor gamma an epoch.

    f is the loss of the task with its L2 term, f* a lower bound for all mini-batches. If no theta
    fits all mini-batches at once (f* far below the reachable losses), the steps are too long and do
    not tend to zero. lr alone then bounds them, and `capped` in `telemetry` shows it. Clipping the
    gradient makes the steps longer, not shorter, as the size divides by |g|^2.

    Cost: one gradient, one reduction. State: a number.

    Differences from the authors' code: eps is zero (theirs, 1e-8, ends the fast decay of a logistic
    loss at about 3e-6, where |g|^2 is as small); lr bounds `smooth_iter` too (unbounded in their
    code: lr=1e6); a step of size zero (f <= f*) is not stored, because no factor makes zero grow;
    negative losses with f* = 0 are refused.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the largest step.
        rule: `smooth_iter` or `max`.
        c: the factor of the gradient's square; 1/2 for fast convergence, larger for non-convex
            losses.
        f_star: a lower bound of the losses of all mini-batches.
        gamma: the growth of `smooth_iter` in an epoch.
        first: the size before the first step of `smooth_iter`.
        steps_per_epoch: mini-batches in an epoch; None for the number announced by `expect`.
        eps: added to the denominator.

    Raises:
        ValueError: a hyperparameter out of its range; `smooth_iter` without the number of steps in
            an epoch.
        UnsupportedError: a loss is negative and f_star is zero.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 10.0,
        rule: str = "smooth_iter",
        c: float = 0.5,
        f_star: float = 0.0,
        gamma: float = 2.0,
        first: float = 1.0,
        steps_per_epoch: int | None = None,
        eps: float = 0.0,
    ) -> None:
        require_range("lr", lr)
        require_choice("rule", rule, RULES)
        require_range("c", c, open_low=True)
        require_range("f_star", f_star, low=float("-inf"))
        require_range("gamma", gamma, low=1)
        require_range("first", first, open_low=True)
        require_range("eps", eps)
        if steps_per_epoch is not None:
            require_range("steps_per_epoch", steps_per_epoch, low=1, whole=True)
        self.smooth = rule == "smooth_iter"
        self.c = c
        self.f_star = f_star
        self.gamma = gamma
        self.steps_per_epoch = steps_per_epoch
        self.eps = eps
        super().__init__(params, {"lr": lr, "eta": first})

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Take a capped Polyak step along the gradient; return the loss before it."""
        growth = self.per_epoch(self.gamma, self.steps_per_epoch) if self.smooth else 1.0
        loss = objective()
        numbers = self.measured(loss)
        if numbers is None:
            return loss
        gap = self.gap(*numbers)
        if gap == 0:
            return loss
        eta = gap / (self.c * numbers[1] + self.eps)
        if self.smooth:
            eta = self.memory["eta"] = min(growth * self.memory["eta"], eta)
        for group, size in zip(self.param_groups, self.recorded(eta), strict=True):
            moving = [p for p in group["params"] if p.grad is not None]
            if moving:
                torch._foreach_add_(moving, [p.grad for p in moving], alpha=-size)
        return loss
