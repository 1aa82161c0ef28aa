"""Hessian-free optimisation: truncated Gauss-Newton steps with all of Martens' safeguards."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.krylov.preconditioners import DIAGONALS
from optimizers.krylov.rotating_part import rotating_part
from optimizers.linalg.cg import CGResult, conjugate_gradients, geometric, relative_progress
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.line_search import armijo
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased


class HessianFree(Method):
    r"""Hessian-free optimisation: truncated Gauss-Newton steps with Martens' safeguards.

    A step minimises q(d) = g'd + d'(G + damping I)d / 2 by truncated CG; theta += alpha d. G = J'
    H_out J is the generalised Gauss-Newton matrix, used through products alone. The parts, with the
    sections of Martens (2010), "Deep learning via Hessian-free optimization":

    - CG is preconditioned by (D + damping)^xi, D a diagonal estimate of G (4.7), starts at
      `warm_start` times the last step's final iterate (4.5) and stops when the relative progress
      per iteration is small (4.4);
    - the loss chooses among the iterates stored at ceil(1.3^j): backwards from the last one as
      long as the loss falls (4.6);
    - a line search follows the chosen iterate; if no trial lowers the loss, the step is refused;
    - the damping follows rho = (f(theta + d) - f(theta)) / q(d): times 3/2 below 1/4, times 2/3
      above 3/4 (4.1). q is measured from d = 0, not from the warm start: otherwise rho turns
      negative on full batches and the damping grows without bound;
    - `structural` adds damping * structural * J_h'J_h for the hidden states h of recurrent layers,
      which penalises large changes of these states (Martens and Sutskever, 2011, "Learning
      recurrent neural networks with Hessian-free optimization", section 3.2, with the squared
      distance between states).

    Cost per step: a gradient, a product with G per CG iteration, one for the warm start, a gradient
    (`fisher`) or one per example (`empirical`) for the preconditioner, an evaluation per iterate
    and step length tried. Memory beside the retained graph: 7 n floats for CG and the
    preconditioner and n per stored iterate, at most 20 for 250 iterations; state n.

    Differences from Martens (2010): the default preconditioner is Chapelle and Erhan's (2011), one
    gradient instead of one per example; the curvature sees a rotating share of the batch rather
    than a mini-batch of its own.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried.
        damping: the first multiple of the identity, for a loss that is summed over outputs and
            averaged over examples.
        adaptive: adapt the damping.
        max_iterations: the largest number of CG iterations a step.
        progress: the relative progress per iteration below which CG stops.
        preconditioner: `none`, `fisher` or `empirical`.
        exponent: xi, between 0 (no preconditioning) and 1.
        warm_start: the share of the last final iterate at which CG starts.
        curvature_share: the share of the batch's examples in the products with G; the gradient
            takes all examples.
        structural: mu, the weight of structural damping relative to the damping; 0 without
            recurrent layers.
        max_trials: the number of step lengths tried, each 0.8 of the one before.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: at the first step, if the loss is no likelihood to draw targets from
            (`fisher`), if examples are coupled (`empirical`), or if `structural` is set for a model
            without recurrent layers.
    """

    needs = frozenset({"ggn"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        damping: float = 1.0,
        adaptive: bool = True,
        max_iterations: int = 250,
        progress: float = 5e-4,
        preconditioner: str = "fisher",
        exponent: float = 0.75,
        warm_start: float = 0.95,
        curvature_share: float = 1.0,
        structural: float = 0.0,
        max_trials: int = 20,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("damping", damping)
        require_range("max_iterations", max_iterations, low=1, whole=True)
        require_range("progress", progress, high=1)
        require_range("exponent", exponent, high=1)
        require_range("warm_start", warm_start, high=1)
        require_range("curvature_share", curvature_share, high=1, open_low=True)
        require_range("structural", structural)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_choice("preconditioner", preconditioner, ("none", *DIAGONALS))
        self.adaptive = adaptive
        self.max_iterations = max_iterations
        self.progress = progress
        self.preconditioner = preconditioner
        self.exponent = exponent
        self.warm_start = warm_start
        self.curvature_share = curvature_share
        self.structural = structural
        self.max_trials = max_trials
        self.rule = RatioRule()
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "damping": damping, "seen": 0})

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
        """Solve for the direction by CG, then search along it; return the loss before the step."""
        group = self.whole(objective)
        curved = rotating_part(objective, self.curvature_share, group["seen"])
        group["seen"] += 1
        self.diagnostics = {}
        ggn = curved.ggn(self.structural * group["damping"])
        loss, gradient = (
            (ggn.loss, ggn.gradient) if curved is objective else objective.value_and_gradient()
        )
        if not bool(torch.isfinite(loss + gradient.norm())):
            self.failures["non_finite"] += 1
            return loss
        solution = self._solve(objective, curved, ggn, gradient)
        self.diagnostics["cg_iterations"] = float(solution.iterations)
        if bool(torch.isfinite(solution.x).all()):
            self.keep("direction", solution.x)
        self._move(objective, loss, gradient, solution)
        return loss

    def _solve(
        self, objective: Objective, curved: Objective, ggn: Curvature, gradient: Tensor
    ) -> CGResult:
        """CG on the damped system; curvature of a part is rescaled to the whole batch."""
        ratio = objective.scale / curved.scale
        damping = self.param_groups[0]["damping"] * objective.scale
        previous = self.stored("direction") if self.warm_start else None
        preconditioner = None
        if self.preconditioner != "none":
            diagonal = ratio * DIAGONALS[self.preconditioner](curved) + damping
            scaling = (diagonal + torch.finfo(diagonal.dtype).tiny).pow_(-self.exponent)
            preconditioner = scaling.mul
        return conjugate_gradients(
            lambda v: ggn(v).mul_(ratio).add_(v, alpha=damping),
            -gradient,
            x0=None if previous is None else previous.mul_(self.warm_start),
            max_iterations=self.max_iterations,
            stop=relative_progress(self.progress),
            preconditioner=preconditioner,
            keep=geometric(self.max_iterations),
        )

    def _move(
        self, objective: Objective, loss: Tensor, gradient: Tensor, solution: CGResult
    ) -> None:
        """Choose an iterate and a step length by the loss, and adapt the damping."""
        group, before = self.param_groups[0], float(loss)
        self.stuck = (
            ""
            if solution.path
            else "the gradient is zero, or CG's first direction has no positive curvature"
        )
        if self.stuck:
            return
        iteration, step, after = self._backtracked(objective, solution.path)
        resolution = torch.finfo(step.dtype).eps
        if self.adaptive:
            ratio = reduction_ratio(before, after, -solution.values[iteration], resolution)
            group["damping"] = self.rule(group["damping"], ratio)
            if isfinite(ratio):
                self.diagnostics["reduction_ratio"] = ratio
        accepted = armijo(
            lambda alpha: after if alpha == 1 else float(objective.value(alpha * step)),
            before + 2 * resolution * abs(before),
            min(float(gradient @ step), 0.0),
            first=group["lr"],
            sufficient=1e-2,
            shrink=0.8,
            max_trials=self.max_trials,
        )
        self.diagnostics["step_length"] = 0.0 if accepted is None else accepted[0]
        self.failures["refused"] += accepted is None
        if accepted is not None:
            objective.move(accepted[0] * step)
        elif group["damping"] in (0.0, self.rule.largest):
            self.stuck = "no step length lowers the loss, and the damping is at its largest"

    @staticmethod
    @phased("line search")
    def _backtracked(
        objective: Objective, path: list[tuple[int, Tensor]]
    ) -> tuple[int, Tensor, float]:
        """Go back from the last iterate while the loss falls: iteration, iterate, loss."""
        chosen: tuple[int, Tensor, float] | None = None
        for iteration, iterate in reversed(path):
            value = float(objective.value(iterate))
            if chosen is not None and isfinite(chosen[2]) and not value < chosen[2]:
                break
            chosen = iteration, iterate, value
        assert chosen is not None
        return chosen
