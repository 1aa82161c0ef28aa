"""Problems for Levenberg-Marquardt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tests.optimizers.cases import Problem, Residuals

SCALINGS = ("identity", "diagonal", "running_maximum")
FORMS = ("svd", "primal", "dual")


def nonlinear(start: Sequence[float], residuals: Callable[[Tensor], Tensor]) -> Problem:
    """The loss |residuals(x)|^2."""
    count = len(residuals(torch.tensor(start, dtype=torch.float64)))
    targets = torch.zeros(1, count, dtype=torch.float64)
    return Problem(
        Residuals(start, residuals), nn.MSELoss(reduction="sum"), torch.zeros(1, 1), targets
    )


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def walled(x: Tensor) -> Tensor:
    """Finite at the start (2,) alone."""
    return torch.where(x.detach() == 2.0, x, x + float("nan"))
