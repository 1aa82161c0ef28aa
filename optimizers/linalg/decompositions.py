"""Matrix decompositions that report failure instead of raising."""

from __future__ import annotations

import torch
from torch import Tensor


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n) in float64; None if matrix or result is not finite."""
    if not bool(torch.isfinite(matrix).all()):
        return None
    try:
        values, vectors = torch.linalg.eigh(matrix.double())
    except RuntimeError:  # torch's LinAlgError
        return None
    return (values, vectors) if bool(torch.isfinite(values).all()) else None


def inverse_positive(matrix: Tensor, attempts: int = 5) -> Tensor | None:
    """The inverse of a positive definite matrix by Cholesky, with a growing multiple of the identity if it is not.

    The first attempt adds nothing; then 1e-8, 1e-6, ... of the mean diagonal. None if all fail or the matrix is not
    finite.
    """
    if not bool(torch.isfinite(matrix).all()):
        return None
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    unit = float(matrix.diagonal().mean().abs())
    for attempt in range(attempts):
        jitter = 0.0 if attempt == 0 else unit * 1e-10 * 100**attempt
        factor, failed = torch.linalg.cholesky_ex(matrix + jitter * identity)
        if int(failed) == 0:
            return torch.cholesky_inverse(factor)
    return None


def shifted_cholesky(matrix: Tensor, beta: float = 1e-3, attempts: int = 100) -> tuple[Tensor, float] | None:
    r"""The Cholesky factor L of `matrix + tau I` in float64, and tau: zero if the matrix is positive definite itself.

    Nocedal and Wright (2006), Algorithm 3.3: with b = beta * max_ij |a_ij| (beta itself for a zero matrix) the first
    tau is 0 if every diagonal entry is positive, else b - min_i a_ii; after a failure tau becomes max(2 tau, b). Two
    differences: their b does not follow the size of the matrix, and here a factor whose pivot is lost in the rounding
    of its diagonal entry (l_ii^2 <= n eps (a_ii + tau), eps that of the matrix's type) counts as a failure, so that a
    singular matrix is shifted. Neither the test nor its answer changes when rows and columns are scaled alike.

    Cost: n^3 / 3 multiplications a shift, and there are about log2(1 / beta) of them at most. None if the matrix is not
    finite.
    """
    if not bool(torch.isfinite(matrix).all()):
        return None
    resolution = len(matrix) * torch.finfo(matrix.dtype).eps
    matrix = matrix.double()
    step, smallest = beta * (float(matrix.abs().max()) or 1.0), float(matrix.diagonal().min())
    tau = 0.0 if smallest > 0 else step - smallest
    for _ in range(attempts):
        shifted = matrix.clone()
        shifted.diagonal().add_(tau)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if int(failed) == 0 and bool((factor.diagonal() ** 2 > resolution * shifted.diagonal()).all()):
            return factor, tau
        tau = max(2 * tau, step)
    return None
