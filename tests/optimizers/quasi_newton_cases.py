"""Functions and methods for the quasi-Newton tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tests.optimizers.cases import Identity, Problem, Scalar

ZERO = torch.zeros(1, 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spd(size: int, condition: float = 100.0, seed: int = 0) -> Tensor:
    basis, _ = torch.linalg.qr(normal(size, size, seed=seed))
    return (basis * torch.logspace(0, np.log10(condition), size, dtype=torch.float64)) @ basis.T


def scalar(start: list[float], function: Callable[[Tensor], Tensor]) -> Problem:
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])
