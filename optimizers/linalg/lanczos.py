"""The Lanczos process: an orthonormal Krylov basis in which a symmetric map is tridiagonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, nan

import torch
from torch import Tensor

from optimizers.linalg.curvature import Product
from optimizers.phases import phased

Stop = Callable[["Lanczos"], bool]


@dataclass(frozen=True)
class Lanczos:
    """A symmetric A in a Krylov space: A V' = V' T + residual * q e_k'.

    q is a unit vector orthogonal to the rows of V.

    Attributes:
        basis: V, (k, n), orthonormal rows, in the precision of the start; the first is the start's
            direction.
        diagonal: of T, (k,), float64.
        off_diagonal: of T, (k-1,), float64.
        residual: |A V' - V' T|, zero up to round-off where the space is invariant; NaN where a
            product was not finite.
    """

    basis: Tensor
    diagonal: Tensor
    off_diagonal: Tensor
    residual: float

    def matrix(self) -> Tensor:
        """T = V A V', (k, k), float64."""
        off = self.off_diagonal
        return torch.diag(self.diagonal) + torch.diag(off, 1) + torch.diag(off, -1)

    def eigen(self) -> tuple[Tensor, Tensor]:
        """The Ritz values (k,), ascending, and the eigenvectors of T in columns (k, k), float64.

        `eigenvectors.T @ basis` are the Ritz vectors; Ritz pair j misses A's by `residual *
        |eigenvectors[-1, j]|`.
        """
        values, vectors = torch.linalg.eigh(self.matrix())
        return values, vectors

    def lift(self, coefficients: Tensor) -> Tensor:
        """The vector (n,) with these coefficients (k,) in the basis."""
        return coefficients.to(self.basis.dtype) @ self.basis


@phased("inverse")
def lanczos(
    product: Product,
    start: Tensor,
    iterations: int,
    tolerance: float | None = None,
    stop: Stop | None = None,
) -> Lanczos:
    """The Lanczos process with full re-orthogonalisation (Golub and Van Loan, section 10.3).

    Each new vector is orthogonalised twice against all earlier ones, so the basis is orthonormal to
    round-off and no eigenvalue appears twice; the textbook's three-term recurrence alone loses that
    as soon as a Ritz value converges.

    Cost: a product and 8 k n operations in step k. Memory: `min(iterations, n)` rows of n floats.

    Args:
        product: v -> A v for a symmetric A.
        start: the first direction, (n,), of any length but zero.
        iterations: the largest k; more than n are never made.
        tolerance: the space counts as invariant when the residual is at most this share of the
            largest entry of T; by default 100 units of round-off.
        stop: looks at what there is after each step and says whether it is enough.

    Raises:
        ValueError: the start is zero or not finite, or there is no iteration to make.
    """
    vector, largest = _unit(start), 0.0
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    share = 100 * torch.finfo(start.dtype).eps if tolerance is None else tolerance
    basis = start.new_empty(min(iterations, len(start)), len(start))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        count = len(diagonal)
        basis[count] = vector
        image = product(vector)
        entry = float(vector @ image)
        image = _orthogonalised(image, basis[: count + 1])
        residual = float(image.norm())
        if not (isfinite(entry) and isfinite(residual)):
            return _result(basis, diagonal, off_diagonal[: max(0, count - 1)], nan)
        diagonal.append(entry)
        process = _result(basis, diagonal, off_diagonal, residual)
        largest = max(largest, abs(entry))
        if (
            count + 1 == len(basis)
            or residual <= share * largest
            or (stop is not None and stop(process))
        ):
            return process
        off_diagonal.append(residual)
        largest = max(largest, residual)
        vector = image / residual


def _unit(start: Tensor) -> Tensor:
    length = float(start.norm())
    if not (isfinite(length) and length > 0):
        raise ValueError(
            f"lanczos needs a start of finite, positive length, got |start| = {length}"
        )
    return start / length


def _orthogonalised(vector: Tensor, basis: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to the rows of the basis.

    Two passes are enough (Kahan; Parlett, 1980).
    """
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    return vector


def _result(
    basis: Tensor, diagonal: list[float], off_diagonal: list[float], residual: float
) -> Lanczos:
    entries = [
        torch.tensor(part, dtype=torch.float64, device=basis.device)
        for part in (diagonal, off_diagonal)
    ]
    return Lanczos(basis[: len(diagonal)], entries[0], entries[1], residual)
