"""Truncated Newton: conjugate gradients for the direction, a line search for its length."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.cg import CGResult, conjugate_gradients
from optimizers.method import Method, require_choice, require_range
from optimizers.newton.descent import SEARCHES, descend
from optimizers.objective import Objective

CURVATURES = ("hessian", "ggn")
NEGATIVE = ("stop", "follow")


class NewtonCG(Method):
    r"""Line-search Newton-CG: theta += alpha d, H d = -g by CG until |H d + g| <= eta |g|.

    eta = min(1/2, sqrt(|g| / |g_0|)), g_0 the gradient of the first step: a few products suffice
    far from a minimum, and the convergence is superlinear near it (Dembo, Eisenstat and Steihaug,
    1982; Nocedal and Wright, 2006, Algorithm 7.1, with |g| in the place of the quotient). Unlike
    |g| the quotient does not change with the unit of the loss.

    H is never formed and need not be positive definite: CG ends at a direction p with p'Hp <= 0.
    Then d is CG's present iterate (`stop`), or that less (g'p / |p'Hp|) p (`follow`): CG's step for
    a curvature of the other sign. If p is the first direction, -g, both take that step.

    Cost per step: one gradient, a product per CG iteration, one evaluation per trial step. Memory:
    6 n floats beside the retained graph, no state.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried, the only one without a line search; 1 is Newton's own.
        curvature: `hessian`, or `ggn` for the Gauss-Newton matrix, which has no negative curvature
            if the loss is convex in the outputs.
        negative_curvature: `stop` or `follow`.
        line_search: `armijo` (c1 = 1e-4, halving), `strong_wolfe` (c2 = 0.9) or `none`.
        max_iterations: the largest number of CG iterations a step.
        max_trials: the number of step lengths tried; if all fail, the parameters stay and `stuck`
            says so.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        curvature: str = "hessian",
        negative_curvature: str = "follow",
        line_search: str = "armijo",
        max_iterations: int = 200,
        max_trials: int = 30,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_choice("curvature", curvature, CURVATURES)
        require_choice("negative_curvature", negative_curvature, NEGATIVE)
        require_choice("line_search", line_search, SEARCHES)
        require_range("max_iterations", max_iterations, low=1, whole=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        self.needs = frozenset({curvature})
        self.curvature = curvature
        self.negative_curvature = negative_curvature
        self.line_search = line_search
        self.max_iterations = max_iterations
        self.max_trials = max_trials
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "first_norm": 0.0})

    def telemetry(self) -> dict[str, float]:
        """`cg_iterations`, and `negative_directions`: 1 after negative curvature in CG, else 0.

        A refused step counts as a failure.
        """
        return {**super().telemetry(), **self.diagnostics}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Solve for the direction by CG and search along it; return the loss before the step."""
        group = self.whole(objective)
        self.stuck, self.diagnostics = "", {}
        matrix = objective.hessian() if self.curvature == "hessian" else objective.ggn()
        loss, gradient, norm = matrix.loss, matrix.gradient, float(matrix.gradient.norm())
        if not (isfinite(float(loss)) and isfinite(norm)):
            self.failures["non_finite"] += 1
            return loss
        if norm == 0:
            self.stuck = "the gradient is zero"
            return loss
        group["first_norm"] = group["first_norm"] or norm
        forcing = min(0.5, sqrt(norm / group["first_norm"]))
        solution = conjugate_gradients(
            matrix, -gradient, max_iterations=self.max_iterations, tolerance=forcing
        )
        self.diagnostics["cg_iterations"] = float(solution.iterations)
        self.diagnostics["negative_directions"] = float(solution.direction is not None)
        direction = self._direction(solution, gradient)
        self.stuck = descend(
            objective, loss, gradient, direction, self.line_search, group["lr"], self.max_trials
        )
        self.failures["refused"] += bool(self.stuck)
        return loss

    def _direction(self, solution: CGResult, gradient: Tensor) -> Tensor:
        """CG's solution, plus a step along negative curvature for `follow` or a first direction."""
        if solution.direction is None:
            return solution.x
        first = solution.iterations == 1
        if self.negative_curvature == "stop" and not first:
            return solution.x
        slope, bend = float(gradient @ solution.direction), abs(solution.curvature)
        if bend > 0 and isfinite(slope / bend):
            return solution.x - slope / bend * solution.direction
        return -gradient if first else solution.x
