"""Base of Gauss-Newton and Levenberg-Marquardt: the residuals' linear model and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import flatten
from optimizers.method import Method
from optimizers.objective import Objective

GIBIBYTE = 2**30
# with so few parameters, counting the residuals by an extra evaluation is not worth its cost
ALWAYS_TRIED = 100


@dataclass(frozen=True)
class Linearisation:
    """The loss |r(theta)|^2 / 2 around a point, by r(theta + d) = r + J d.

    Attributes:
        residuals: r (m,), in float64.
        jacobian: J (m, n), in the parameters' precision.
        loss: |r|^2 / 2, in the parameters' precision.
        resolution: the relative spacing of floating-point numbers in that precision.
        noise: the rounding error of the loss. A residual is computed from quantities of the size of
            J_ij theta_j, so its error is about e_i = resolution * (r_i^2 + sum_j (J_ij
            theta_j)^2)^(1/2), and the loss's (sum_i r_i^2 e_i^2)^(1/2). The noise does not depend
            on the parameters' units.
    """

    residuals: Tensor
    jacobian: Tensor
    loss: Tensor
    resolution: float
    noise: float

    @classmethod
    def of(cls, objective: Objective) -> Self:
        """The model at the objective's parameters, from one evaluation and one Jacobian."""
        computed, jacobian = objective.jacobian()
        residuals, resolution = computed.double(), torch.finfo(computed.dtype).eps
        terms = torch.linalg.vector_norm(
            jacobian * flatten(objective.params), dim=1, dtype=torch.float64
        )
        noise = resolution * float((residuals * torch.hypot(residuals, terms)).norm())
        loss = (residuals.square().sum() / 2).to(computed.dtype)
        return cls(residuals, jacobian, loss, resolution, noise)

    @property
    def finite(self) -> bool:
        """Whether the loss and all derivatives are finite."""
        return bool(torch.isfinite(self.loss)) and bool(torch.isfinite(self.jacobian).all())

    def curvature(self, step: Tensor) -> float:
        """The squared length |J d|^2."""
        return float((self.jacobian.double() @ step).square().sum())

    def reduction(self, trial: Tensor) -> float:
        """The reduction (|r|^2 - |trial|^2) / 2 at a trial point, without cancellation."""
        trial = trial.double()
        return float((self.residuals - trial) @ (self.residuals + trial)) / 2

    def hides(self, predicted: float) -> bool:
        """Whether a reduction of this size is lost in the rounding of the loss."""
        return predicted <= self.noise

    def gain_ratio(self, actual: float, predicted: float) -> float:
        """The ratio actual / predicted, or 1 where rounding hides the predicted reduction."""
        if self.hides(predicted) and abs(actual) <= 10 * self.noise:
            return 1.0
        return actual / predicted if predicted > 0 else nan


class ResidualMethod(Method):
    """A method that takes residuals and Jacobian, and solves in float64 for any precision.

    `fits` in the parameter group says that the Jacobian's size is checked. `hidden` is the last
    predicted reduction below the loss's rounding, infinite above it.
    """

    needs = frozenset({"jacobian"})
    started: ClassVar[dict[str, Any]] = {"fits": False, "hidden": inf}

    max_gib: float

    def _require_memory(self, group: dict[str, Any], objective: Objective) -> None:
        """Refuse a Jacobian above `max_gib` before it is built; checked at the first mini-batch."""
        if group["fits"]:
            return
        columns = sum(parameter.numel() for parameter in objective.params)
        rows = len(objective.residuals()) if columns > ALWAYS_TRIED else 1
        needed = 8 * rows * columns / GIBIBYTE
        if needed > self.max_gib:
            raise UnsupportedError(
                f"{type(self).__name__} builds the Jacobian: {rows:,} residuals by {columns:,} "
                f"parameters are {needed:,.2g} GiB in float64, the limit is "
                f"max_gib={self.max_gib:g}; ggn_cg and hessian_free need no matrix of that size, "
                "or take smaller mini-batches"
            )
        group["fits"] = True

    def _exhausted(self, group: dict[str, Any], model: Linearisation, predicted: float) -> str:
        """The reason why a step with this predicted reduction is useless; empty if it is not.

        Below the loss's rounding, steps still improve the parameters as long as each predicted
        reduction is smaller than the last.
        """
        if not model.hides(predicted):
            group["hidden"] = inf
            return ""
        shrinks = 0 < predicted < group["hidden"]
        group["hidden"] = predicted if shrinks else inf
        if predicted <= 0:
            return "the gradient is zero"
        return "" if shrinks else self._unresolved(model)

    @staticmethod
    def _unresolved(model: Linearisation) -> str:
        if model.jacobian.dtype == torch.float64:
            return "float64 cannot resolve the gradient any further"
        return (
            "float32 cannot resolve the gradient any further; pass the parameters and the data as "
            "float64"
        )

    @staticmethod
    def _negligible(objective: Objective, step: Tensor) -> bool:
        """Whether a step is lost in the rounding of the parameters."""
        theta = flatten(objective.params)
        return torch.equal(theta + step, theta)
