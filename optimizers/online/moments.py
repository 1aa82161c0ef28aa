"""Exponential averages of points, gradients and their second moments, for lists of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Averages = dict[str, Any]
Tensors = list[Tensor]


def begin(averages: Averages, point: Tensor, gradient: Tensor, at_start: bool) -> None:
    """Create a tensor's momentum and two means: zeros, or the first gradient and point."""
    for key, first in (("momentum", gradient), ("mean", point), ("mean_gradient", gradient)):
        value = first if at_start else torch.zeros_like(first)
        averages[key] = value.detach().clone(memory_format=torch.preserve_format)


def follow(
    averages: Sequence[Averages], points: Tensors, gradients: Tensors, beta: float, gamma: float
) -> tuple[Tensors, Tensors]:
    """Update momentum += gamma (g - momentum) and the means += beta (x - mean), x theta or g.

    Returns the deviations of point and gradient from their old means; those from the new means are
    1 - beta times as large.
    """
    torch._foreach_lerp_([one["momentum"] for one in averages], gradients, gamma)
    return _follow(averages, "mean", points, beta), _follow(
        averages, "mean_gradient", gradients, beta
    )


def _follow(averages: Sequence[Averages], key: str, values: Tensors, beta: float) -> Tensors:
    means = [one[key] for one in averages]
    deviations = list(torch._foreach_sub(values, means))
    torch._foreach_add_(means, deviations, alpha=beta)
    return deviations


def weight(beta: float) -> float:
    """The weight of deviations from old means, so that those from new means have weight beta."""
    return beta * (1 - beta) ** 2


def average_products(
    averages: Sequence[Averages], key: str, first: Tensors, second: Tensors, beta: float
) -> Tensors:
    """Update the moments += beta (d d' - moment) with deviations d, d' from the new means."""
    moments = [one[key] for one in averages]
    torch._foreach_mul_(moments, 1 - beta)
    torch._foreach_addcmul_(moments, first, second, value=weight(beta))
    return moments


def average_outer(moment: Tensor, first: Tensor, second: Tensor, beta: float) -> Tensor:
    """Update a matrix (k, k) of moments with the outer product of two vectors (k,)."""
    return moment.mul_(1 - beta).addr_(first, second, alpha=weight(beta))


def smallest(moments: Tensors) -> float:
    """The smallest entry of all moments."""
    return float(torch.stack([one.amin() for one in moments if one.numel()]).amin())
