"""The step along a direction that the Newton methods with a line search share."""

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
UNRESOLVED = 3  # trials that round-off decides, after which a shorter step would tell no more


@dataclass(frozen=True)
class Accepted:
    """A step length, the loss there and, where the search has it, the gradient."""

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
    """Move the parameters along `direction`, the last thing a step does.

    Why it could not, or nothing where it did.

    `armijo` halves the step from `first` until the loss has fallen by 1e-4 of what the slope
    promises; `strong_wolfe` also asks for a flatter slope, and tells the objective the gradient it
    has found; `none` takes `first` as it is.

    Cost: one evaluation a trial, with a gradient for `strong_wolfe` and where round-off decides.
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
        return "the Newton direction does not lead downhill, its slope is lost in round-off"
    find = _wolfe if search == "strong_wolfe" else _backtrack
    found = find(objective, float(loss), slope, gradient, direction, first, max_trials)
    if found is None:
        return "no step along the Newton direction lowers the loss"
    objective.move(found.alpha * direction, found.loss, found.gradient)
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
    """Nocedal and Wright, Algorithm 3.1, where the loss can be told apart from `start`.

    Else the gradient decides.
    """
    alpha, unresolved = first, 0
    resolution = ROUNDING * torch.finfo(direction.dtype).eps * abs(start)
    for _ in range(max_trials):
        trial = objective.value(alpha * direction)
        value = float(trial)
        if isfinite(value) and value <= start + SUFFICIENT * alpha * slope and value < start:
            return Accepted(alpha, trial, None)
        if abs(value - start) <= resolution:
            found = _approximately(objective, slope, gradient, direction, alpha)
            unresolved += 1
            if found is not None or unresolved == UNRESOLVED:
                return found
        alpha /= 2
    return None


def _approximately(
    objective: Objective, slope: float, gradient: Tensor, direction: Tensor, alpha: float
) -> Accepted | None:
    """The step if by its gradient, which is more accurate than the loss's change, it goes in the right direction.

    The first half of the approximate Wolfe conditions (Hager and Zhang, 2005, eq. 4.1), (2 delta -
    1) slope >= the slope at the trial, which is Armijo's condition for a quadratic; and the
    gradient is to become shorter.
    """
    loss, there = objective.value_and_gradient(alpha * direction)
    downhill = float(there @ direction) <= -APPROXIMATE * slope
    return (
        Accepted(alpha, loss, there) if downhill and bool(there.norm() < gradient.norm()) else None
    )


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
        loss, there = objective.value_and_gradient(alpha * direction)
        return float(loss), float(there @ direction), there

    point = strong_wolfe(
        evaluate, start, slope, first=first, sufficient=SUFFICIENT, max_trials=max_trials
    )
    return (
        None
        if point is None
        else Accepted(point.alpha, gradient.new_tensor(point.value), point.gradient)
    )
