"""TRON: the trust-region Newton method of LIBLINEAR."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.secular import ModelStep
from optimizers.linalg.steihaug import Path, everything, steihaug
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased
from optimizers.trust_region.trials import (
    CURVATURES,
    agreement,
    expansion,
    finite,
    trial_numbers,
    vanishes,
)

PRECONDITIONERS = ("none", "diagonal")


@dataclass(frozen=True)
class TronRule:
    """LIBLINEAR's radius: a parabola's minimiser, between fixed multiples of the old radius.

    alpha = -g.s / 2(f(x + s) - f(x) - g.s), at least `quarter`, is the minimiser of the parabola
    with f's value and slope at x and its value at x + s, or `fourfold` without a minimum (Lin, Weng
    and Keerthi, 2008, "Trust region Newton method for large-scale logistic regression", with
    LIBLINEAR's choices inside their intervals).
    """

    accept: float = 1e-4
    poor: float = 0.25
    good: float = 0.75
    quarter: float = 0.25
    half: float = 0.5
    fourfold: float = 4.0

    def __call__(
        self, radius: float, norm: float, ratio: float, alpha: float, boundary: bool
    ) -> float:
        """The next radius for a step of length `norm` with the ratio of reductions."""
        if not ratio >= self.accept:
            return min(alpha * norm, self.half * radius)
        if ratio < self.poor:
            return max(self.quarter * radius, min(alpha * norm, self.half * radius))
        if ratio < self.good:
            return max(self.quarter * radius, min(alpha * norm, self.fourfold * radius))
        return (
            self.fourfold * radius
            if boundary
            else max(radius, min(alpha * norm, self.fourfold * radius))
        )

    def alpha(self, slope: float, change: float) -> float:
        """The parabola's minimiser, in units of the step; f changed by `change` over the step."""
        above = change - slope
        if not isfinite(above):
            return self.quarter
        return self.fourfold if above <= 0 else max(self.quarter, -0.5 * slope / above)


