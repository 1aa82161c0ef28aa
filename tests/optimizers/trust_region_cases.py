"""Functions and matrices for the tests of trust regions."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(size: int, seed: int) -> Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.T
