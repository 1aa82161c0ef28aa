"""The Hessian's eigenvalues and the gradient along its eigenvectors, in a space or a subspace."""

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
    """The Hessian within a space of k dimensions.

    Attributes:
        values: its eigenvalues (k,), in float64.
        slopes: the gradient's coordinates (k,) along the eigenvectors, in float64.
        lift: maps coordinates (k,) along the eigenvectors to a flat vector (n,).
    """

    values: Tensor
    slopes: Tensor
    lift: Callable[[Tensor], Tensor]

    def absolute(self, damping: float) -> Tensor:
        """The damped absolute eigenvalues (k,), raised above rounding so that they can divide."""
        curvatures = self.values.abs() + damping
        smallest = (
            torch.finfo(torch.float64).eps * float(self.values.abs().max())
            + torch.finfo(torch.float64).tiny
        )
        return curvatures.clamp(min=smallest)

    def change(self, along: Tensor) -> float:
        """The quadratic model's change of the loss for a step of coordinates (k,)."""
        return float(self.slopes @ along + self.values @ along**2 / 2)


@phased("inverse")
def exact_spectrum(hessian: Curvature) -> Spectrum | None:
    """The spectrum of the whole Hessian, at n products; None if it is not finite."""
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
    """The spectrum in the Krylov space of gradient and previous step, or None if not finite."""
    process = lanczos(hessian, hessian.gradient, dimensions)
    if not isfinite(process.residual):
        return None
    blocks, matrix = [process.basis], process.matrix()
    if previous is not None and (vector := _outside(process.basis, previous)) is not None:
        matrix = _bordered(matrix, process.basis, vector, hessian(vector))
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
    """The unit vector of a vector's part outside the space; None if that part is tiny."""
    length = vector.norm()
    for _ in range(2):  # twice is enough for orthogonality to round-off
        vector = vector - (basis @ vector) @ basis
    return vector / vector.norm() if bool(vector.norm() > 1e-3 * length) else None


def _bordered(matrix: Tensor, basis: Tensor, vector: Tensor, image: Tensor) -> Tensor:
    """The matrix V H V' with a row and column more, for the vector whose product is `image`."""
    column = (basis @ image)[:, None].double()
    corner = (vector @ image).reshape(1, 1).double()
    return torch.cat([torch.cat([matrix, column], dim=1), torch.cat([column.T, corner], dim=1)])
