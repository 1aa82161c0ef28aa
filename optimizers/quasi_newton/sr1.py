"""The symmetric rank-one method in a trust region."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.linalg.line_search import visible_change
from optimizers.linalg.trust_region import RadiusRule, exact_subproblem
from optimizers.method import Method, require_dense, require_range
from optimizers.objective import Objective
from optimizers.phases import phase, phased
from optimizers.quasi_newton.dense import INSTEAD

ACCEPT = 1e-4
MISLED = -100.0


class SR1(Method):
    r"""Quasi-Newton in a trust region: B <- B + r r' / r.s with r = y - B s.

    s is the minimiser of g.s + s'Bs/2 in |s| <= D. B approximates the Hessian and may be
    indefinite: on a quadratic, n independent steps make it exact. The step is therefore the exact
    minimiser in the ball of radius D (`exact_subproblem`), from an eigen-decomposition of B.
    Refused trials update B too; an update with |r.s| <= `skip` |r||s| is skipped. A trial is
    accepted if it gives 1e-4 of the predicted reduction; D is halved below a tenth and doubled
    above three quarters, if the step was longer than 0.8 D (Nocedal and Wright, 2006, eq. 6.24 and
    6.26, algorithm 6.2). Both gradients of a pair belong to the mini-batch of their step. If no
    trial is accepted, B is reset once; `stuck` reports a second failure.

    Cost per step: one value and gradient and one eigen-decomposition (n^3) per trial. Memory: B in
    the state of the first parameter, key `hessian`, in the parameters' precision; three float64
    matrices beside it during a step.

    Differences from the algorithm: B is the identity until a step is accepted, and then begins as
    |y|^2 / |s.y| times the identity; a trial whose loss rises by more than a hundred times the
    predicted reduction does not update B (its curvature, 1e15 times too large on Osborne's first
    problem, would stay in B for ever); D is halved from the length of the step; changes hidden by
    rounding are taken from the slopes (`visible_change`).

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of the model's step; 1 is the method's own.
        radius: the first D, in units of the parameters.
        skip: the smallest |r.s| / |r||s| of an update.
        max_trials: the number of trials of a step.
        max_parameters: the largest n for which the dense matrix is stored.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: more than `max_parameters` parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        radius: float = 1.0,
        skip: float = 1e-8,
        max_trials: int = 25,
        max_parameters: int = 2000,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("radius", radius, open_low=True)
        require_range("skip", skip, high=1)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.radius = radius
        self.skip = skip
        self.max_trials = max_trials
        self.rule = RadiusRule(shrink=0.5, grow=2.0, low=0.1, high=0.75, largest=1e10)
        super().__init__(params, {"lr": lr, "radius": radius})
        require_dense(self, max_parameters, INSTEAD, self.parameters()[0].element_size())

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Try steps in the trust region until the loss falls; return the loss before the step."""
        group = self.whole(objective)
        self.stuck = ""
        loss, gradient = objective.value_and_gradient()
        if not bool(torch.isfinite(loss) & torch.isfinite(gradient).all()) or group["lr"] == 0:
            return loss
        if not bool(gradient.any()):
            self.stuck = "the gradient is zero"
            return loss
        if any(self._try(objective, loss, gradient) for _ in range(self.max_trials)):
            return loss
        if self._forget() and any(
            self._try(objective, loss, gradient) for _ in range(self.max_trials)
        ):
            return loss
        self.stuck = f"no step in the trust region lowers the loss in {self.max_trials} trials"
        return loss

    def _try(self, objective: Objective, loss: Tensor, gradient: Tensor) -> bool:
        """Try one step: minimise the model, update B, and move if the loss fell enough."""
        group = self.param_groups[0]
        model = exact_subproblem(*self._decomposition(gradient), gradient, group["radius"])
        step, (slope, predicted) = group["lr"] * model.step, model.scaled(group["lr"])
        with phase("line search"):
            value, trial = objective.value_and_gradient(step)
        if not bool(torch.isfinite(value) & torch.isfinite(trial).all()):
            group["radius"] = self.rule.shrink**2 * model.norm
            return False
        start = float(loss)
        unit = abs(start) * torch.finfo(gradient.dtype).eps
        change = visible_change(1.0, float(value) - start, slope, float(trial @ step), unit)
        ratio = change / predicted if predicted < 0 else 0.0
        self._follow(ratio, model.norm)
        if ratio > MISLED:
            self._learn(step, trial - gradient, new=ratio > ACCEPT)
        if ratio > ACCEPT:
            objective.move(step, value, trial)
        return ratio > ACCEPT

    def _follow(self, ratio: float, length: float) -> None:
        """Shrink the radius from the step's length, or grow it after a step near the boundary."""
        group = self.param_groups[0]
        near = length > 0.8 * group["radius"]
        group["radius"] = self.rule(
            group["radius"] if ratio >= self.rule.low else length, ratio, near
        )

    def _decomposition(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The eigenvalues and eigenvectors of B; those of the identity, for a new B, on failure."""
        state, size = self.state[self.parameters()[0]], len(gradient)
        decomposition = symmetric_eigen(state["hessian"]) if "hessian" in state else None
        if decomposition is not None:
            return decomposition
        state.pop("hessian", None)
        identity = torch.eye(size, dtype=torch.float64, device=gradient.device)
        return identity.diagonal().clone(), identity

    def _forget(self) -> bool:
        """Reset B to the identity and the radius to the first one; return whether B existed."""
        self.param_groups[0]["radius"] = self.radius
        return self.state[self.parameters()[0]].pop("hessian", None) is not None

    @phased("curvature")
    def _learn(self, s: Tensor, y: Tensor, new: bool) -> None:
        """Update B, or begin it with this pair if `new`."""
        state = self.state[self.parameters()[0]]
        if "hessian" not in state:
            along = float((s @ y).abs())
            blind = along <= torch.finfo(s.dtype).eps * float(s.norm() * y.norm())
            if blind or not new:
                return
            state["hessian"] = torch.diag((y @ y / along).expand(len(s)))
        sr1_update_(state["hessian"], s, y, self.skip)


def sr1_update_(hessian: Tensor, s: Tensor, y: Tensor, skip: float = 1e-8) -> bool:
    """Set B to B + r r' / r.s, r = y - B s, in place; return whether the update was not skipped.

    Nocedal and Wright, 2006, eq. 6.24.
    """
    residual = y - hessian @ s
    along = residual @ s
    bound = skip * residual.norm() * s.norm()
    if not bool(along.abs() > bound):  # also where B s = y already
        return False
    hessian.addr_(residual, residual / along)
    return True
