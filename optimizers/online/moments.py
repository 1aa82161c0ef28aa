"""Exponential averages of points, gradients and their second moments, for lists of tensors at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Kept = dict[str, Any]
Tensors = list[Tensor]


def begin(kept: Kept, point: Tensor, gradient: Tensor, at_start: bool) -> None:
    """Make a tensor's three averages, momentum and two means.

    Zeros, or the first gradient and point.
    """
    for key, first in (("momentum", gradient), ("mean", point), ("mean_gradient", gradient)):
        value = first if at_start else torch.zeros_like(first)
        kept[key] = value.detach().clone(memory_format=torch.preserve_format)


def follow(
    kept: Sequence[Kept], points: Tensors, gradients: Tensors, beta: float, gamma: float
) -> tuple[Tensors, Tensors]:
    """Momentum += gamma (g - momentum), mean += beta (x - mean), for points and gradients.

    Returns how far point and gradient are from their means before; from the new ones it is 1 - beta
    times that.
    """
    torch._foreach_lerp_([one["momentum"] for one in kept], gradients, gamma)
    return _follow(kept, "mean", points, beta), _follow(kept, "mean_gradient", gradients, beta)


def _follow(kept: Sequence[Kept], key: str, values: Tensors, beta: float) -> Tensors:
    means = [one[key] for one in kept]
    apart = list(torch._foreach_sub(values, means))
    torch._foreach_add_(means, apart, alpha=beta)
    return apart


def weight(beta: float) -> float:
    """Of a product of deviations from the means before, so that it is beta times that from the means after."""
    return beta * (1 - beta) ** 2


def average_products(
    kept: Sequence[Kept], key: str, first: Tensors, second: Tensors, beta: float
) -> Tensors:
    """Moment += beta (d d' - moment), entry by entry, d and d' the deviations from the new means; the moments."""
    moments = [one[key] for one in kept]
    torch._foreach_mul_(moments, 1 - beta)
    torch._foreach_addcmul_(moments, first, second, value=weight(beta))
    return moments


def average_outer(moment: Tensor, first: Tensor, second: Tensor, beta: float) -> Tensor:
    """The same for vectors (k,) whose outer product goes into a matrix (k, k)."""
    return moment.mul_(1 - beta).addr_(first, second, alpha=weight(beta))


def smallest(moments: Tensors) -> float:
    """The smallest entry."""
    return float(torch.stack([one.amin() for one in moments if one.numel()]).amin())
