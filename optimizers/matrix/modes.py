"""Products and Gram matrices of stacked tensors along one of their modes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Matrices = Mapping[int, Tensor]


def unfold(tensors: Tensor, mode: int) -> Tensor:
    """Tensors (k, d_0, ..., d_r) as matrices (k, d_mode, rest); often a view."""
    order = tensors.ndim - 1
    if order == 2:
        return tensors.mT if mode else tensors
    if mode == 0:
        return tensors.reshape(*tensors.shape[:2], -1)
    if mode == order - 1:
        return tensors.flatten(1, -2).mT
    return tensors.movedim(mode + 1, 1).flatten(2)


def add_gram(total: Tensor, tensors: Tensor, mode: int, keep: float, new: float) -> None:
    """Set total (k, d, d) to keep total + new T_(mode) T_(mode)', in place."""
    unfolded = unfold(tensors, mode)
    total.baddbmm_(unfolded, unfolded.mT, beta=keep, alpha=new)


def times(tensors: Tensor, matrices: Tensor, mode: int) -> Tensor:
    """Each matrix (k, d, d) applied to its tensor along a mode."""
    order = tensors.ndim - 1
    if order == 2:  # the common case: the views of the others cost as much as a small product
        return torch.bmm(tensors, matrices.mT) if mode else torch.bmm(matrices, tensors)
    if mode == 0:
        return (matrices @ unfold(tensors, 0)).view_as(tensors)
    if mode == order - 1:
        return (tensors.flatten(1, -2) @ matrices.mT).view_as(tensors)
    moved = tensors.movedim(mode + 1, 1)
    return (matrices @ moved.flatten(2)).view_as(moved).movedim(1, mode + 1)


def times_all(tensors: Tensor, matrices: Matrices, *, transposed: bool = False) -> Tensor:
    """Each mode's matrix applied along the mode; a mode without one stays unchanged."""
    for mode, each in matrices.items():
        tensors = times(tensors, each.mT if transposed else each, mode)
    return tensors


def along(vectors: Tensor, order: int, mode: int) -> Tensor:
    """Vectors (k, d) shaped so that they multiply tensors (k, d_0, ..., d_order) along a mode."""
    shape = [1] * order
    shape[mode] = vectors.shape[1]
    return vectors.view(len(vectors), *shape)
