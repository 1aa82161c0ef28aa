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
