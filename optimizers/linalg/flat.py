"""Lists of tensors seen as one flat vector, in the order of the list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate tensors into one vector of shape (n,)."""
    tensors = list(tensors)
    require_strided(tensors)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def require_strided(tensors: Iterable[Tensor]) -> None:
    """Raise UnsupportedError for a sparse tensor.

    A method that treats all numbers alike would make it dense silently.
    """
    if any(tensor.layout is not torch.strided for tensor in tensors):
        raise UnsupportedError(
            "sparse gradients are not supported here: use nn.Embedding(..., sparse=False), or "
            "SparseAdam"
        )


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a vector (n,), or of rows (k, n), with the shapes of `like` (and a leading k)."""
    sizes = [tensor.numel() for tensor in like]
    parts = vector.split(sizes, dim=-1)
    return [
        part.reshape(vector.shape[:-1] + tensor.shape)
        for part, tensor in zip(parts, like, strict=True)
    ]


def add_(tensors: Sequence[Tensor], vector: Tensor, alpha: float = 1.0) -> None:
    """Tensors += alpha * vector, in place."""
    for tensor, part in zip(tensors, unflatten(vector, tensors), strict=True):
        tensor.add_(part, alpha=alpha)
