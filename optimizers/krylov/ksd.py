"""Krylov subspace descent: minimise the loss over the span of a few curvature products."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.krylov.preconditioners import DIAGONALS
from optimizers.krylov.rotating_part import rotating_part
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.method import Method, require_choice, require_range
from optimizers.minimize import minimize
from optimizers.objective import Objective
from optimizers.phases import phased

CURVATURES = ("ggn", "hessian")


class KSD(Method):
    r"""Krylov subspace descent: theta += V'a, a = argmin f(theta + V'a) by BFGS.

    The rows of V are an orthonormal basis of the K vectors P^-1 g, (P^-1 B) P^-1 g, ..., and the
    previous step. B is the Gauss-Newton matrix or the Hessian, which may be indefinite, and P the
    diagonal preconditioner of `hessian_free`. The Hessian-free method minimises a damped model in
    that space. Krylov subspace descent minimises the loss, and needs no damping. BFGS works in
    coordinates in which V B V' is the identity (eigenvalues by their absolute value, floored).
    Vinyals and Povey, 2012, "Krylov subspace descent for deep learning" (arXiv 1111.4259).

    Cost per step: one gradient, K + 1 products with B, and a value and gradient of the searched
    share per trial of BFGS, about 1.5 for each of at most `search_steps`. Memory beside the
    retained graph: (2 K + 6) n floats; state n.

    Differences from the paper: gradient, curvature and search use rotating shares of one batch
    instead of three random subsets of the data; the default is no preconditioner.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the factor of the minimising step.
        dimension: K, the number of Krylov vectors.
        curvature: `ggn` or `hessian`.
        preconditioner: `none`, `fisher` or `empirical`.
        exponent: the power of the diagonal, between 0 and 1.
        curvature_share: the share of the batch's examples in the products with B.
        search_share: the share of the batch's examples in the loss that BFGS minimises.
        search_steps: the largest number of BFGS steps.
        floor: the smallest eigenvalue of V B V' relative to the largest.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"ggn"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        dimension: int = 20,
        curvature: str = "ggn",
        preconditioner: str = "none",
        exponent: float = 0.75,
        curvature_share: float = 1.0,
        search_share: float = 1.0,
        search_steps: int = 20,
        floor: float = 1e-4,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("dimension", dimension, low=1, whole=True)
        require_range("exponent", exponent, high=1)
        require_range("curvature_share", curvature_share, high=1, open_low=True)
        require_range("search_share", search_share, high=1, open_low=True)
        require_range("search_steps", search_steps, low=1, whole=True)
        require_range("floor", floor, high=1, open_low=True)
        require_choice("curvature", curvature, CURVATURES)
        require_choice("preconditioner", preconditioner, ("none", *DIAGONALS))
        self.needs = frozenset({curvature})
        self.dimension = dimension
        self.curvature = curvature
        self.preconditioner = preconditioner
        self.exponent = exponent
        self.curvature_share = curvature_share
        self.search_share = search_share
        self.search_steps = search_steps
        self.floor = floor
        super().__init__(params, {"lr": lr, "seen": 0})

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Minimise the loss over the Krylov subspace; return the loss before the step."""
        group = self.whole(objective)
        curved = rotating_part(objective, self.curvature_share, group["seen"])
        matrix: Curvature = getattr(curved, self.curvature)()
        whole = curved is objective
        loss, gradient = (matrix.loss, matrix.gradient) if whole else objective.value_and_gradient()
        if not bool(torch.isfinite(loss + gradient.norm())):
            return loss
        basis, projected = self._subspace(curved, matrix, gradient)
        self.stuck = "" if len(basis) else "the gradient is zero"
        if len(basis):
            searched = rotating_part(objective, self.search_share, group["seen"])
            basis = self._scaled(basis, projected)  # one basis in memory, not two
            self._descend(objective, searched, basis)
        group["seen"] += 1
        return loss

    @phased("inverse")
    def _subspace(
        self, curved: Objective, matrix: Curvature, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The basis V (k, n) of Krylov vectors and the previous step, and V B V' (k, k)."""
        scaling: Tensor | None = None
        if self.preconditioner != "none":
            diagonal = DIAGONALS[self.preconditioner](curved)
            smallest = 1e-6 * float(diagonal.mean()) + torch.finfo(diagonal.dtype).tiny
            scaling = diagonal.clamp_min_(smallest).pow_(-self.exponent)
        size = min(self.dimension, gradient.numel())
        basis = gradient.new_empty(size + 1, gradient.numel())
        images = torch.empty_like(basis)
        previous, count = self.stored("direction"), 0
        following: Tensor | None = gradient
        while following is not None and count <= size:
            conditioned = (
                following if scaling is None or following is previous else scaling * following
            )
            vector = _orthonormal(conditioned, basis[:count])
            if vector is not None:
                basis[count], images[count] = vector, matrix(vector)
                count += 1
            krylov = vector is not None and following is not previous and count < size
            following = (
                images[count - 1] if krylov else (None if following is previous else previous)
            )
        projected = basis[:count] @ images[:count].T
        return basis[:count], (projected + projected.T) / 2

    @phased("inverse")
    def _scaled(self, basis: Tensor, projected: Tensor) -> Tensor:
        """The basis in whose coordinates the curvature is the identity; unscaled on failure."""
        decomposition = symmetric_eigen(projected)
        if decomposition is None:
            return basis
        values, vectors = decomposition
        largest = float(values.abs().max())
        if largest == 0:
            return basis
        curvatures = values.abs().clamp_min(self.floor * largest)
        return (vectors / curvatures.sqrt()).T.to(basis.dtype) @ basis

    @phased("line search")
    def _descend(self, objective: Objective, searched: Objective, basis: Tensor) -> None:
        """Minimise the loss over the subspace and move there."""

        def loss(coordinates: Tensor) -> Tensor:
            value: Tensor = _Restricted.apply(coordinates, searched, basis)  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            minimum = minimize(
                loss, basis.new_zeros(len(basis)), "bfgs", max_steps=self.search_steps, tol=0.0
            )
        step = minimum.x @ basis
        if bool(torch.isfinite(step).all()) and bool(step.any()):
            self.keep("direction", step)
            objective.move(self.param_groups[0]["lr"] * step)
        else:
            self.stuck = f"no point of the Krylov subspace has a lower loss ({minimum.message})"


class _Restricted(torch.autograd.Function):
    """The loss a -> f(theta + V'a), with the gradient V g."""

    @staticmethod
    def forward(ctx: Any, coordinates: Tensor, objective: Objective, basis: Tensor) -> Tensor:
        """The loss at coordinates (k,), and V g stored for the backward pass."""
        loss, gradient = objective.value_and_gradient(coordinates @ basis)
        ctx.save_for_backward(basis @ gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient (k,) of the coordinates, and none for objective and basis."""
        (gradient,) = ctx.saved_tensors
        return output_gradient * gradient, None, None


def _orthonormal(vector: Tensor, basis: Tensor) -> Tensor | None:
    """The normalised part of a vector outside the rows' span (Gram-Schmidt, twice), or None."""
    before = float(vector.norm())
    if not before > 0:
        return None
    rest = vector / before
    for _ in range(2):
        rest = rest - (rest @ basis.T) @ basis
    left = float(rest.norm())
    return rest / left if left > 1e3 * torch.finfo(vector.dtype).eps else None
