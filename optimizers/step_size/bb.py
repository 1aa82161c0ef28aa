"""Barzilai-Borwein step sizes: with a nonmonotone line search, or one size an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.line_search import visible_change
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased
from optimizers.step_size.epochs import Epochs

FORMS = ("auto", "deterministic", "per_epoch")
RULES = ("bb1", "bb2", "alternating")
SUFFICIENT = 1e-4  # gamma of Grippo, Lampariello and Lucidi
# trials whose loss equals the first one but for rounding, after which the search ends
UNRESOLVED = 3
SMALLEST, LARGEST = 1e-10, 1e10  # sizes beyond these are rounding errors


class BB(Method):
    r"""Gradient steps theta -= lr alpha g of the secant's size (Barzilai and Borwein, 1988).

    With s the last step and y the change of the gradient over it, alpha is the least-squares
    solution of s = alpha y or s / alpha = y:

        bb1: s.s / s.y        bb2: s.y / y.y        alternating: one after the other

    `deterministic`: both gradients of a pair belong to the same mini-batch; the next step uses the
    second one, so that a full batch costs one gradient a step. A step is accepted when f(theta -
    alpha g) <= max(the last `memory` losses) - 1e-4 alpha |g|^2, the nonmonotone condition of
    Grippo, Lampariello and Lucidi in Raydan's method (1997, "GBB"). Else the parabola through the
    values shortens alpha, to 0.1 to 0.5 of itself.

    `per_epoch`: stochastic steps whose size changes once an epoch of b steps, |s|^2 / |s.y| / b
    with s over an epoch and y the change of an average of gradients (Tan, Ma, Dai and Qian, 2016,
    "SGD-BB"); see `Epochs`.

    `auto`: per_epoch for epochs of several mini-batches, else deterministic.

    Cost: one gradient a step (`deterministic`: on mini-batches two, and one for every rejected
    trial). State: none, or 3 n numbers per epoch; 2 flat vectors within a step.

    Differences from Raydan: alpha is the step, not its reciprocal; negative curvature along s gives
    |s.s / s.y|; the first step is `first`, or min(1, 1 / |g|_1); where rounding hides the change of
    the loss, the slopes determine it.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of every step; 1 is the method's own.
        form: `auto`, `deterministic` or `per_epoch`.
        rule: `bb1`, `bb2` or `alternating`; per_epoch has bb1.
        first: the step before a pair is known; None for min(1, 1 / |g|_1), or 0.1 per epoch.
        memory: the losses of the nonmonotone condition; 1 is Armijo's.
        max_trials: the most trials in a step; if all fail, the parameters stay and `stuck` says so.
        steps_per_epoch: mini-batches in an epoch; None for the number announced by `expect`.
        averaging: the weight of a new gradient in the average; None for min(1, 10 / b).
        smoothing: per_epoch: steps C / k in epoch k, C the geometric mean of k alpha_k so far.

    Raises:
        ValueError: a hyperparameter out of its range; `per_epoch` without the number of steps in an
            epoch.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        form: str = "auto",
        rule: str = "bb1",
        first: float | None = None,
        memory: int = 10,
        max_trials: int = 30,
        steps_per_epoch: int | None = None,
        averaging: float | None = None,
        smoothing: bool = False,
    ) -> None:
        require_range("lr", lr)
        require_choice("form", form, FORMS)
        require_choice("rule", rule, RULES)
        require_range("memory", memory, low=1, whole=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        if first is not None:
            require_range("first", first, open_low=True)
        if steps_per_epoch is not None:
            require_range("steps_per_epoch", steps_per_epoch, low=1, whole=True)
        if averaging is not None:
            require_range("averaging", averaging, high=1, open_low=True)
        self.form = form
        self.rule = rule
        self.first = first
        self.memory = memory
        self.max_trials = max_trials
        self.steps_per_epoch = steps_per_epoch
        self.epochs = Epochs(self, first or 0.1, averaging, smoothing)
        numbers = {
            "pairs": 0,
            "alpha": 0.0,
            "losses": [],
            "trials": 0,
            "step_size": 0.0,
            **Epochs.numbers,
        }
        super().__init__(params, {"lr": lr, **numbers})

    def telemetry(self) -> dict[str, float]:
        """`step_size` of the last step, and `trials` of its search, 0 without a search."""
        group = self.param_groups[0]
        numbers = {"step_size": float(group["step_size"]), "trials": float(group["trials"])}
        return {**super().telemetry(), **numbers}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Take the secant's step by a search, or the epoch's step; return the loss before it."""
        group = self.whole(objective)
        self.stuck = ""
        steps = self._epoch()
        if steps is not None:
            return self.epochs.step(objective, group, steps)
        loss, gradient = objective.value_and_gradient()
        squares = float(gradient @ gradient)
        if not (isfinite(float(loss)) and isfinite(squares)):
            self.failures["non_finite"] += 1
        elif squares == 0:
            self.stuck = "the gradient is zero"
        elif group["lr"]:
            self._search(objective, group, float(loss), gradient, squares)
        return loss

    def _epoch(self) -> int | None:
        """The number of steps in an epoch, or None for the deterministic form."""
        steps = self.steps_per_epoch
        if steps is None and self.horizon is not None:
            steps = max(1, round(self.horizon.steps_per_epoch))
        if self.form == "per_epoch" and steps is None:
            raise ValueError(
                "BB changes its step once an epoch: pass steps_per_epoch=..., the number of "
                "mini-batches in a pass over the data, or call expect(steps, steps_per_epoch); "
                "form=deterministic needs neither"
            )
        several = steps is not None and steps > 1
        return steps if self.form == "per_epoch" or (self.form == "auto" and several) else None

    # -- the deterministic form --------------------------------------------------------------------

    @phased("line search")
    def _search(
        self,
        objective: Objective,
        group: dict[str, Any],
        start: float,
        gradient: Tensor,
        squares: float,
    ) -> None:
        """Move to the first trial that the nonmonotone condition accepts."""
        losses = [*group["losses"], start][-self.memory :]
        alpha = group["lr"] * (group["alpha"] if group["pairs"] else self._first(gradient))
        unit = abs(start) * torch.finfo(gradient.dtype).eps
        unresolved = 0
        for trials in range(1, self.max_trials + 1):
            step = -alpha * gradient
            value, trial = objective.value_and_gradient(step)
            slope = -float(trial @ gradient)
            change = visible_change(alpha, float(value) - start, -squares, slope, unit)
            fine = isfinite(slope) and isfinite(change)
            if fine and change <= max(losses) - start - SUFFICIENT * alpha * squares:
                group.update(losses=losses, trials=trials, step_size=alpha)
                self._learn(group, alpha, gradient, trial)
                objective.move(step, value, trial)
                return
            unresolved += abs(float(value) - start) <= unit
            if unresolved == UNRESOLVED:
                break
            alpha = shortened(alpha, change, squares) if fine else 0.1 * alpha
        self.failures["line_search"] += 1
        self.stuck = f"no step along the gradient lowers the loss in {trials} trials"

    def _first(self, gradient: Tensor) -> float:
        return self.first if self.first is not None else min(1.0, 1 / float(gradient.abs().sum()))

    def _learn(self, group: dict[str, Any], alpha: float, gradient: Tensor, trial: Tensor) -> None:
        """Choose the next step's size from s = -alpha g and y."""
        y = trial - gradient
        along, squares, turned = -alpha * (gradient @ y), alpha**2 * (gradient @ gradient), y @ y
        short = self.rule == "bb2" or (self.rule == "alternating" and group["pairs"] % 2 == 1)
        quotient = along.abs() / turned if short else squares / along.abs()
        size = float(quotient)
        if isfinite(size) and size > 0:  # without change of the gradient the size stays
            group["alpha"] = min(max(size, SMALLEST), LARGEST)
        elif not group["pairs"]:
            group["alpha"] = alpha
        group["pairs"] += 1


def shortened(alpha: float, change: float, squares: float) -> float:
    """The minimiser, within [0.1, 0.5] alpha, of the parabola through the loss's changes.

    The parabola has the slope -squares at 0 and the value `change` at alpha.
    """
    bent = change + alpha * squares
    best = alpha**2 * squares / (2 * bent) if bent > 0 else 0.5 * alpha
    return min(max(best, 0.1 * alpha), 0.5 * alpha)
