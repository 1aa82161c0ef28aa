"""The full regression, in the whole space or in directions that turn towards the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from optimizers.online.moments import Averages, average_outer
from optimizers.online.regression import Estimate, estimate, rotated

SMALL = 1e-3  # the directions begin as uniform numbers up to this


def prepare(averages: Averages, size: int, variance: float, like: Tensor) -> None:
    """Create the moments of `size` directions: `variance` times I for points, zero across."""
    averages["points"] = variance * torch.eye(size, dtype=like.dtype, device=like.device)
    averages["cross"] = torch.zeros_like(averages["points"])


def directions(averages: Averages, size: int, seed: int, like: Tensor) -> None:
    """Create random directions (size, n), the same on every device and rank."""
    generator = torch.Generator().manual_seed(seed)
    averages["basis"] = (
        SMALL * torch.rand(size, len(like), generator=generator, dtype=torch.float64)
    ).to(like)


def turn(averages: Averages, gradient: Tensor, rate: float) -> Tensor:
    """Turn the basis (d, n) towards the gradient and return it."""
    averages["basis"] = rotated(averages["basis"], gradient, rate)
    basis: Tensor = averages["basis"]
    return basis


def regress(
    averages: Averages, deviation: Tensor, gradient_deviation: Tensor, beta: float, floor: float
) -> Estimate | None:
    """Update the moments with deviations (k,) from the old means; return the Hessian."""
    points = average_outer(averages["points"], deviation, deviation, beta)
    return estimate(
        points, average_outer(averages["cross"], gradient_deviation, deviation, beta), floor
    )


def shares(hessian: Estimate, div: float, cut: float, floor: float) -> dict[str, float]:
    """The shares of eigenvectors with a variance below the floor, a negative or a cut curvature."""
    marks = {
        "degenerate_share": hessian.variances <= floor,
        "negative_share": hessian.values < 0,
        "cut_share": div * hessian.values.abs() <= cut,
    }
    return {name: float(mark.double().mean()) for name, mark in marks.items()}
