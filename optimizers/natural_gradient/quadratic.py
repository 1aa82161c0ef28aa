"""The best combination of a few directions under a quadratic model of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def best_combination(
    product: Callable[[Tensor], Tensor], gradient: Tensor, directions: Sequence[Tensor]
) -> tuple[list[float], float] | None:
    """The coefficients x that minimise q(D x) = g'D x + x'D'C D x / 2, and q there (not positive).

    Martens and Grosse (2015), section 7: with the update and the last step as directions this
    replaces the learning rate and the momentum. One product with C a direction. The small system is
    solved by its pseudo-inverse in float64, so that parallel directions do no harm. None if a
    number in it is not finite.
    """
    images = [product(direction) for direction in directions]
    curved = torch.stack(
        [torch.stack([d @ image for image in images]) for d in directions]
    ).double()
    slope = torch.stack([d @ gradient for d in directions]).double()
    if not bool(torch.isfinite(curved).all() and torch.isfinite(slope).all()):
        return None
    curved = (curved + curved.T) / 2
    lengths = curved.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    scaled = curved / lengths / lengths[:, None]
    found = -torch.linalg.pinv(scaled, rtol=1e-10, hermitian=True) @ (slope / lengths)
    return (found / lengths).tolist(), float(found @ (slope / lengths)) / 2
