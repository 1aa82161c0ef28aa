"""How K-FAC makes a step of the preconditioned gradients, and how its damping changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.flat import flatten, unflatten
from optimizers.method import require_choice, require_range
from optimizers.natural_gradient.factored import Factored, first_of
from optimizers.objective import Objective
from optimizers.phases import phased

Group = dict[str, Any]
Changes = dict[Tensor, Tensor]  # of the parameters, by parameter

DAMPING_RULES = ("fixed", "decay", "adaptive")
STEP_RULES = ("lr", "exact")


# -- the damping -----------------------------------------------------------------------------------


class FixedDamping:
    """The damping does not change.

    Attributes:
        needs: what the rule asks of the objective.
        ratio: actual over predicted reduction of the loss when the damping was last adapted.
    """

    needs: frozenset[str] = frozenset()
    ratio: float = float("nan")

    def is_due(self, step: int) -> bool:
        """Whether step number `step`, counted from 0, is compared with the model's prediction."""
        return False

    def accepts(
        self,
        groups: Sequence[Group],
        objective: Objective,
        before: Tensor | None,
        step: Tensor,
        change: float,
    ) -> bool:
        """Whether a step whose comparison is due may be taken; the damping is adapted to it.

        Args:
            groups: the parameter groups that hold the damping.
            objective: the mini-batch.
            before: the loss at the parameters, None where it is not known.
            step: the flat step.
            change: the predicted change of the loss.
        """
        return True

    def after_step(self, groups: Sequence[Group]) -> None:
        """Change the damping after a step, whether it was taken or refused."""


class DecayingDamping(FixedDamping):
    """damping <- max(decay damping, smallest) in every step."""

    def __init__(self, decay: float, smallest: float) -> None:
        self.decay, self.smallest = decay, smallest

    def after_step(self, groups: Sequence[Group]) -> None:
        """Multiply the damping by `decay`."""
        for group in groups:
            group["damping"] = max(group["damping"] * self.decay, self.smallest)


class AdaptiveDamping(FixedDamping):
    """The Levenberg-Marquardt rule (Martens and Grosse, 2015, section 6.5).

    Every `period` steps the damping shrinks or grows by decay^period as the model predicted the
    change of the loss well or badly.
    """

    needs = frozenset({"ggn"})

    def __init__(self, decay: float, period: int, smallest: float) -> None:
        shrink = decay**period
        if not 1e-100 < shrink < 1:
            raise ValueError(
                "damping_rule=adaptive needs damping_decay below 1 and "
                f"damping_decay^damping_period not vanishing, got {decay} and {period}; take "
                "damping_decay=0.95 and damping_period=5"
            )
        self.period = period
        self.rule = RatioRule(1 / shrink, shrink, smallest=smallest)

    def is_due(self, step: int) -> bool:
        """Whether the step is the last one of a period."""
        return (step + 1) % self.period == 0

    @phased("line search")
    def accepts(
        self,
        groups: Sequence[Group],
        objective: Objective,
        before: Tensor | None,
        step: Tensor,
        change: float,
    ) -> bool:
        """Adapt the damping to the step's effect; False if the new loss is not finite."""
        first = float(objective.value() if before is None else before)
        after = float(objective.value(step))
        self.ratio = reduction_ratio(first, after, -change, torch.finfo(step.dtype).eps)
        for group in groups:
            group["damping"] = self.rule(group["damping"], self.ratio)
        return isfinite(after)


def damping_rule_of(name: str, decay: float, period: int, smallest: float) -> FixedDamping:
    """The damping rule of a name.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """
    require_choice("damping_rule", name, DAMPING_RULES)
    require_range("damping_decay", decay, high=1, open_low=True)
    require_range("damping_period", period, low=1, whole=True)
    require_range("min_damping", smallest)
    if name == "adaptive":
        return AdaptiveDamping(decay, period, smallest)
    return DecayingDamping(decay, smallest) if name == "decay" else FixedDamping()


