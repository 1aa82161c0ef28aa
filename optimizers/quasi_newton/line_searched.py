"""Base of the quasi-Newton methods with a line search: step, search, choice of curvature pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.line_search import armijo, strong_wolfe, visible_change
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased

SUFFICIENT = 1e-4
SEARCHES = ("strong_wolfe", "armijo", "none")


@dataclass(frozen=True)
class SearchResult:
    """The end theta + step of a search, with its loss and gradient if the search has them."""

    alpha: float
    step: Tensor
    loss: Tensor | None = None
    gradient: Tensor | None = None


class LineSearched(Method):
    r"""A step theta += alpha d, d = -H g, with H learnt from pairs (s, y).

    H approximates the inverse Hessian. s is the step and y the change of the gradient over it, both
    gradients on the same mini-batch. A pair enters if s.y > `skip` * s.Bs, where Bs = -alpha g
    costs nothing (B = H^-1). With `damping` > 0 Powell's damped y <- t y + (1 - t) Bs first raises
    s.y to `damping` * s.Bs (Nocedal and Wright, 2006, procedure 18.2). Before the first pair H is
    the identity and the first trial min(1, 1 / |g|_1). After a failed search along d, H is reset
    and steepest descent tried once; `stuck` reports its failure.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        line_search: str,
        curvature: float,
        damping: float,
        skip: float,
        max_trials: int,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("damping", damping, high=0.99)
        require_range("curvature", curvature, low=SUFFICIENT, high=0.999, open_low=True)
        require_range("skip", skip, high=0.99)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_choice("line_search", line_search, SEARCHES)
        self.line_search = line_search
        self.damping = damping
        self.curvature = curvature
        self.skip = skip
        self.max_trials = max_trials
        super().__init__(params, {"lr": lr, "pairs": 0})

    @abstractmethod
    def apply(self, vector: Tensor) -> Tensor:
        """The product H v (n,), for a method with at least one pair."""

    @abstractmethod
    def learn(self, s: Tensor, y: Tensor) -> None:
        """Update H with a pair of s.y > 0; `pairs` of the group counts the earlier ones."""

    def forget(self) -> None:
        """Reset H to the identity."""
        self.param_groups[0]["pairs"] = 0

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Search along -H g, learn the pair and move; return the loss before the step."""
        group = self.whole(objective)
        self.stuck = ""
        loss, gradient = objective.value_and_gradient()
        if not bool(torch.isfinite(loss) & torch.isfinite(gradient).all()) or group["lr"] == 0:
            return loss
        if not bool(gradient.any()):
            self.stuck = "the gradient is zero"
            return loss
        result = self._next_point(objective, loss, gradient)
        if result is None:
            self.stuck = (
                f"no step along the steepest descent lowers the loss in {self.max_trials} trials"
            )
            return loss
        y = self._gradient_change(objective, gradient, result)
        self._consider(result.step, y, -result.alpha * gradient)
        objective.move(result.step, result.loss, result.gradient)
        return loss

    def _next_point(
        self, objective: Objective, loss: Tensor, gradient: Tensor
    ) -> SearchResult | None:
        """The next point along -H g, or along -g after a failed search."""
        group = self.param_groups[0]
        if group["pairs"]:
            result = self.search(objective, loss, gradient, -self.apply(gradient), group["lr"])
            if result is not None:
                return result
            self.forget()
        first = group["lr"] * min(1.0, 1 / float(gradient.abs().sum()))
        return self.search(objective, loss, gradient, -gradient, first)

    @phased("line search")
    def search(
        self, objective: Objective, loss: Tensor, gradient: Tensor, direction: Tensor, first: float
    ) -> SearchResult | None:
        """A point along the direction that the line search accepts, or None."""
        start, slope = float(loss), float(gradient @ direction)
        if not slope < 0:
            return None
        if self.line_search == "none":
            return self._fixed(objective, first, direction)

        def evaluate(alpha: float) -> tuple[float, float, Tensor]:
            value, trial = objective.value_and_gradient(alpha * direction)
            return float(value), float(trial @ direction), trial

        if self.line_search == "armijo":
            return self._backtracked(objective, start, slope, direction, first)
        point = strong_wolfe(
            evaluate,
            start,
            slope,
            first=first,
            sufficient=SUFFICIENT,
            curvature=self.curvature,
            max_trials=self.max_trials,
        )
        if point is None:
            return None
        return SearchResult(
            point.alpha, point.alpha * direction, loss.new_tensor(point.value), point.gradient
        )

    def _backtracked(
        self, objective: Objective, start: float, slope: float, direction: Tensor, first: float
    ) -> SearchResult | None:
        """The first of halving steps with enough decrease; every trial has its gradient."""
        last: list[SearchResult] = []
        unit = abs(start) * torch.finfo(direction.dtype).eps

        def change(alpha: float) -> float:
            step = alpha * direction
            value, trial = objective.value_and_gradient(step)
            last[:] = [SearchResult(alpha, step, value, trial)]
            return visible_change(
                alpha, float(value) - start, slope, float(trial @ direction), unit
            )

        accepted = armijo(change, 0.0, slope, first=first, max_trials=self.max_trials)
        return None if accepted is None else last[0]

    def _fixed(self, objective: Objective, alpha: float, direction: Tensor) -> SearchResult | None:
        """The fixed step, or None where loss or gradient at its end is not finite."""
        step = alpha * direction
        value, trial = objective.value_and_gradient(step)
        finite = bool(torch.isfinite(value) & torch.isfinite(trial).all())
        return SearchResult(alpha, step, value, trial) if finite else None

    def _gradient_change(
        self, objective: Objective, gradient: Tensor, result: SearchResult
    ) -> Tensor:
        assert result.gradient is not None
        return result.gradient - gradient

    @phased("curvature")
    def _consider(self, s: Tensor, y: Tensor, bs: Tensor) -> None:
        """Learn from a pair, after damping, if it has enough curvature."""
        group = self.param_groups[0]
        along, modelled = float(s @ y), float(s @ bs)
        if group["pairs"]:
            if self.damping and along < self.damping * modelled:
                y = powell_damped(y, bs, along, modelled, self.damping)
                along = float(s @ y)
            least = self.skip * modelled
        else:  # B = I has no information on the scale
            least = torch.finfo(s.dtype).eps * float(s.norm() * y.norm())
        if least < along < float("inf"):
            self.learn(s, y)
            group["pairs"] += 1


def powell_damped(y: Tensor, bs: Tensor, along: float, modelled: float, share: float) -> Tensor:
    """The damped change t y + (1 - t) Bs, whose product with s is share * s.Bs.

    The pair has along = s.y < share * s.Bs and modelled = s.Bs. Nocedal and Wright, 2006, eq.
    18.15, with `share` in place of 0.2.
    """
    t = (1 - share) * modelled / (modelled - along)
    return t * y + (1 - t) * bs
