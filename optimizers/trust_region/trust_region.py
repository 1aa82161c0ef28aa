"""The trust-region method with the exact Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.linalg.secular import ModelStep
from optimizers.linalg.steihaug import crossings, steihaug
from optimizers.linalg.trust_region import RadiusRule, exact_subproblem
from optimizers.method import Method, require_choice, require_dense, require_range
from optimizers.objective import Objective
from optimizers.phases import phase
from optimizers.trust_region.trials import (
    CURVATURES,
    agreement,
    expansion,
    finite,
    trial_numbers,
    vanishes,
)

SUBPROBLEMS = ("auto", "exact", "steihaug")
Solver = Callable[[float], ModelStep]


class TrustRegion(Method):
    r"""A Newton step within the model's region of trust: minimise g.s + s'Bs/2, |s| <= radius.

    The step is accepted if rho = (f(x) - f(x + s)) / (m(0) - m(s)) exceeds `accept`; a poor rho
    divides the radius by four, a good one on the boundary doubles it (Nocedal and Wright, 2006,
    Algorithm 4.1 with the constants of scipy.optimize). B is the Hessian, negative curvature
    included, or the generalised Gauss-Newton matrix.

    `subproblem="exact"` computes the global minimiser from the eigen-decomposition of B (More and
    Sorensen, 1983), hard case included: it leaves a saddle even where the gradient is exactly zero.
    `steihaug` follows conjugate gradients to the boundary (Nocedal and Wright, Algorithm 7.2) with
    the relative tolerance min(`tolerance`, |g|^(1/2)), g that of the unscaled loss. A trial after a
    refused step uses the same decomposition or CG path: it costs one evaluation and no product.

    Differences from scipy's trust-exact and trust-ncg: a step that is the same for the smaller
    radius is not evaluated again; a reduction hidden by rounding counts as agreement, so that the
    gradient can fall to rounding; trust-exact solves the subproblem approximately.

    Cost per step: one gradient, one evaluation a trial, n products and an eigen-decomposition
    (exact) or one product a CG iteration (steihaug). Memory: 24 n^2 bytes (exact); 5 n floats and 2
    n for each segment of the path with one of the smaller radii, usually two or three (steihaug).

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of the model's step; 1 is the method's own.
        subproblem: `exact`, `steihaug`, or `auto`: exact up to `dense_limit` parameters.
        curvature: `hessian` or `ggn`.
        radius: the first radius, in units of the parameters.
        max_radius: the largest radius; the radius grows only after a step of its length, and stays
            near the steps' length.
        accept: the smallest rho of an accepted step, below 1/4.
        tolerance: CG's largest relative tolerance.
        max_iterations: the largest number of CG iterations.
        max_trials: the number of radii tried in a step.
        dense_limit: the largest n for which `auto` means exact.
        max_parameters: the largest n for which the dense matrix is built.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: `subproblem="exact"` with more than `max_parameters` parameters.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        subproblem: str = "auto",
        curvature: str = "hessian",
        radius: float = 1.0,
        max_radius: float = 1e10,
        accept: float = 0.15,
        tolerance: float = 0.5,
        max_iterations: int = 250,
        max_trials: int = 30,
        dense_limit: int = 300,
        max_parameters: int = 5000,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_choice("subproblem", subproblem, SUBPROBLEMS)
        require_choice("curvature", curvature, CURVATURES)
        require_range("max_radius", max_radius, open_low=True)
        require_range("radius", radius, high=max_radius, open_low=True)
        require_range("accept", accept, high=0.2499)
        require_range("tolerance", tolerance, high=1)
        require_range("max_iterations", max_iterations, low=1, whole=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("dense_limit", dense_limit, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.needs = frozenset({curvature})
        self.curvature = curvature
        self.first_radius = radius
        self.accept = accept
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.max_trials = max_trials
        self.rule = RadiusRule(largest=max_radius)
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "radius": radius})
        size = sum(p.numel() for p in self.parameters())
        self.exact = subproblem == "exact" or (subproblem == "auto" and size <= dense_limit)
        if self.exact:
            require_dense(self, max_parameters, "subproblem=steihaug and tron need no such matrix")

    def telemetry(self) -> dict[str, float]:
        """`radius`, and `reduction_ratio` and `trials` of the last step.

        A refused step counts as a failure.
        """
        return {
            **super().telemetry(),
            "radius": float(self.param_groups[0]["radius"]),
            **self.diagnostics,
        }

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Shrink the radius until the loss agrees with the model, then move; return the loss."""
        group = self.whole(objective)
        model = expansion(objective, self.curvature)
        self.stuck, self.diagnostics = "", {}
        if group["lr"] == 0 or not finite(model):
            self.failures["non_finite"] += not finite(model)
            return model.loss
        solver = self._decomposed(model) if self.exact else self._path(model, group["radius"])
        if solver is not None:
            self._search(objective, float(model.loss), solver)
        return model.loss

    def _search(self, objective: Objective, before: float, solver: Solver) -> None:
        """Shrink the radius until the loss agrees with the model, and move."""
        group = self.param_groups[0]
        for trial in range(self.max_trials):
            model_step = solver(group["radius"])
            if model_step.norm == 0:
                self.stuck = "the gradient is zero and no direction of negative curvature is known"
                return
            if vanishes(model_step.step, objective.params):
                self.stuck = (
                    "no step that changes a parameter lowers the loss as its model predicts"
                )
                group["radius"] = self.first_radius
                self.failures["refused"] += 1
                return
            step = model_step.step if group["lr"] == 1 else group["lr"] * model_step.step
            change = model_step.scaled(group["lr"])[1]
            with phase("line search"):
                ratio = agreement(before, float(objective.value(step)), change, step)
            self.diagnostics |= trial_numbers(trial, ratio)
            group["radius"] = self.rule(group["radius"], ratio, model_step.boundary)
            if ratio > self.accept:
                objective.move(step)
                return
            while group["radius"] >= model_step.norm:  # the same step would be tried again
                group["radius"] *= self.rule.shrink
        self.failures["refused"] += 1

    def _decomposed(self, model: Curvature) -> Solver | None:
        decomposition = symmetric_eigen(model.dense())
        if decomposition is None:
            self.stuck = "the curvature matrix is not finite"
            self.failures["eigen"] += 1
            return None
        values, vectors = decomposition
        return lambda radius: exact_subproblem(values, vectors, model.gradient, radius)

    def _path(self, model: Curvature, radius: float) -> Solver:
        length = float(model.gradient.norm())
        smaller = [radius * self.rule.shrink**power for power in range(1, self.max_trials)]
        tolerance = min(self.tolerance, length**0.5) * length
        return steihaug(
            model,
            model.gradient,
            radius,
            tolerance=tolerance,
            max_iterations=self.max_iterations,
            keep=crossings(smaller),
        ).at