# -- the step --------------------------------------------------------------------------------------


class StepRule(ABC):
    """How a step is made of the preconditioned gradients.

    Attributes:
        needs: what the rule asks of the objective.
        damping: the rule that compares a due step with its prediction.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, damping: FixedDamping) -> None:
        self.damping = damping

    def curvature(self, objective: Objective) -> Curvature | None:
        """The curvature that the rule takes the step's length from; None if it needs none."""
        return None

    @abstractmethod
    def changes(
        self,
        method: Factored,
        objective: Objective,
        directions: Changes,
        predicted: float,
        curvature: Curvature | None,
    ) -> Changes | None:
        """The changes of the parameters that have a direction; None refuses the step.

        Args:
            method: the optimizer, whose groups and state the step uses.
            objective: the mini-batch.
            directions: the preconditioned gradients U.
            predicted: sum lr^2 U.W' over them.
            curvature: the result of `curvature`.
        """


class LearningRateStep(StepRule):
    """theta -= lr b, b the heavy-ball momentum of the clipped direction."""

    def changes(
        self,
        method: Factored,
        objective: Objective,
        directions: Changes,
        predicted: float,
        curvature: Curvature | None,
    ) -> Changes | None:
        """-lr b; in a due step compared with the change that the exact Fisher matrix predicts."""
        if not self.damping.is_due(method.param_groups[0]["step"]):
            return method.heavy_ball(directions, predicted)
        buffers = {
            p: method.state[p]["momentum_buffer"].clone()
            for p in directions
            if "momentum_buffer" in method.state[p]
        }
        changes = method.heavy_ball(directions, predicted)
        if self._accepts(method, objective, changes):
            return changes
        for parameter in directions:  # a refused step leaves no momentum
            buffer = method.state[parameter]["momentum_buffer"]
            buffer.copy_(buffers.get(parameter, torch.zeros_like(buffer)))
        return None

    def _accepts(self, method: Factored, objective: Objective, changes: Changes) -> bool:
        curvature = objective.ggn()
        step = _flat(objective, changes)
        image = curvature(step) + objective.scale * method.param_groups[0]["damping"] * step
        change = float(curvature.gradient @ step + step @ image / 2)
        return self.damping.accepts(method.param_groups, objective, curvature.loss, step, change)


class QuadraticStep(StepRule):
    """theta += alpha U + mu d, d the last step (Martens and Grosse, 2015, section 7).

    alpha and mu minimise the quadratic model with the exact Fisher matrix of the first
    `curvature_share` of the mini-batch.
    """

    needs = frozenset({"ggn"})

    def __init__(self, damping: FixedDamping, curvature_share: float) -> None:
        super().__init__(damping)
        self.curvature_share = curvature_share

    def curvature(self, objective: Objective) -> Curvature | None:
        """The whole mini-batch's matrix, which brings loss and gradient; None for a part's."""
        return objective.ggn() if self.curvature_share == 1 else None

    def changes(
        self,
        method: Factored,
        objective: Objective,
        directions: Changes,
        predicted: float,
        curvature: Curvature | None,
    ) -> Changes | None:
        """The minimising alpha U + mu d, times the schedule's share; it is the next d."""
        group = method.param_groups[0]
        product, loss = self._model(objective, curvature, group["damping"])
        shares = _schedule(method, directions)
        chosen = {p: direction for p, direction in directions.items() if shares[p]}
        if not chosen:
            return {}
        choice = [_flat(objective, chosen), *_last_step(method, objective, chosen)]
        best = best_combination(product, objective.gradient(), choice)
        if best is None:
            return None
        coefficients, change = best
        parts = _combined(objective, coefficients, choice)
        changes = {p: shares[p] * parts[p] for p in chosen}
        # at the minimum q = b.x / 2 and x'Mx = -b.x, so that a share of the step has the change
        # (2 s - s^2) q
        share = _scheduled(group)
        change *= (2 - share) * share
        due = self.damping.is_due(group["step"])
        if due and not self.damping.accepts(
            method.param_groups, objective, loss, _flat(objective, changes), change
        ):
            return None
        for parameter, delta in changes.items():
            method.state[parameter]["last_step"] = delta
        return changes

    def _model(
        self, objective: Objective, curvature: Curvature | None, damping: float
    ) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
        """Products with the model's damped matrix, and the mini-batch's loss where it is known."""
        loss = None if curvature is None else curvature.loss
        part = objective
        if curvature is None:
            part = first_of(objective, self.curvature_share)
            curvature = part.ggn()
        matrix, weight = curvature, objective.scale / part.scale
        shift = objective.scale * damping
        shift -= (weight - 1) * objective.l2  # the regulariser is no sum over examples

        def product(vector: Tensor) -> Tensor:
            image: Tensor = weight * matrix(vector) + shift * vector
            return image

        return product, loss


