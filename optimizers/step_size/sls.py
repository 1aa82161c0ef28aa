"""SLS: a line search on the mini-batch's own loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.flat import unflatten
from optimizers.method import require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased
from optimizers.step_size.global_step import GlobalStep

CONDITIONS = ("armijo", "goldstein")
RESETS = ("grow", "keep", "first")
TINY = 1e-6  # the step after a failed search


@dataclass(frozen=True)
class SearchResult:
    """The end of a search: step size, flat step (n,), number of backtracks, and acceptance."""

    eta: float
    step: Tensor
    backtracks: int
    accepted: bool


class SLS(GlobalStep):
    r"""Stochastic gradient steps with a line search on the same mini-batch (Vaswani et al., 2019).

    arXiv 1905.09997. eta is the first of first_trial, beta first_trial, ... with Armijo's condition
    on the mini-batch's loss

        f(theta - eta g) <= f(theta) - c eta |g|^2

    `goldstein` requires f(theta - eta g) >= f(theta) - (1 - c) eta |g|^2 too, and multiplies eta by
    `beta_up` where that fails. The first trial (the authors' reset options 1, 0 and 2) is
    gamma^(1/b) times the last step with b steps an epoch (`grow`), the last step (`keep`), or
    `first`.

    Within a step the objective is one function: dropout repeats its masks, running statistics stay.
    The condition therefore holds exactly for the evaluated loss. Convergence to a minimum needs
    interpolation.

    If all trials fail, within `max_trials` or before rounding hides the predicted decrease, the
    step is 1e-6 g, counted as `failures/line_search`, and `stuck` says so.

    Cost: one gradient and one evaluation a trial, usually 1 to 2 of them. State: a number. Two flat
    vectors a step.

    Differences from the authors' code: lr bounds Armijo's trials too (only Goldstein's in their
    code, at 10); after a failed search the next one begins from the last accepted size, not from
    the exhausted one.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the largest step; a group with a smaller one moves by its own in every trial.
        condition: `armijo` or `goldstein`.
        c: the required share of the predicted decrease; for `goldstein` below 1/2.
        beta: the factor of a backtrack.
        beta_up: the factor by which `goldstein` lengthens a step.
        reset: `grow`, `keep` or `first`: the start of the next search.
        gamma: the growth of `grow` in an epoch.
        first: the first trial of all.
        max_trials: the most evaluations in a step.
        steps_per_epoch: mini-batches in an epoch; None for the number announced by `expect`.

    Raises:
        ValueError: a hyperparameter out of its range; `grow` without the number of steps in an
            epoch.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 10.0,
        condition: str = "armijo",
        c: float = 0.1,
        beta: float = 0.9,
        beta_up: float = 2.0,
        reset: str = "grow",
        gamma: float = 2.0,
        first: float = 1.0,
        max_trials: int = 100,
        steps_per_epoch: int | None = None,
    ) -> None:
        require_range("lr", lr)
        require_choice("condition", condition, CONDITIONS)
        require_choice("reset", reset, RESETS)
        self.goldstein = condition == "goldstein"
        require_range("c", c, high=0.499 if self.goldstein else 0.999, open_low=True)
        require_range("beta", beta, high=0.999, open_low=True)
        require_range("beta_up", beta_up, low=1.001)
        require_range("gamma", gamma, low=1)
        require_range("first", first, open_low=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        if steps_per_epoch is not None:
            require_range("steps_per_epoch", steps_per_epoch, low=1, whole=True)
        self.c = c
        self.beta = beta
        self.beta_up = beta_up
        self.reset = reset
        self.gamma = gamma
        self.first = first
        self.max_trials = max_trials
        self.steps_per_epoch = steps_per_epoch
        super().__init__(params, {"lr": lr, "eta": first, "backtracks": 0, "last_backtracks": 0})

    def telemetry(self) -> dict[str, float]:
        """`backtracks` of the last step and `mean_backtracks` of all, beside the common numbers."""
        memory = self.memory
        numbers = {"backtracks": float(memory["last_backtracks"])}
        numbers["mean_backtracks"] = memory["backtracks"] / max(1, memory["steps"])
        return {**super().telemetry(), **numbers}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Search along the gradient on the mini-batch's loss; return the loss before the step."""
        self.stuck = ""
        first = self._first()
        loss = objective()
        numbers = self.measured(loss)
        if numbers is None or first == 0:
            return loss
        if numbers[1] == 0:
            self.stuck = "the gradient is zero"
            return loss
        searched = self.search(objective, numbers[0], objective.gradient(), first)
        self._remember(searched)
        objective.move(searched.step)
        return loss

    def _first(self) -> float:
        """The first trial, below the largest learning rate."""
        eta = self.first if self.reset == "first" else self.memory["eta"]
        growth = self.per_epoch(self.gamma, self.steps_per_epoch) if self.reset == "grow" else 1.0
        return float(min(growth * eta, max(group["lr"] for group in self.param_groups)))

    @phased("line search")
    def search(
        self, objective: Objective, start: float, gradient: Tensor, first: float
    ) -> SearchResult:
        """Search from the trial `first`; `start` is the loss, `gradient` (n,) its gradient."""
        eta, backtracks, cap = first, 0, max(group["lr"] for group in self.param_groups)
        resolution = torch.finfo(gradient.dtype).eps * abs(start)
        last: SearchResult | None = None
        for _ in range(self.max_trials):
            step = self._along(objective, gradient, eta)
            predicted = -float(gradient @ step)
            if predicted <= resolution:
                break
            change = float(objective.value(step)) - start
            if isfinite(change) and change <= -self.c * predicted:
                last = SearchResult(eta, step, backtracks, True)
                if not self.goldstein or change >= -(1 - self.c) * predicted or eta == cap:
                    return last
                eta = min(self.beta_up * eta, cap)
            else:
                eta *= self.beta
                backtracks += 1
        return last or SearchResult(TINY, self._along(objective, gradient, TINY), backtracks, False)

    def _along(self, objective: Objective, gradient: Tensor, eta: float) -> Tensor:
        """The step -min(eta, lr) g of every group as a flat vector; zero without a group."""
        step = -eta * gradient
        caps = {id(p): group["lr"] for group in self.param_groups for p in group["params"]}
        if len(caps) == len(objective.params) and min(caps.values()) >= eta:
            return step
        for parameter, part in zip(
            objective.params, unflatten(step, objective.params), strict=True
        ):
            part.mul_(min(1.0, caps.get(id(parameter), 0.0) / eta))
        return step

    def _remember(self, searched: SearchResult) -> None:
        memory = self.memory
        self.recorded(searched.eta)
        memory["capped"] += searched.eta == memory["lr"]
        memory["backtracks"] += searched.backtracks
        memory["last_backtracks"] = searched.backtracks
        if searched.accepted:
            memory["eta"] = searched.eta
        else:
            self.failures["line_search"] += 1
            self.stuck = (
                f"no step along the gradient lowers the loss enough in {searched.backtracks} "
                "backtracks"
            )
