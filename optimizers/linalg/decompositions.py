"""Matrix decompositions that report failure instead of raising."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.phases import phased

# eigenvalues below this share of the largest one are zero as far as their eigenvectors go
NULL = 1e-8


def fix_null_space(values: Tensor, vectors: Tensor) -> Tensor:
    """Eigenvectors (..., n, n) with a basis of the null space that rounding does not choose.

    The eigenvalues (..., n) are ascending. A second moment of fewer gradients than dimensions says
    nothing of the rest, and what `eigh` returns there is made by rounding: other vectors on another
    number of processes, between which methods that work in this basis drift apart. Here the vectors
    of the null space are those that diagonalise diag(1, ..., n) within it.
    """
    fixed = vectors.clone()
    size = values.shape[-1]
    ramp = torch.arange(1, size + 1, dtype=vectors.dtype, device=vectors.device)
    flat = fixed.view(-1, size, size)
    for number, lost in enumerate((values <= NULL * values[..., -1:]).sum(-1).flatten().tolist()):
        if lost > 1:
            null = flat[number, :, :lost]
            pair = symmetric_eigen(null.mT @ (ramp[:, None] * null))
            if pair is not None:
                flat[number, :, :lost] = null @ pair[1].to(null)
    return fixed


@phased("inverse")
def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues (n,), ascending, and eigenvectors (n, n) in float64; None if not finite."""
    if not bool(torch.isfinite(matrix).all()):
        return None
    try:
        values, vectors = torch.linalg.eigh(matrix.double())
    except RuntimeError:  # torch's LinAlgError
        return None
    return (values, vectors) if bool(torch.isfinite(values).all()) else None


@phased("inverse")
def inverse_positive(matrix: Tensor, attempts: int = 5) -> Tensor | None:
    """The inverse of a positive definite matrix by Cholesky.

    The first attempt adds nothing; the next ones add 1e-8, 1e-6, ... of the mean diagonal, times
    the identity. None if all fail or the matrix is not finite.
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


@phased("inverse")
def inverses_positive(matrices: Sequence[Tensor]) -> list[Tensor | None]:
    """`inverse_positive` of many matrices (..., d, d), those of equal size in one call."""
    results: list[Tensor | None] = [None] * len(matrices)
    for indices in _equal(matrices):
        stack = torch.cat([matrices[i].reshape(-1, *matrices[i].shape[-2:]) for i in indices])
        factors, failed = torch.linalg.cholesky_ex(stack)
        inverted = torch.cholesky_inverse(factors)
        bad = (failed != 0) | ~torch.isfinite(inverted.sum((-2, -1)))
        for position in bad.nonzero().flatten().tolist():
            single = inverse_positive(stack[position])
            inverted[position] = torch.nan if single is None else single
        parts = inverted.split([matrices[i].shape[:-2].numel() for i in indices])
        for i, part in zip(indices, parts, strict=True):
            results[i] = (
                _own(part.view_as(matrices[i])) if bool(torch.isfinite(part.sum())) else None
            )
    return results


@phased("inverse")
def symmetric_eigens(matrices: Sequence[Tensor]) -> list[tuple[Tensor, Tensor] | None]:
    """Eigenvalues (..., d), ascending, and eigenvectors (..., d, d) of many matrices.

    Those of equal size take one call. Computed in float64 and returned in each matrix's own
    precision; None where a matrix is not finite or has none.
    """
    results: list[tuple[Tensor, Tensor] | None] = [None] * len(matrices)
    finite = [bool(torch.isfinite(matrix).all()) for matrix in matrices]
    for indices in _equal(matrices):
        chosen = [i for i in indices if finite[i]]
        if not chosen:
            continue
        stack = torch.cat(
            [matrices[i].reshape(-1, *matrices[i].shape[-2:]) for i in chosen]
        ).double()
        try:
            values, vectors = torch.linalg.eigh(stack)
        except RuntimeError:  # one of them has no decomposition: find out which
            for i in chosen:
                results[i] = _one_by_one(matrices[i])
            continue
        counts = [matrices[i].shape[:-2].numel() for i in chosen]
        for i, w, v in zip(chosen, values.split(counts), vectors.split(counts), strict=True):
            single = w.reshape(matrices[i].shape[:-1]), v.view_as(matrices[i])
            results[i] = (_own(single[0].to(matrices[i])), _own(single[1].to(matrices[i])))
    return results


def _one_by_one(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    pairs = [symmetric_eigen(single) for single in matrix.reshape(-1, *matrix.shape[-2:])]
    good = [pair for pair in pairs if pair is not None]
    if len(good) < len(pairs):
        return None
    values, vectors = (torch.stack(parts) for parts in zip(*good, strict=True))
    return values.reshape(matrix.shape[:-1]).to(matrix), vectors.view_as(matrix).to(matrix)


def _own(part: Tensor) -> Tensor:
    """A part of a stack as a tensor of its own, row by row.

    Products with a copy then have the same bits.
    """
    return part.clone(memory_format=torch.contiguous_format)


def _equal(matrices: Sequence[Tensor]) -> list[list[int]]:
    """The indices of the matrices, those of equal size and precision together."""
    groups: dict[tuple[int, torch.dtype], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault((matrix.shape[-1], matrix.dtype), []).append(i)
    return list(groups.values())


@phased("inverse")
def shifted_cholesky(
    matrix: Tensor, beta: float = 1e-3, attempts: int = 100
) -> tuple[Tensor, float] | None:
    r"""The Cholesky factor L of `matrix + tau I` in float64, and tau, 0 where that is enough.

    Nocedal and Wright (2006), Algorithm 3.3: with b = beta * max_ij |a_ij| (beta itself for a zero
    matrix) the first tau is 0 if every diagonal entry is positive, else b - min_i a_ii; after a
    failure tau becomes max(2 tau, b). Two differences: their b does not follow the size of the
    matrix, and here a factor whose pivot is lost in the rounding of its diagonal entry (l_ii^2 <= n
    eps (a_ii + tau), eps that of the matrix's type) counts as a failure, so that a singular matrix
    is shifted. Neither the test nor its answer changes when rows and columns are scaled alike.

    Cost: n^3 / 3 multiplications a shift, and there are about log2(1 / beta) of them at most. None
    if the matrix is not finite.
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
        if int(failed) == 0 and bool(
            (factor.diagonal() ** 2 > resolution * shifted.diagonal()).all()
        ):
            return factor, tau
        tau = max(2 * tau, step)
    return None