class TRON(Method):
    r"""Truncated Newton in a trust region whose radius is interpolated from the loss.

    A step minimises g.s + s'Bs/2 in |s|_M <= radius by preconditioned CG from zero, stopped at
    `tolerance` times its first residual (M^-1 norm). Constants and radius rule are those of
    LIBLINEAR before 2.40, which replaced the method by a line search (Lin and More, 1999, "Newton's
    method for large bound-constrained problems"; Lin, Weng and Keerthi, 2008; Hsia, Chiang and Lin,
    2018, "Preconditioned conjugate gradient methods in truncated Newton frameworks for large-scale
    linear classification", for M = 0.99 I + 0.01 diag(B)). The first radius is |g|_M, cut to the
    length of the first step.

    Differences from LIBLINEAR: B may be indefinite, CG then follows a direction of negative
    curvature to the boundary (Steihaug, 1983); M has the absolute diagonal; a loss that is not
    finite refuses the step; a reduction hidden by rounding counts as agreement. After a refused
    step CG runs again in the smaller region, as in LIBLINEAR, without memory; `keep_path=True` uses
    the stored path instead, without a product.

    diag(B) costs n products up to `exact_diagonal` parameters and `probes` products above
    (Hutchinson, 1990, with random signs), each step: worthwhile where CG needs more iterations than
    that.

    Cost per step: one gradient, one product a CG iteration, one evaluation a trial. Memory: at most
    8 n floats beyond the retained graph, `keep_path` 2 n more for each CG iteration.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of the model's step; 1 is the method's own.
        curvature: `hessian`, or `ggn`, the better choice for networks far from a minimum.
        preconditioner: `none` or `diagonal`.
        radius: the first radius; None for |g|_M.
        tolerance: CG's relative tolerance.
        max_iterations: the largest number of CG iterations.
        max_trials: the number of radii tried in a step.
        keep_path: store CG's path for the smaller radii.
        exact_diagonal: the largest n for which the diagonal is exact; the dense matrix is built for
            it.
        probes: the number of random vectors for the diagonal above that.
        seed: the seed of the random vectors.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        curvature: str = "hessian",
        preconditioner: str = "none",
        radius: float | None = None,
        tolerance: float = 0.1,
        max_iterations: int = 250,
        max_trials: int = 30,
        keep_path: bool = False,
        exact_diagonal: int = 300,
        probes: int = 10,
        seed: int = 0,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_choice("curvature", curvature, CURVATURES)
        require_choice("preconditioner", preconditioner, PRECONDITIONERS)
        if radius is not None:
            require_range("radius", radius, open_low=True)
        require_range("tolerance", tolerance, high=1)
        require_range("max_iterations", max_iterations, low=1, whole=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("exact_diagonal", exact_diagonal, whole=True)
        require_range("probes", probes, low=1, whole=True)
        require_range("seed", seed, whole=True)
        self.needs = frozenset({curvature})
        self.curvature = curvature
        self.preconditioner = preconditioner
        self.first_radius = radius
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.max_trials = max_trials
        self.keep_path = keep_path
        self.exact_diagonal = exact_diagonal
        self.probes = probes
        self.seed = seed
        self.rule = TronRule()
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "radius": radius, "steps": 0})

    def telemetry(self) -> dict[str, float]:
        """`radius`, `reduction_ratio`, `trials` and `cg_iterations` of the last step.

        A refused step counts as a failure.
        """
        radius = self.param_groups[0]["radius"]
        known = {} if radius is None else {"radius": float(radius)}
        return {**super().telemetry(), **known, **self.diagnostics}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Shrink the radius until the loss agrees with the model, then move; return the loss."""
        group = self.whole(objective)
        model = expansion(objective, self.curvature)
        self.stuck, self.diagnostics = "", {}
        if group["lr"] == 0 or not finite(model):
            self.failures["non_finite"] += not finite(model)
            return model.loss
        if not bool(model.gradient.any()):
            self.stuck = "the gradient is zero"
            return model.loss
        metric = self._metric(model) if self.preconditioner == "diagonal" else None
        if group["radius"] is None:
            squares = (
                model.gradient.square() if metric is None else model.gradient.square() * metric
            )
            group["radius"] = float(squares.sum()) ** 0.5
        self._search(objective, model, metric)
        group["steps"] += 1
        return model.loss

    def _search(self, objective: Objective, model: Curvature, metric: Tensor | None) -> None:
        """Shrink the radius until the loss falls enough, and move."""
        group, before = self.param_groups[0], float(model.loss)
        path: Path | None = None
        for trial in range(self.max_trials):
            if path is None or not self.keep_path:
                path = self._path(model, metric, group["radius"])
                self.diagnostics["cg_iterations"] = float(path.products)
            model_step = path.at(group["radius"])
            if vanishes(model_step.step, objective.params):
                self.stuck = (
                    "no step that changes a parameter lowers the loss as its model predicts"
                )
                group["radius"] = self.first_radius
                break
            if group["steps"] == trial == 0:
                group["radius"] = min(group["radius"], model_step.norm)
            if self._try(objective, before, model_step, trial):
                return
        self.failures["refused"] += 1

    @phased("line search")
    def _try(self, objective: Objective, before: float, model_step: ModelStep, trial: int) -> bool:
        """Evaluate a step, adapt the radius, and move if the loss falls enough."""
        group = self.param_groups[0]
        step = model_step.step if group["lr"] == 1 else group["lr"] * model_step.step
        slope, change = model_step.scaled(group["lr"])
        after = float(objective.value(step))
        ratio = agreement(before, after, change, step)
        self.diagnostics |= trial_numbers(trial, ratio)
        alpha = self.rule.alpha(slope, after - before)
        group["radius"] = self.rule(
            group["radius"], model_step.norm, ratio, alpha, model_step.boundary
        )
        if not ratio > self.rule.accept:
            return False
        objective.move(step)
        return True

    def _path(self, model: Curvature, metric: Tensor | None, radius: float) -> Path:
        squares = model.gradient.square() if metric is None else model.gradient.square() / metric
        tolerance = self.tolerance * float(squares.sum()) ** 0.5
        return steihaug(
            model,
            model.gradient,
            radius,
            tolerance=tolerance,
            max_iterations=self.max_iterations,
            metric=metric,
            keep=everything if self.keep_path else None,
        )

    @phased("curvature")
    def _metric(self, model: Curvature) -> Tensor:
        """The diagonal of M = 0.99 I + 0.01 |diag(B)|."""
        if model.gradient.numel() <= self.exact_diagonal:
            diagonal = model.dense().diagonal()
        else:
            generator = torch.Generator().manual_seed(self.seed + self.param_groups[0]["steps"])
            diagonal = torch.zeros_like(model.gradient)
            for _ in range(self.probes):
                signs = torch.randint(2, diagonal.shape, generator=generator).to(diagonal) * 2 - 1
                diagonal += signs * model(signs) / self.probes
        return torch.where(
            diagonal.isfinite(), 0.99 + 0.01 * diagonal.abs(), torch.ones_like(diagonal)
        )
