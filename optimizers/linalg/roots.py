"""Inverse roots, orthogonal factors and eigenbases of stacks of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.linalg.decompositions import NULL, symmetric_eigen
from optimizers.phases import phased

QUINTIC = (3.4445, -4.7750, 2.0315)


@phased("inverse")
def stacked_eigen(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (k, n), ascending, and eigenvectors (k, n, n) of symmetric matrices.

    The third result says which of them are good, (k,). The decomposition is in the matrices' own
    type; one that fails is repeated in float64. Where
    that fails too, or the matrix is not finite, the answer is the identity's.
    """
    good = torch.isfinite(matrices).flatten(1).all(1)
    if not bool(good.all()):
        identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
        matrices = torch.where(good[:, None, None], matrices, identity)
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except RuntimeError:  # torch's LinAlgError: at least one of them failed
        return _one_by_one(matrices, good)
    return values, vectors, good


def _one_by_one(matrices: Tensor, good: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pairs = [symmetric_eigen(matrix) for matrix in matrices]
    one = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    values = torch.stack([one[0] * 0 + 1 if each is None else each[0].to(one) for each in pairs])
    vectors = torch.stack([one if each is None else each[1].to(one) for each in pairs])
    return (
        values,
        vectors,
        good & torch.tensor([each is not None for each in pairs], device=good.device),
    )


@phased("inverse")
def inverse_roots(matrices: Tensor, exponent: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""(A + eps I)^{-exponent} of positive semi-definite A (k, n, n); their condition numbers.

    Eigenvalues of A below the rounding of its type, relative to the largest, are noise and count as
    that rounding. The decomposition is in their own type too: a finer one would only resolve the
    noise. Cost: about 9 n^3 for each. Also returned is which of them are good (k,).
    """
    values, vectors, good = stacked_eigen(matrices)
    resolution = torch.finfo(matrices.dtype).eps * values[:, -1:].clamp(min=0)
    values = torch.maximum(values, resolution) + eps
    roots = (vectors * values.pow(-exponent)[:, None, :]) @ vectors.mT
    return roots, values[:, -1] / values[:, 0], good


def conditions(largest: Tensor, smallest: Tensor) -> Tensor:
    """Condition numbers from the outermost eigenvalues, at most one over the type's rounding."""
    limits = torch.finfo(largest.dtype)
    return (largest / torch.maximum(smallest, limits.eps * largest).clamp(min=limits.tiny)).clamp(
        min=1
    )


@phased("inverse")
def power_step(matrices: Tensor, bases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One power iteration from approximate eigenbases of A, both (k, n, n), followed by QR.

    A is shifted by 1e-8 of its largest eigenvalue. In float64 this decides where the columns go
    that the image of a singular A leaves to rounding: to what is left of where they were. In
    float32 it is itself below the rounding.

    Columns come by falling Rayleigh quotient diag(Q' A Q); also returned are those (k, n), sorted,
    and the order (k, n) that sorts them: column j of the answer continues column order[j] of what
    was given. Cost: 2 n^3 for the product, 8/3 n^3 for QR.
    """
    images = torch.bmm(matrices, bases)
    quotients, order = (bases * images).sum(-2).sort(dim=-1, descending=True)
    images = images + (NULL * quotients[:, :1, None]) * bases
    images = images.gather(-1, order[:, None, :].expand_as(images))
    return torch.linalg.qr(images)[0], quotients, order


def newton_schulz(
    matrices: Tensor,
    steps: int = 5,
    coefficients: tuple[float, float, float] = QUINTIC,
    eps: float = 1e-7,
) -> Tensor:
    r"""Roughly the orthogonal factors U V' of matrices U S V' (..., m, n), in their own type.

    X_0 = G / |G|_F and `steps` times X <- a X + (b X X' + c (X X')^2) X. With the usual
    coefficients a singular value does not converge to 1 but lands between about 0.7 and 1.2 from
    wherever it began, small ones included (Jordan et al., 2024). Cost for m <= n, tall ones being
    transposed: steps (4 m^2 n + 2 m^3) operations.
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    shape = x.shape
    x = x.reshape(-1, *shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.view(shape)
    return x.mT if tall else x
