"""The full regression, in all of the space or in a few directions that turn towards the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.online.moments import Kept, average_outer
from optimizers.online.regression import Estimate, estimate, rotated

SMALL = 1e-3  # the directions begin as uniform numbers up to this


def prepare(kept: Kept, size: int, variance: float, like: Tensor) -> None:
    """Moments of `size` directions.

    The points' covariance begins as a multiple of the identity, the other at zero.
    """
    kept["points"] = variance * torch.eye(size, dtype=like.dtype, device=like.device)
    kept["cross"] = torch.zeros_like(kept["points"])


def directions(kept: Kept, size: int, seed: int, like: Tensor) -> None:
    """Random directions (size, n), the same on every device and rank."""
    generator = torch.Generator().manual_seed(seed)
    kept["basis"] = (
        SMALL * torch.rand(size, len(like), generator=generator, dtype=torch.float64)
    ).to(like)


def turn(kept: Kept, gradient: Tensor, rate: float) -> Tensor:
    """The basis (d, n), turned towards the gradient."""
    kept["basis"] = rotated(kept["basis"], gradient, rate)
    basis: Tensor = kept["basis"]
    return basis


def regress(
    kept: Kept, apart: Tensor, gradient_apart: Tensor, beta: float, floor: float
) -> Estimate | None:
    """Take deviations (k,) from the old means into the moments; what Hessian they make."""
    points = average_outer(kept["points"], apart, apart, beta)
    return estimate(points, average_outer(kept["cross"], gradient_apart, apart, beta), floor)


def shares(found: Estimate, div: float, cut: float, floor: float) -> dict[str, float]:
    """Of all eigenvectors.

    Those along which points vary less than the floor, of negative or cut curvature.
    """
    marks = {
        "degenerate_share": found.variances <= floor,
        "negative_share": found.values < 0,
        "cut_share": div * found.values.abs() <= cut,
    }
    return {name: float(mark.double().mean()) for name, mark in marks.items()}
