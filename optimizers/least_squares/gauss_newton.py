"""The Gauss-Newton method for nonlinear least squares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.least_squares.residual_method import Linearisation, ResidualMethod
from optimizers.linalg.least_squares import FORMS, DampedLeastSquares
from optimizers.linalg.line_search import armijo
from optimizers.method import require_choice, require_range
from optimizers.objective import Objective

SEARCHES = ("armijo", "none")


class GaussNewton(ResidualMethod):
    r"""Gauss-Newton: d = argmin |J d + r|, theta += alpha d.

    The residuals r are replaced by their linear model: a linear least-squares problem is solved in
    one step, and a problem with small residuals or little curvature almost as fast as by Newton's
    method. d is the solution of minimum norm where J has no full rank: d = -J^+ r, with singular
    values below `eps max(m, n)` times the largest, eps of the parameters' precision, counted as
    zero. That covers m < n, where d = -J'(J J')^{-1} r. The step length is `lr` if the loss falls
    by 1e-4 of the slope's prediction, else it is halved until the loss does (Nocedal and Wright,
    2006, section 10.3 and Algorithm 3.1).

    Nothing bounds d where J is nearly singular: the step lengths become tiny or the search fails,
    and `levenberg_marquardt` is the better method.

    Cost per step: one Jacobian (min(m, n) backward passes), one decomposition (m n min(m, n) flops
    times a small factor), one evaluation per trial. Memory: four times the Jacobian's 8 m n bytes,
    twice by a Gram matrix, and five times 8 min(m, n)^2; no state. Everything is solved in float64;
    float32 residuals limit how small a gradient can be resolved, and `stuck` says so.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried; 1 is the method's own.
        line_search: `armijo`, or `none` for a step of length `lr` without any evaluation.
        form: how the linear problem is solved, see `DampedLeastSquares`.
        max_trials: the number of step lengths tried, each half the one before; if none lowers the
            loss, the step is refused.
        max_gib: the largest Jacobian, in GiB of float64.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the loss is no squared error, or the Jacobian is larger than `max_gib`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        line_search: str = "armijo",
        form: str = "auto",
        max_trials: int = 30,
        max_gib: float = 2.0,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_choice("line_search", line_search, SEARCHES)
        require_choice("form", form, FORMS)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("max_gib", max_gib, open_low=True)
        self.line_search = line_search
        self.form = form
        self.max_trials = max_trials
        self.max_gib = max_gib
        super().__init__(params, {"lr": lr, **self.started})

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Solve the linearised problem and search along its solution; return the loss before it."""
        group = self.whole(objective)
        self._require_memory(group, objective)
        model = Linearisation.of(objective)
        if not model.finite:
            return model.loss
        cut = model.resolution * max(model.jacobian.shape)
        direction = DampedLeastSquares(model.jacobian, None, self.form, cut).solve(
            0.0, model.residuals
        )
        if direction is None:
            self.stuck = "the decomposition of the Jacobian failed"
            return model.loss
        predicted = model.curvature(direction) / 2
        self.stuck = self._exhausted(group, model, predicted)
        if not self.stuck:
            self._move(objective, model, direction, predicted)
        return model.loss

    def _move(
        self, objective: Objective, model: Linearisation, direction: Tensor, predicted: float
    ) -> None:
        """Move along the direction: by the line search, or by `lr`."""
        alpha: float = self.param_groups[0]["lr"]
        direction = direction.to(model.jacobian.dtype)
        if self.line_search == "armijo":
            hidden = model.hides(predicted)
            accepted = armijo(
                lambda length: -model.reduction(objective.residuals(length * direction)),
                model.noise if hidden else 0.0,  # a change below the noise is no rise
                -2 * predicted,
                first=alpha,
                max_trials=self.max_trials,
            )
            if accepted is None:
                self.stuck = self._unresolved(model) if hidden else self._failed()
                return
            alpha = accepted[0]
        objective.move(alpha * direction)

    def _failed(self) -> str:
        return (
            f"none of {self.max_trials} step lengths along the Gauss-Newton direction lowers the "
            "loss; levenberg_marquardt damps such steps"
        )
