"""Newton's method with a Hessian made positive definite, and a line search."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import shifted_cholesky, symmetric_eigen
from optimizers.method import Method, require_choice, require_dense, require_range
from optimizers.newton.descent import SEARCHES, descend
from optimizers.objective import Objective
from optimizers.phases import phased

MODIFICATIONS = ("cholesky", "eigen", "none")


class Newton(Method):
    r"""Newton's method: theta += alpha d, d = -(H + E)^{-1} g with E such that d is a descent.

    Three choices of E (Nocedal and Wright, 2006, section 3.4), all zero where H is safely positive
    definite:

    - `cholesky`: E = tau I, tau the first of a doubling sequence for which Cholesky succeeds (their
      Algorithm 3.3);
    - `eigen`: every eigenvalue e becomes max(|e|, delta * max|e|): negative ones are reversed;
    - `none`: E = 0, the textbook's method, which converges to any stationary point, saddles and
      maxima included. Where H is singular the shortest least-squares solution replaces it.

    alpha comes from a line search that tries `lr` first. At 1 the order of convergence near a
    minimum is two, also where the loss no longer resolves the decrease and the gradient decides.
    `none` may give an ascent direction; a line search then follows -g.

    Cost per step: n Hessian-vector products, n^3 / 3 multiplications a shift (`cholesky`) or about
    9 n^3 (`eigen`), one evaluation per trial. Memory: 8 n^2 bytes for each of three matrices. The
    decomposition is in float64; a float32 Hessian carries an error of about 1e-7 of its largest
    entry, which H's condition multiplies in the step.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried, the only one without a line search; 1 is Newton's own.
        modification: `cholesky`, `eigen` or `none`.
        line_search: `armijo` (c1 = 1e-4, halving), `strong_wolfe` (c2 = 0.9) or `none`.
        beta: the first shift of `cholesky`, relative to the largest entry of H.
        delta: the smallest eigenvalue of `eigen`, relative to the largest, and at least n units of
            round-off.
        max_trials: the number of step lengths tried; if all fail, the parameters stay and `stuck`
            says so.
        max_parameters: the largest n for which the dense matrix is built.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: more than `max_parameters` parameters.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        modification: str = "cholesky",
        line_search: str = "armijo",
        beta: float = 1e-3,
        delta: float = 1e-12,
        max_trials: int = 30,
        max_parameters: int = 5000,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_choice("modification", modification, MODIFICATIONS)
        require_choice("line_search", line_search, SEARCHES)
        require_range("beta", beta, open_low=True)
        require_range("delta", delta, high=1, open_low=True)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.modification = modification
        self.line_search = line_search
        self.beta = beta
        self.delta = delta
        self.max_trials = max_trials
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {"lr": lr})
        require_dense(self, max_parameters, "newton_cg, trust_region and tron need no such matrix")

    def telemetry(self) -> dict[str, float]:
        """`damping`, the shift tau of `cholesky`, or `negative_directions`, reversed by `eigen`."""
        return {**super().telemetry(), **self.diagnostics}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Move along the modified Newton direction; return the loss before the step."""
        group = self.whole(objective)
        self.stuck, self.diagnostics = "", {}
        hessian = objective.hessian()
        loss, gradient = hessian.loss, hessian.gradient
        if not bool(torch.isfinite(loss + gradient.norm())):
            self.failures["non_finite"] += 1
            return loss
        direction = self._direction(hessian.dense(), -gradient.double())
        if direction is None:
            self.stuck = "the Hessian is not finite"
            self.failures["inverse"] += 1
        elif not bool(gradient.any()):
            self.stuck = "the gradient is zero"
        else:
            direction = self._downhill(direction.to(gradient.dtype), gradient)
            self.stuck = descend(
                objective, loss, gradient, direction, self.line_search, group["lr"], self.max_trials
            )
            self.failures["refused"] += bool(self.stuck)
        return loss

    @phased("inverse")
    def _direction(self, hessian: Tensor, descent: Tensor) -> Tensor | None:
        """The direction (H + E)^-1 descent in float64, or None if H is not finite."""
        if self.modification == "none":
            return pure_solve(hessian, descent)
        if self.modification == "cholesky":
            shifted = shifted_cholesky(hessian, self.beta)
            if shifted is None:
                return None
            self.diagnostics["damping"] = shifted[1]
            return torch.cholesky_solve(descent[:, None], shifted[0])[:, 0]
        decomposition = symmetric_eigen(hessian)
        if decomposition is None:
            return None
        values, vectors = decomposition
        self.diagnostics["negative_directions"] = float((values < 0).sum())
        share = max(self.delta, len(values) * torch.finfo(hessian.dtype).eps)
        smallest = share * (float(values.abs().max()) or 1.0)
        return vectors @ (vectors.T @ descent / values.abs().clamp(min=smallest))

    def _downhill(self, direction: Tensor, gradient: Tensor) -> Tensor:
        """The direction itself, or -g where a line search needs a descent direction."""
        if (
            self.modification != "none"
            or self.line_search == "none"
            or bool(gradient @ direction < 0)
        ):
            return direction
        self.failures["uphill"] += 1
        return -gradient


def pure_solve(matrix: Tensor, right: Tensor) -> Tensor | None:
    """The solution matrix^-1 right in float64; None for a matrix that is not finite.

    A singular matrix gives the shortest least-squares solution.
    """
    if not bool(torch.isfinite(matrix).all()):
        return None
    double = matrix.double()
    solution: Tensor
    solution, failed = torch.linalg.solve_ex(double, right)
    if int(failed) == 0 and bool(torch.isfinite(solution).all()):
        return solution
    smallest = len(matrix) * torch.finfo(matrix.dtype).eps
    solution = torch.linalg.pinv(double, rtol=smallest, hermitian=True) @ right
    return solution
