"""The line search along a direction, shared by the Newton methods."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from optimizers.linalg.line_search import strong_wolfe
from optimizers.objective import Objective
from optimizers.phases import phased

SEARCHES = ("armijo", "strong_wolfe", "none")
SUFFICIENT = 1e-4  # c1 of Nocedal and Wright, section 3.1
APPROXIMATE = 0.8  # 1 - 2 delta of Hager and Zhang, delta = 0.1
ROUNDING = 100  # units in which two losses may differ by rounding alone
UNRESOLVED = 3  # trials decided by rounding, after which shorter steps bring no information


@dataclass(frozen=True)
class Accepted:
    """An accepted step length, its loss and, after a Wolfe search, its gradient."""

    alpha: float
    loss: Tensor
    gradient: Tensor | None


@phased("line search")
def descend(
    objective: Objective,
    loss: Tensor,
    gradient: Tensor,
    direction: Tensor,
    search: str,
    first: float,
    max_trials: int,
) -> str:
    """Move the parameters along `direction`; return the reason of a failure, or nothing.

    `armijo` halves the step from `first` until the loss has fallen by 1e-4 of the slope's
    prediction. `strong_wolfe` also requires a flatter slope, and passes its gradient on to the
    objective. `none` takes the step `first`.

    Cost: one evaluation a trial, with a gradient for `strong_wolfe` and where rounding decides.
    """
    if first == 0:
        return ""
    if not bool(torch.isfinite(direction).all()):
        return "the Newton direction is not finite"
    if search == "none":
        objective.move(first * direction)
        return ""
    slope = float(gradient @ direction)
    if not slope < 0:
        return "the Newton direction is no descent direction, its slope is lost in rounding"
    find = _wolfe if search == "strong_wolfe" else _backtrack
    accepted = find(objective, float(loss), slope, gradient, direction, first, max_trials)
    if accepted is None:
        return "no step along the Newton direction lowers the loss"
    objective.move(accepted.alpha * direction, accepted.loss, accepted.gradient)
    return ""


def _backtrack(
    objective: Objective,
    start: float,
    slope: float,
    gradient: Tensor,
    direction: Tensor,
    first: float,
    max_trials: int,
) -> Accepted | None:
    """Backtrack by the loss (Nocedal and Wright, Algorithm 3.1), or by the gradient."""
    alpha, unresolved = first, 0
    resolution = ROUNDING * torch.finfo(direction.dtype).eps * abs(start)
    for _ in range(max_trials):
        trial = objective.value(alpha * direction)
        value = float(trial)
        if isfinite(value) and value <= start + SUFFICIENT * alpha * slope and value < start:
            return Accepted(alpha, trial, None)
        if abs(value - start) <= resolution:
            accepted = _approximately(objective, slope, gradient, direction, alpha)
            unresolved += 1
            if accepted is not None or unresolved == UNRESOLVED:
                return accepted
        alpha /= 2
    return None


def _approximately(
    objective: Objective, slope: float, gradient: Tensor, direction: Tensor, alpha: float
) -> Accepted | None:
    """The step if its gradient, more accurate than the loss's change, confirms a descent.

    The test is the first half of the approximate Wolfe conditions (Hager and Zhang, 2005, eq. 4.1),
    (2 delta - 1) slope >= the slope at the trial, which is Armijo's condition for a quadratic. The
    gradient has to become shorter, too.
    """
    loss, trial = objective.value_and_gradient(alpha * direction)
    flatter = float(trial @ direction) <= -APPROXIMATE * slope
    shorter = flatter and bool(trial.norm() < gradient.norm())
    return Accepted(alpha, loss, trial) if shorter else None


def _wolfe(
    objective: Objective,
    start: float,
    slope: float,
    gradient: Tensor,
    direction: Tensor,
    first: float,
    max_trials: int,
) -> Accepted | None:
    def evaluate(alpha: float) -> tuple[float, float, Tensor]:
        loss, trial = objective.value_and_gradient(alpha * direction)
        return float(loss), float(trial @ direction), trial

    point = strong_wolfe(
        evaluate, start, slope, first=first, sufficient=SUFFICIENT, max_trials=max_trials
    )
    return (
        None
        if point is None
        else Accepted(point.alpha, gradient.new_tensor(point.value), point.gradient)
    )
