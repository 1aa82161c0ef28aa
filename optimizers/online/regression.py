"""A Hessian from the regression of gradients on points, and its step by absolute eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optimizers.linalg.decompositions import symmetric_eigen


@dataclass(frozen=True)
class Estimate:
    """The regression's Hessian in a space of k dimensions.

    Attributes:
        values: the eigenvalues (k,), in float64.
        vectors: the eigenvectors (k, k), in float64.
        variances: the eigenvalues (k,) of the points' covariance, before the floor.
    """

    values: Tensor
    vectors: Tensor
    variances: Tensor

    @property
    def matrix(self) -> Tensor:
        """The Hessian itself, (k, k)."""
        return (self.vectors * self.values) @ self.vectors.T

    def step(self, gradient: Tensor, div: float, cut: float) -> Tensor:
        """The step |H|^-1 g with eigenvalues max(div |l|, cut), for a gradient (k,) of any type."""
        rates = (div * self.values.abs()).clamp(min=cut)
        return (self.vectors @ ((self.vectors.T @ gradient.double()) / rates)).to(gradient)


def estimate(covariance: Tensor, cross: Tensor, floor: float) -> Estimate | None:
    """The symmetric H of the best fit, which solves H C + C H = B + B'.

    C = cov(theta, theta) and B = cov(g, theta), both (k, k). With C = V diag(e) V',
    H = V [(V' (B + B') V)_ij / (e_i + e_j)] V', the e raised to `floor`: H is zero along directions
    without motion of the points. None if a moment is not finite.
    """
    points = symmetric_eigen(covariance)
    if points is None:
        return None
    variances, vectors = points
    raised = variances.clamp(min=floor)
    twice = vectors.T @ (cross + cross.T).double() @ vectors
    hessian = symmetric_eigen(vectors @ (twice / (raised[:, None] + raised)) @ vectors.T)
    return None if hessian is None else Estimate(*hessian, variances)


def rotated(basis: Tensor, gradient: Tensor, rate: float) -> Tensor:
    """The rows v + rate g of a basis (d, n), orthonormalised in order (Gram-Schmidt)."""
    factor, triangle = torch.linalg.qr((basis + rate * gradient).T)
    signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    turned: Tensor = (factor * signs).T.contiguous()
    return turned