def step_rule_of(
    name: str, damping: FixedDamping, curvature_share: float, momentum_of: str
) -> StepRule:
    """The step rule of a name.

    Raises:
        ValueError: an unknown name, a share out of its range, a momentum that the rule cannot have.
    """
    require_choice("step_rule", name, STEP_RULES)
    require_range("curvature_share", curvature_share, high=1, open_low=True)
    if name == "lr":
        return LearningRateStep(damping)
    if momentum_of == "gradient":
        raise ValueError("step_rule=exact has a momentum of its own; take momentum_of=direction")
    return QuadraticStep(damping, curvature_share)


def best_combination(
    product: Callable[[Tensor], Tensor], gradient: Tensor, directions: Sequence[Tensor]
) -> tuple[list[float], float] | None:
    """The coefficients x that minimise q(D x) = g'D x + x'D'C D x / 2, and q there (not positive).

    Martens and Grosse (2015), section 7: with the update and the last step as directions this
    replaces the learning rate and the momentum. One product with C a direction. The small system is
    solved by its pseudo-inverse in float64, so that parallel directions do no harm. None if a
    number in it is not finite.
    """
    images = [product(direction) for direction in directions]
    curved = torch.stack(
        [torch.stack([d @ image for image in images]) for d in directions]
    ).double()
    slope = torch.stack([d @ gradient for d in directions]).double()
    if not bool(torch.isfinite(curved).all() and torch.isfinite(slope).all()):
        return None
    curved = (curved + curved.T) / 2
    lengths = curved.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    scaled = curved / lengths / lengths[:, None]
    solution = -torch.linalg.pinv(scaled, rtol=1e-10, hermitian=True) @ (slope / lengths)
    return (solution / lengths).tolist(), float(solution @ (slope / lengths)) / 2


def _last_step(method: Factored, objective: Objective, chosen: Changes) -> list[Tensor]:
    """The last step of these parameters as one vector, if they have one."""
    last = {p: method.state[p]["last_step"] for p in chosen if "last_step" in method.state[p]}
    return [_flat(objective, last)] if last else []


def _combined(
    objective: Objective, coefficients: Sequence[float], choice: Sequence[Tensor]
) -> Changes:
    best = torch.stack(
        [c * direction for c, direction in zip(coefficients, choice, strict=True)]
    ).sum(0)
    return dict(zip(objective.params, unflatten(best, objective.params), strict=True))


def _schedule(method: Factored, directions: Changes) -> dict[Tensor, float]:
    """The share of the first learning rate, for every parameter that has a direction."""
    return {
        p: _scheduled(group)
        for group in method.param_groups
        for p in group["params"]
        if p in directions
    }


def _scheduled(group: Group) -> float:
    """The learning rate that a schedule has set, as a share of the first one."""
    share: float = group["lr"] / group["initial_lr"] if group["initial_lr"] else 0.0
    return share


def _flat(objective: Objective, parts: Mapping[Tensor, Tensor]) -> Tensor:
    """The parts as one vector in the objective's order, zero for all other parameters."""
    return flatten(parts.get(p, torch.zeros_like(p)) for p in objective.params)
