"""Damped linear least squares: one decomposition for any number of dampings."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.phases import phased

FORMS = ("auto", "svd", "primal", "dual")
SMALL = 300  # the shorter side up to which the singular value decomposition costs next to nothing
WORST_CONDITION = 1e8  # of a Gram matrix: eight of float64's sixteen digits are left


class DampedLeastSquares:
    r"""d(mu) = argmin |J d + r|^2 / 2 + mu |D d|^2 / 2 for any mu >= 0 and r, in float64.

    D = diag(scales). With A = J D^{-1} there are three ways to write D d = -(A'A + mu I)^{-1} A'r,
    each decomposed once:

        svd      A = U S V':     -V S (S^2 + mu)^{-1} U' r    singular values below the cut are 0
        primal   A'A = V E V':   -V (E + mu)^{-1} V' A' r     n x n, the normal equations
        dual     AA' = U E U':   -A' U (E + mu)^{-1} U' r     m x m, the kernel form

    `svd` has the accuracy of a QR decomposition of [A; sqrt(mu) I] and, for mu = 0, gives the
    least-squares solution of minimum norm |D d| whatever the rank. The Gram matrices square the
    condition number, so they serve only while (max E + mu) / (min E + mu) is below 1e8, and `svd`
    steps in beyond. `auto` is `svd` up to a shorter side of 300, then the smaller Gram matrix,
    which is two to five times cheaper.

    Cost: m n min(m, n) flops times a small factor for the decomposition, at most 4 m n for a
    solution. Memory beside J: three times its 8 m n bytes and five times 8 min(m, n)^2 (`svd`), or
    once and four times (`primal`, `dual`).

    Args:
        jacobian: J (m, n), finite.
        scales: the diagonal of D (n,), positive; None for the identity.
        form: one of `auto`, `svd`, `primal`, `dual`.
        cut: singular values up to this share of the largest count as zero.
    """

    def __init__(
        self, jacobian: Tensor, scales: Tensor | None = None, form: str = "auto", cut: float = 0.0
    ) -> None:
        self.scales = None if scales is None else scales.double()
        self.matrix = jacobian.double() if self.scales is None else jacobian.double() / self.scales
        self.form = _chosen(form, *jacobian.shape)
        self.cut = cut

    @phased("inverse")
    def solve(self, damping: float, residuals: Tensor) -> Tensor | None:
        """The step d (n,) in float64; None when the decomposition fails."""
        scaled = self._by_gram(damping, residuals.double())
        if scaled is None:
            scaled = self._by_svd(damping, residuals.double())
        if scaled is None:
            return None
        return scaled if self.scales is None else scaled / self.scales

    def length(self, step: Tensor) -> float:
        """|D d|, the norm that the damping penalises."""
        return float((step if self.scales is None else step * self.scales).norm())

    @cached_property
    def largest(self) -> float:
        """The largest diagonal entry of A'A, the unit of a damping."""
        return float(self.matrix.square().sum(0).max())

    @property
    def rank(self) -> int:
        """The number of singular values above the cut; 0 when the decomposition fails."""
        return 0 if self._svd is None else int((self._svd[1] > self.cut * self._svd[1].max()).sum())

    def _by_svd(self, damping: float, residuals: Tensor) -> Tensor | None:
        if self._svd is None:
            return None
        left, values, right = self._svd
        counted = values > self.cut * values.max()
        # no square can overflow
        filters = torch.where(counted, 1 / (values + damping / values), 0.0)
        return -(filters * (residuals @ left)) @ right

    def _by_gram(self, damping: float, residuals: Tensor) -> Tensor | None:
        if self.form == "svd" or self._eigen is None:
            return None
        values, vectors = self._eigen
        smallest, largest = float(values[0]) + damping, float(values[-1]) + damping
        if not 0 < largest <= WORST_CONDITION * smallest:
            return None
        if self.form == "primal":
            return -vectors @ ((residuals @ self.matrix @ vectors) / (values + damping))
        return -(vectors @ ((residuals @ vectors) / (values + damping))) @ self.matrix

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor] | None:
        try:
            left, values, right = torch.linalg.svd(self.matrix, full_matrices=False)
        except RuntimeError:  # torch's LinAlgError
            return None
        return (left, values, right) if bool(torch.isfinite(values).all()) else None

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor] | None:
        matrix = self.matrix
        return symmetric_eigen(matrix.T @ matrix if self.form == "primal" else matrix @ matrix.T)


def _chosen(form: str, rows: int, columns: int) -> str:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if form != "auto":
        return form
    if min(rows, columns) <= SMALL:
        return "svd"
    return "primal" if columns <= rows else "dual"
