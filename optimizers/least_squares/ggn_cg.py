"""Gauss-Newton steps by conjugate gradients, with Levenberg-Marquardt damping."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.cg import conjugate_gradients, relative_progress
from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.flat import add_
from optimizers.linalg.line_search import armijo
from optimizers.method import Method, require_range
from optimizers.objective import Objective


class GGNCG(Method):
    r"""Truncated Gauss-Newton: (G + damping I) d = -g by conjugate gradients, theta += alpha d.

    G = J' H_out J is the generalised Gauss-Newton matrix, never formed: CG needs products alone
    (Schraudolph, 2002; Martens, 2010, "Deep learning via Hessian-free optimization"). The damping
    follows the ratio of the loss's reduction to the quadratic model's, measured from d = 0; alpha
    comes from backtracking, 1 first. CG starts at `warm_start` times the previous solution and
    stops by Martens' relative-progress rule.

    Cost per step: one gradient, one product with G per CG iteration, one evaluation per trial step.
    Memory: 5 n floats beside the retained graph; state n floats.

    Differences from Martens (2010): no preconditioner, no backtracking through CG's iterates, one
    batch for gradient and curvature.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried.
        damping: the first multiple of the identity, for a loss that is summed over outputs and
            averaged over examples.
        adaptive: adapt the damping.
        max_iterations: the largest number of CG iterations a step.
        tolerance: CG also stops once its residual is below this share of the gradient.
        warm_start: the share of the previous solution at which CG starts.
        max_trials: the number of step lengths tried, each half the one before; if none lowers the
            loss, the step is refused.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"ggn"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        damping: float = 1.0,
        adaptive: bool = True,
        max_iterations: int = 50,
        tolerance: float = 1e-6,
        warm_start: float = 0.95,
        max_trials: int = 10,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("damping", damping)
        require_range("max_iterations", max_iterations, low=1, whole=True)
        require_range("tolerance", tolerance, high=1)
        require_range("warm_start", warm_start, high=1)
        require_range("max_trials", max_trials, low=1, whole=True)
        self.adaptive = adaptive
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.warm_start = warm_start
        self.max_trials = max_trials
        self.rule = RatioRule()
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "damping": damping})

    def telemetry(self) -> dict[str, float]:
        """`cg_iterations` and the accepted `step_length`, beside the common numbers.

        A refused step counts as a failure.
        """
        return {
            **super().telemetry(),
            "damping": float(self.param_groups[0]["damping"]),
            **self.diagnostics,
        }

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Solve for the direction by CG and search along it; return the loss before the step."""
        group = self.whole(objective)
        self.diagnostics = {}
        ggn = objective.ggn()
        if not bool(torch.isfinite(ggn.loss + ggn.gradient.norm())):
            self.failures["non_finite"] += 1
            return ggn.loss
        damping, previous = group["damping"] * objective.scale, self.stored("direction")
        solution = conjugate_gradients(
            lambda v: ggn(v) + damping * v,
            -ggn.gradient,
            x0=None if previous is None or not self.warm_start else self.warm_start * previous,
            max_iterations=self.max_iterations,
            tolerance=self.tolerance,
            stop=relative_progress(),
        )
        self.diagnostics["cg_iterations"] = float(solution.iterations)
        if bool(torch.isfinite(solution.x).all()):
            self.keep("direction", solution.x)
        self._move(objective, ggn.loss, ggn.gradient, solution.x, solution.values[-1])
        return ggn.loss

    def _move(
        self,
        objective: Objective,
        loss: Tensor,
        gradient: Tensor,
        step: Tensor,
        model_change: float,
    ) -> None:
        """Search along the step, and adapt the damping to the first trial's reduction ratio."""
        group, before = self.param_groups[0], float(loss)
        first, slope = group["lr"], float(gradient @ step)
        trials: dict[float, float] = {}

        def value(alpha: float) -> float:
            trials[alpha] = float(objective.value(alpha * step))
            return trials[alpha]

        accepted = armijo(value, before, min(slope, 0.0), first=first, max_trials=self.max_trials)
        if self.adaptive:
            predicted = -first * slope - first**2 * (model_change - slope)
            ratio = reduction_ratio(before, trials[first], predicted, torch.finfo(step.dtype).eps)
            group["damping"] = self.rule(group["damping"], ratio)
            if isfinite(ratio):
                self.diagnostics["reduction_ratio"] = ratio
        self.diagnostics["step_length"] = 0.0 if accepted is None else accepted[0]
        self.failures["refused"] += accepted is None
        if accepted is not None:
            add_(objective.params, step, alpha=accepted[0])
