"""The Levenberg-Marquardt method for nonlinear least squares."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from optimizers.least_squares.residual_method import Linearisation, ResidualMethod
from optimizers.least_squares.rules import (
    SCALINGS,
    DampingRule,
    MarquardtRule,
    NielsenRule,
    floored,
)
from optimizers.linalg.flat import flatten
from optimizers.linalg.least_squares import FORMS, DampedLeastSquares
from optimizers.method import require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased

RULES = ("nielsen", "marquardt")
PROBE = 0.1  # the share of the step at which the residuals' curvature along it is measured
# the largest damping over the largest diagonal entry of D^-1 J'J D^-1
LARGEST = 1 / torch.finfo(torch.float64).eps
SMALLEST = 1e-250  # the smallest damping: no factor raises zero


class LevenbergMarquardt(ResidualMethod):
    r"""Damped Gauss-Newton: (J'J + mu D^2) d = -J'r, theta += d if the loss |r|^2 / 2 falls.

    The damping mu shortens the step and turns it from Gauss-Newton's (mu = 0) to the scaled
    steepest descent -D^{-2} J'r / mu. It follows the gain ratio of actual to predicted reduction,

        rho = (|r(theta)|^2 - |r(theta + d)|^2) / (|J d|^2 + 2 mu |D d|^2),

    both parts computed without cancellation: by `nielsen` or by `marquardt`, see `rules`. A refused
    step is tried again with more damping; all trials share J and its decomposition. D is the
    identity (Levenberg), the norms of J's columns (`diagonal`, Marquardt) or their largest values
    so far (`running_maximum`, Moré), the last two invariant to the units of the parameters. mu
    begins at `tau` times the largest diagonal entry of D^{-1} J'J D^{-1}. It begins higher where
    the first step would be longer than `first_step` |D theta|, theta being the start: without that
    bound a start whose linear model points at a far plateau fails (NIST's BoxBOD).

    `acceleration` adds half the geodesic acceleration, (J'J + mu D^2) a = -J' r_vv, to v = d, with
    the second derivative of r along v from one more evaluation, r_vv = (2/h) [(r(theta + h v) -
    r(theta)) / h - J v] at h = 0.1; a step with 2 |D a| > `max_acceleration` |D v| is refused
    (Transtrum and Sethna, 2012, arXiv 1201.5885, section 4). It halves the steps along narrow
    curved valleys, and costs half as much again elsewhere.

    One singular value decomposition a Jacobian gives d for every mu, with the accuracy of a QR
    decomposition of [J; mu^{1/2} D]. Where the shorter side of J is over 300, the eigenvectors of
    J'J or, for m < n, of the kernel J D^{-2} J' replace it as long as they are accurate enough, see
    `DampedLeastSquares`. All computations are in float64; float32 residuals limit the smallest
    gradient that can be resolved, and `stuck` says so.

    On mini-batches a step is accepted or refused on its own batch. The damping then follows noise
    too, and `rule="marquardt"` with mild factors is more stable.

    Cost per step: one Jacobian (min(m, n) backward passes), one decomposition (m n min(m, n) flops
    times a small factor), one evaluation per trial, two with `acceleration`. Memory: four times the
    Jacobian's 8 m n bytes, twice by a Gram matrix, and five times 8 min(m, n)^2; state n floats for
    `running_maximum`.

    Levenberg, 1944; Marquardt, 1963; Moré, "The Levenberg-Marquardt algorithm: implementation and
    theory", 1978; Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems",
    2004, Algorithm 3.16. Differences from the last: the scaling, the bound on the first step, and
    no stopping rules; instead `stuck` reports when rounding hides a further reduction and the
    predicted reduction no longer shrinks. Differences from Moré (MINPACK): the rules control mu
    itself, not the radius of a trust region, and D has a floor, see `rules.floored`.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of the step; 1 is the method's own.
        rule: how the damping changes, `nielsen` or `marquardt`.
        scaling: `identity`, `diagonal` or `running_maximum`.
        tau: the first damping over the largest diagonal entry; 1e-6 near a solution, 1 far from
            one.
        first_step: the longest first step over |D theta|; None for no bound.
        increase, decrease: the factors of the `marquardt` rule.
        acceleration: add the geodesic acceleration.
        max_acceleration: the longest acceleration, see above.
        form: how the linear problem is solved, see `DampedLeastSquares`.
        max_trials: the number of dampings tried in one step; after that the step is refused, and
            the next step begins with the last damping.
        max_gib: the largest Jacobian, in GiB of float64.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the loss is no squared error, or the Jacobian is larger than `max_gib`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rule: str = "nielsen",
        scaling: str = "running_maximum",
        tau: float = 1e-3,
        first_step: float | None = 1.0,
        increase: float = 10.0,
        decrease: float = 0.1,
        acceleration: bool = False,
        max_acceleration: float = 0.75,
        form: str = "auto",
        max_trials: int = 15,
        max_gib: float = 2.0,
    ) -> None:
        for name, value in {
            "lr": lr,
            "tau": tau,
            "max_acceleration": max_acceleration,
            "max_gib": max_gib,
        }.items():
            require_range(name, value, open_low=True)
        require_choice("rule", rule, RULES)
        require_choice("scaling", scaling, SCALINGS)
        require_choice("form", form, FORMS)
        if first_step is not None:
            require_range("first_step", first_step, open_low=True)
        require_range("increase", increase, low=1, open_low=True)
        require_range("decrease", decrease, high=1, open_low=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        self.rule: DampingRule = (
            NielsenRule() if rule == "nielsen" else MarquardtRule(increase, decrease)
        )
        self.scaling = scaling
        self.tau = tau
        self.first_step = first_step
        self.acceleration = acceleration
        self.max_acceleration = max_acceleration
        self.form = form
        self.max_trials = max_trials
        self.max_gib = max_gib
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "damping": None, "growth": 2.0, **self.started})

    def telemetry(self) -> dict[str, float]:
        """`trials`, the number of dampings in the last step, beside the common numbers.

        A refused step counts as a failure.
        """
        damping = self.param_groups[0]["damping"]
        known = {} if damping is None else {"damping": float(damping)}
        return {**super().telemetry(), **known, **self.diagnostics}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Try dampings until the loss falls; return the loss before the step."""
        group = self.whole(objective)
        self._require_memory(group, objective)
        self.diagnostics = {}
        model = Linearisation.of(objective)
        if not model.finite:
            self.failures["non_finite"] += 1
            return model.loss
        system = self._system(objective, model)
        group["damping"] = group["damping"] or self._first_damping(objective, model, system)
        for trial in range(self.max_trials):
            self.diagnostics["trials"] = trial + 1.0
            if self._try(objective, model, system):
                return model.loss
            if self.stuck:
                break
        self.failures["refused"] += 1
        return model.loss

    def _system(self, objective: Objective, model: Linearisation) -> DampedLeastSquares:
        """The linear problem in the scaled parameters.

        The stored scales are those of the canonical loss, which no mini-batch's size changes.
        """
        root = objective.scale**0.5
        norms = torch.linalg.vector_norm(model.jacobian, dim=0, dtype=torch.float64) / root
        scales = SCALINGS[self.scaling](norms, self.stored("scales"))
        if self.scaling == "running_maximum":
            self.keep("scales", scales.to(model.jacobian.dtype))
        scales = floored(scales, flatten(objective.params).double(), model.resolution)
        return DampedLeastSquares(model.jacobian, root * scales, self.form)

    def _first_damping(
        self, objective: Objective, model: Linearisation, system: DampedLeastSquares
    ) -> float:
        damping = self.tau * system.largest
        longest = (self.first_step or 0.0) * system.length(flatten(objective.params).double())
        while longest and damping < LARGEST * system.largest:
            step = system.solve(damping, model.residuals)
            if step is None or system.length(step) <= longest:
                break
            damping *= 2
        return damping

    def _try(self, objective: Objective, model: Linearisation, system: DampedLeastSquares) -> bool:
        """Try the step with the present damping and adapt the damping; return whether it moved."""
        group = self.param_groups[0]
        velocity = system.solve(group["damping"], model.residuals)
        if velocity is None:
            self.stuck = "the decomposition of the Jacobian failed"
            return False
        curvature = model.curvature(velocity)
        penalty = group["damping"] * system.length(velocity) ** 2
        self.stuck = self._exhausted(group, model, curvature / 2 + penalty)
        if self.stuck:
            return False
        lr = group["lr"]
        step = self._accelerated(objective, model, system, lr * velocity)
        ratio = self._gain(objective, model, step, lr * (1 - lr / 2) * curvature + lr * penalty)
        if isfinite(ratio):
            self.diagnostics["reduction_ratio"] = ratio
        if step is None or not ratio > 0:
            self._refuse(objective, model, system, lr * velocity)
            return False
        damping, group["growth"] = self.rule.accepted(group["damping"], ratio)
        group["damping"] = max(damping, SMALLEST)
        objective.move(step)
        return True

    @phased("line search")
    def _accelerated(
        self,
        objective: Objective,
        model: Linearisation,
        system: DampedLeastSquares,
        velocity: Tensor,
    ) -> Tensor | None:
        """The accelerated step in the parameters' precision, or None if it is too long."""
        precision = model.jacobian.dtype
        if not self.acceleration:
            return velocity.to(precision)
        probe = objective.residuals((PROBE * velocity).to(precision)).double()
        bend = 2 / PROBE * ((probe - model.residuals) / PROBE - model.jacobian.double() @ velocity)
        added = (
            system.solve(self.param_groups[0]["damping"], bend)
            if bool(torch.isfinite(bend).all())
            else None
        )
        if added is None or not 2 * system.length(added) <= self.max_acceleration * system.length(
            velocity
        ):
            return None
        return (velocity + added / 2).to(precision)

    @staticmethod
    @phased("line search")
    def _gain(
        objective: Objective, model: Linearisation, step: Tensor | None, predicted: float
    ) -> float:
        if step is None:
            return nan
        actual = model.reduction(objective.residuals(step))
        return model.gain_ratio(actual, predicted) if isfinite(actual) else nan

    def _refuse(
        self, objective: Objective, model: Linearisation, system: DampedLeastSquares, step: Tensor
    ) -> None:
        """Raise the damping, and report when no damping can help."""
        group = self.param_groups[0]
        largest = LARGEST * system.largest
        if group["hidden"] < float("inf") or self._negligible(
            objective, step.to(model.jacobian.dtype)
        ):
            self.stuck = self._unresolved(model)
        elif group["damping"] >= largest:
            self.stuck = "no damping gives a step that lowers the loss"
        damping, group["growth"] = self.rule.refused(group["damping"], group["growth"])
        group["damping"] = min(damping, largest)
