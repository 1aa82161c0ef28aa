"""Adaptive cubic regularisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.cubic import cubic_change, cubic_process, cubic_subproblem, krylov_cubic
from optimizers.linalg.curvature import Product
from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.linalg.secular import ModelStep
from optimizers.method import Method, require_choice, require_dense, require_range
from optimizers.objective import Objective
from optimizers.phases import phase
from optimizers.trust_region.trials import CURVATURES, agreement, expansion, trial_numbers, vanishes

SUBPROBLEMS = ("auto", "exact", "lanczos")
SMALLEST, LARGEST = 1e-16, 1e20
Solver = Callable[[float], ModelStep]
Values = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class View:
    """The loss, gradient, curvature and trial values that a step uses, exact or estimated.

    `scale` is the objective's factor between the loss and the canonical one.
    """

    loss: Tensor
    scale: float
    gradient: Tensor
    product: Product
    dense: Callable[[], Tensor]
    value: Values

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite."""
        return bool(torch.isfinite(self.loss + self.gradient.norm()))


class ARC(Method):
    r"""Newton steps with a cubic penalty: minimise g.s + s'Bs/2 + sigma/3 |s|^3.

    sigma estimates the Lipschitz constant of the Hessian and adapts. With rho = (f(x) - f(x + s)) /
    (m(0) - m(s)), m the cubic model, the step is accepted if rho >= `accept`, sigma shrinks by
    `decrease` if rho >= `good` and grows by `increase` if the step is refused (Cartis, Gould and
    Toint, 2011, "Adaptive cubic regularisation methods for unconstrained optimization. Part I",
    Algorithm 2.1; Part II for the complexity). B may be indefinite.

    `subproblem="exact"` computes the global minimiser from the eigen-decomposition of B, hard case
    included. It leaves a saddle even where the gradient is exactly zero. `lanczos` minimises in the
    Krylov space of (B, g), enlarged until |grad m| <= min(`tolerance`, |s| / max(1, sigma)) |g|. A
    trial after a refused step uses the same decomposition or Krylov space: it costs one evaluation
    and no product.

    Differences from the paper: a reduction hidden by rounding counts as agreement; after a refusal
    the Krylov space is not enlarged (a larger sigma needs a smaller one).

    Cost per step: one gradient, one evaluation a trial, n products and an eigen-decomposition
    (exact) or one product an iteration (lanczos). Memory: 24 n^2 bytes (exact); `max_iterations` n
    floats (lanczos).

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of the model's step; 1 is the method's own.
        subproblem: `exact`, `lanczos`, or `auto`: exact up to `dense_limit` parameters.
        curvature: `hessian` or `ggn`.
        sigma: the first weight of the cube, for a loss that is summed over outputs and averaged
            over examples.
        accept: the smallest rho of an accepted step.
        good: the smallest rho at which sigma shrinks.
        increase: the factor of sigma after a refused step.
        decrease: the divisor of sigma after a good step.
        tolerance: the tolerance of the model's gradient, relative to the loss's.
        max_iterations: the largest dimension of the Krylov space.
        max_trials: the number of sigmas tried in a step.
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
        sigma: float = 1.0,
        accept: float = 0.1,
        good: float = 0.9,
        increase: float = 2.0,
        decrease: float = 2.0,
        tolerance: float = 0.1,
        max_iterations: int = 100,
        max_trials: int = 40,
        dense_limit: int = 300,
        max_parameters: int = 5000,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_choice("subproblem", subproblem, SUBPROBLEMS)
        require_choice("curvature", curvature, CURVATURES)
        require_range("sigma", sigma, low=SMALLEST, high=LARGEST)
        require_range("accept", accept, high=1)
        require_range("good", good, low=accept)
        require_range("increase", increase, low=1, open_low=True)
        require_range("decrease", decrease, low=1)
        require_range("tolerance", tolerance, high=1)
        require_range("max_iterations", max_iterations, low=1, whole=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("dense_limit", dense_limit, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.needs = frozenset({curvature})
        self.curvature = curvature
        self.first_sigma = sigma
        self.accept = accept
        self.good = good
        self.increase = increase
        self.decrease = decrease
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.max_trials = max_trials
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "sigma": sigma})
        size = sum(p.numel() for p in self.parameters())
        self.exact = subproblem == "exact" or (subproblem == "auto" and size <= dense_limit)
        if self.exact:
            require_dense(self, max_parameters, "subproblem=lanczos needs no such matrix")

    def telemetry(self) -> dict[str, float]:
        """`sigma` (the cube's weight), and `reduction_ratio` and `trials` of the last step.

        A refused step counts as a failure.
        """
        return {
            **super().telemetry(),
            "sigma": float(self.param_groups[0]["sigma"]),
            **self.diagnostics,
        }

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Raise sigma until the loss agrees with the cubic model, then move; return the loss."""
        group = self.whole(objective)
        view = self._view(objective)
        self.stuck, self.diagnostics = "", {}
        if group["lr"] == 0 or not view.finite:
            self.failures["non_finite"] += not view.finite
            return view.loss
        solver = (
            self._decomposed(view)
            if self.exact
            else self._krylov(view, group["sigma"] * view.scale)
        )
        if solver is not None:
            self._search(objective, view, solver)
        return view.loss

    def _view(self, objective: Objective) -> View:
        model = expansion(objective, self.curvature)
        return View(
            model.loss, objective.scale, model.gradient, model, model.dense, objective.value
        )

    def _search(self, objective: Objective, view: View, solver: Solver) -> int:
        """Raise sigma until the loss agrees with the model, and move; return the refused trials."""
        group, before = self.param_groups[0], float(view.loss)
        for refused in range(self.max_trials):
            sigma = group["sigma"] * view.scale
            model = solver(sigma)
            if model.norm == 0:
                self.stuck = "the gradient is zero and no direction of negative curvature is known"
                return refused
            if vanishes(model.step, objective.params):
                self.stuck = (
                    "no step that changes a parameter lowers the loss as its model predicts"
                )
                group["sigma"] = self.first_sigma
                self.failures["refused"] += 1
                return refused
            step = model.step if group["lr"] == 1 else group["lr"] * model.step
            change = cubic_change(model, sigma, group["lr"])
            with phase("line search"):
                ratio = agreement(before, float(view.value(step)), change, step)
            self.diagnostics |= trial_numbers(refused, ratio)
            group["sigma"] = self._adapted(group["sigma"], ratio)
            if ratio >= self.accept:
                self._accepted(objective, step)
                return refused
        self.failures["refused"] += 1
        return self.max_trials

    def _adapted(self, sigma: float, ratio: float) -> float:
        if not ratio >= self.accept:
            return min(sigma * self.increase, LARGEST)
        return max(sigma / self.decrease, SMALLEST) if ratio >= self.good else sigma

    def _accepted(self, objective: Objective, step: Tensor) -> None:
        objective.move(step)

    def _decomposed(self, view: View) -> Solver | None:
        decomposition = symmetric_eigen(view.dense())
        if decomposition is None:
            self.stuck = "the curvature matrix is not finite"
            self.failures["eigen"] += 1
            return None
        values, vectors = decomposition
        return lambda sigma: cubic_subproblem(values, vectors, view.gradient, sigma)

    def _krylov(self, view: View, sigma: float) -> Solver | None:
        if not bool(view.gradient.any()):
            self.stuck = "the gradient is zero; subproblem=exact would look for negative curvature"
            return None
        length = float(view.gradient.norm())

        def enough(slope: float, norm: float) -> bool:
            return slope <= min(self.tolerance, norm / max(1.0, sigma)) * length

        process = cubic_process(view.product, view.gradient, sigma, self.max_iterations, enough)
        if len(process.diagonal) == 0:
            self.stuck = "the curvature's product with the gradient is not finite"
            return None

        def solve(weight: float) -> ModelStep:
            coefficients, model, _ = krylov_cubic(process, length, weight)
            return replace(model, step=process.lift(coefficients))

        return solve
