"""The eigenvalues of a Hessian and the gradient's parts along its eigenvectors, in all directions or in a few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.linalg.lanczos import lanczos
from optimizers.phases import phased


@dataclass(frozen=True)
class Spectrum:
    """The Hessian within a space.

    Its eigenvalues (k,), the gradient's parts along the eigenvectors (k,) in float64.

    `lift` makes a flat vector (n,) of parts along the eigenvectors.
    """

    values: Tensor
    slopes: Tensor
    lift: Callable[[Tensor], Tensor]

    def absolute(self, damping: float) -> Tensor:
        """The damped absolute eigenvalues that divide the gradient, kept away from zero by round-off's size."""
        curvatures = self.values.abs() + damping
        smallest = (
            torch.finfo(torch.float64).eps * float(self.values.abs().max())
            + torch.finfo(torch.float64).tiny
        )
        return curvatures.clamp(min=smallest)

    def change(self, along: Tensor) -> float:
        """What the quadratic model says that a step changes the loss by."""
        return float(self.slopes @ along + self.values @ along**2 / 2)


@phased("inverse")
def exact_spectrum(hessian: Curvature) -> Spectrum | None:
    """All eigenvalues: n products; None if one is not finite."""
    decomposition = symmetric_eigen(hessian.dense())
    if decomposition is None:
        return None
    values, vectors = decomposition
    dtype = hessian.gradient.dtype
    return Spectrum(
        values, vectors.T @ hessian.gradient.double(), lambda along: (vectors @ along).to(dtype)
    )


@phased("inverse")
def krylov_spectrum(
    hessian: Curvature, dimensions: int, previous: Tensor | None
) -> Spectrum | None:
    """The Ritz values in the Krylov space of the gradient and the previous step.

    None if one is not finite.
    """
    found = lanczos(hessian, hessian.gradient, dimensions)
    if not isfinite(found.residual):
        return None
    blocks, matrix = [found.basis], found.matrix()
    if previous is not None and (vector := _outside(found.basis, previous)) is not None:
        matrix = _bordered(matrix, found.basis, vector, hessian(vector))
        blocks.append(vector[None])
    decomposition = symmetric_eigen(matrix)
    if decomposition is None:
        return None
    values, vectors = decomposition
    slopes = vectors.T @ torch.cat([block @ hessian.gradient for block in blocks]).double()

    def lift(along: Tensor) -> Tensor:
        parts = (vectors @ along).to(hessian.gradient.dtype).split([len(block) for block in blocks])
        return torch.stack([part @ block for part, block in zip(parts, blocks, strict=True)]).sum(
            dim=0
        )

    return Spectrum(values, slopes, lift)


def _outside(basis: Tensor, vector: Tensor) -> Tensor | None:
    """The direction in which a vector leaves the space, of unit length; None if it hardly does."""
    length = vector.norm()
    for _ in range(2):  # twice is enough for orthogonality to round-off
        vector = vector - (basis @ vector) @ basis
    return vector / vector.norm() if bool(vector.norm() > 1e-3 * length) else None


def _bordered(matrix: Tensor, basis: Tensor, vector: Tensor, image: Tensor) -> Tensor:
    """V H V' with one more row and column, those of the direction whose product is `image`."""
    column = (basis @ image)[:, None].double()
    corner = (vector @ image).reshape(1, 1).double()
    return torch.cat([torch.cat([matrix, column], dim=1), torch.cat([column.T, corner], dim=1)])
