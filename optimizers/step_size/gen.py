"""GeN: the learning rate of any optimizer from a parabola through three losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import flatten
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased

Inner = Callable[..., torch.optim.Optimizer]
BATCHES = ("auto", "own", "fresh")
OWN = ("params", "param_names", "lr", "scale", "steps", "kept", "fits")


class GeN(Method):
    r"""A generalised Newton step size along an optimizer's own direction (Bu and Xu, 2024).

    arXiv 2407.02772. The inner optimizer steps by eta d. A mini-batch has the losses L0 at theta,
    L- at the step's end theta - eta d, and L+ on the other side, theta + eta d. The parabola
    through them has its minimum at

        eta* = (eta / 2) (L+ - L-) / (L+ - 2 L0 + L-)  =  (g.d) / (d.H d), to third order in eta

    eta <- smoothing eta + (1 - smoothing) min(max(eta*, eta / factor), factor eta), and the step
    becomes the new eta d. A parabola that does not open upwards, or whose minimum lies behind, does
    not change eta (`failures/parabola`); a loss that is not finite at theta - eta d divides eta by
    `factor`. One eta scales all groups' learning rates alike.

    The losses are those of a `fresh` mini-batch, or of the step's `own`. The own mini-batch rewards
    long steps, because d lowers its loss in particular: eta grows beyond the best value for the
    other mini-batches, for Muon and Adam without bound. `auto` is `own` where an epoch is one
    mini-batch or the objective cannot draw another one, else `fresh`.

    `lr` is a factor of the result, 1 unless a schedule changes it. The direction must not depend on
    the inner learning rate, as with torch's and most other optimizers; decoupled weight decay is
    part of the direction.

    Cost: the inner optimizer's, and every `period` steps two evaluations (`fresh`: three). State:
    the inner optimizer's.

    Differences from gen-optim 0.1.1: the inner optimizer takes one step whose end moves along the
    line (gen-optim steps twice on one gradient where eta is fitted, so momenta count it twice); any
    number of groups.

    Args:
        params: the parameters, or pairs of name and parameter.
        inner: the inner optimizer's constructor, `inner(params)`: a class, or a class with its
            hyperparameters (`functools.partial`).
        lr: the factor of the fitted learning rate.
        batch: `auto`, `own` or `fresh`.
        period: the steps from one parabola to the next.
        smoothing: the weight of the learning rate so far.
        factor: the largest change of the learning rate by one parabola.

    Raises:
        ValueError: a hyperparameter out of its range.
        TypeError: `inner` does not construct a torch optimizer.
        UnsupportedError: `fresh` with an objective that has no sampler.
    """

    def __init__(
        self,
        params: Iterable[Any],
        inner: Inner = torch.optim.AdamW,
        lr: float = 1.0,
        batch: str = "auto",
        period: int = 1,
        smoothing: float = 0.9,
        factor: float = 2.0,
    ) -> None:
        if not callable(inner):
            raise ValueError(
                "inner must make an optimizer, as partial(torch.optim.SGD, lr=0.1) does, got "
                f"{inner!r}"
            )
        require_range("lr", lr)
        require_choice("batch", batch, BATCHES)
        require_range("period", period, low=1, whole=True)
        require_range("smoothing", smoothing, high=0.9999)
        require_range("factor", factor, low=1.0001)
        self.batch = batch
        self.period = period
        self.smoothing = smoothing
        self.factor = factor
        super().__init__(params, {"lr": lr, "scale": 1.0, "steps": 0, "fits": 0, "kept": 0})
        self.inner = inner([self._inner_group(group) for group in self.param_groups])
        if not isinstance(self.inner, torch.optim.Optimizer):
            raise TypeError(
                f"inner must make a torch optimizer, it made a {type(self.inner).__name__}"
            )
        if any("lr" not in group for group in self.inner.param_groups):
            raise ValueError(
                f"inner must have a learning rate, lr; {type(self.inner).__name__} has none"
            )
        if len(self.inner.param_groups) != len(self.param_groups):
            raise ValueError(
                "inner must keep the parameter groups that it is given; "
                f"{type(self.inner).__name__} has other ones"
            )
        self.rates: list[float] = [float(group["lr"]) for group in self.inner.param_groups]
        self.state = self.inner.state
        self.needs = getattr(self.inner, "needs", frozenset())

    @staticmethod
    def _inner_group(group: dict[str, Any]) -> dict[str, Any]:
        """A group for the inner optimizer: parameters, names, and the inner hyperparameters."""
        named = (
            list(zip(group["param_names"], group["params"], strict=True))
            if "param_names" in group
            else None
        )
        return {
            "params": named or group["params"],
            **{k: v for k, v in group.items() if k not in OWN},
        }

    def expect(self, steps: int, steps_per_epoch: float) -> None:
        """Announce the length of the training to this method and to the inner one."""
        super().expect(steps, steps_per_epoch)
        if isinstance(self.inner, Method):
            self.inner.expect(steps, steps_per_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The method's own groups, and the inner optimizer's state and groups as `inner`."""
        own = super().state_dict()
        return {**own, "state": {}, "inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of both optimizers."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "inner"})
        self.inner.load_state_dict(state_dict["inner"])
        self.state = self.inner.state

    def telemetry(self) -> dict[str, float]:
        """`step_size`, the first group's rate, and `kept`, the share of unused parabolas."""
        group = self.param_groups[0]
        numbers = {
            "step_size": group["lr"] * group["scale"] * self.rates[0],
            "kept": group["kept"] / max(1, group["fits"]),
        }
        inner = self.inner.telemetry() if isinstance(self.inner, Method) else {}
        return {**inner, **super().telemetry(), **numbers}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Take the inner step, scaled by the parabola's minimum; return the loss before it."""
        memory = self.param_groups[0]
        for inner, group, rate in zip(
            self.inner.param_groups, self.param_groups, self.rates, strict=True
        ):
            inner["lr"] = rate * group["lr"] * memory["scale"]
        before = [parameter.detach().clone() for parameter in objective.params]
        loss, stepped = self._inner_step(objective)
        if not stepped:
            return loss
        memory["steps"] += 1
        if memory["steps"] % self.period == 1 % self.period:
            moved = [b - p for b, p in zip(before, objective.params, strict=True)]
            ratio = self._ratio(objective, float(loss), flatten(moved))
            memory["scale"] *= ratio
            if ratio != 1:
                torch._foreach_add_(list[Tensor](objective.params), moved, alpha=1 - ratio)
        return loss

    def _inner_step(self, objective: Objective) -> tuple[Tensor, bool]:
        """Take the inner optimizer's step: the loss before it, and whether it moved."""
        if not isinstance(self.inner, Method):
            loss = objective()
            if fine := self.finite(loss, objective):
                self.inner.step(_Evaluated(objective, loss))  # type: ignore[arg-type]
            return loss, fine
        loss = self.inner.step(objective)
        refused = self.inner.failures["non_finite"] > 0
        self.stuck = self.inner.stuck
        self.failures.update(self.inner.failures)
        self.inner.failures.clear()
        return loss, not refused

    def _parabola_objective(self, objective: Objective) -> Objective:
        """The objective of the mini-batch whose losses define the parabola."""
        single = self.horizon is not None and self.horizon.steps_per_epoch <= 1
        if self.batch == "own" or (self.batch == "auto" and single):
            return objective
        try:
            return objective.fresh()
        except UnsupportedError:
            if self.batch == "fresh":
                raise
            return objective

    @phased("line search")
    def _ratio(self, objective: Objective, here: float, back: Tensor) -> float:
        """The factor by which to lengthen the last step; `back` (n,) leads to its beginning."""
        memory = self.param_groups[0]
        if not bool(back.any()):
            return 1.0
        memory["fits"] += 1
        batch = self._parabola_objective(objective)
        here = here if batch is objective else float(batch.value(back))
        ahead, behind = float(batch.value()), float(batch.value(2 * back))
        if not isfinite(ahead):
            self.failures["parabola"] += 1
            return 1 / self.factor
        minimum = vertex(here, ahead, behind, torch.finfo(back.dtype).eps)
        if minimum is None:
            self.failures["parabola"] += 1
            memory["kept"] += 1
            return 1.0
        return self.smoothing + (1 - self.smoothing) * min(
            max(minimum, 1 / self.factor), self.factor
        )


def vertex(here: float, ahead: float, behind: float, eps: float) -> float | None:
    """The minimum of the parabola through the losses at 0, 1 and -1.

    None if no minimum lies ahead, or if the bend is within the losses' rounding `eps`.
    """
    fall, bend = behind - ahead, behind - 2 * here + ahead
    if not (isfinite(bend) and fall > 0 and bend > 10 * eps * abs(here)):
        return None
    return fall / (2 * bend)


class _Evaluated:
    """An evaluated objective as a closure, whose first call returns the known loss."""

    def __init__(self, objective: Objective, loss: Tensor) -> None:
        self.objective = objective
        self.loss: Tensor | None = loss

    def __call__(self) -> Tensor:
        loss, self.loss = self.loss, None
        return self.objective() if loss is None else loss
