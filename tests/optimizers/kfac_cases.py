"""A network of equal layers for the tests of K-FAC's options, and what they read off it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimizers.linalg.flat import flatten
from tests.optimizers.cases import Problem, mlp

STILL: dict[str, object] = {"lr": 0.0, "fallback_lr": 0.0}


def flat(problem: Problem) -> Tensor:
    return flatten(problem.params).detach()


def stack(layers: int = 5, examples: int = 6) -> Problem:
    """A network with this many layers of equal shape."""
    torch.manual_seed(0)
    model = mlp((4,) * (layers + 1)).double()
    return Problem(
        model,
        nn.CrossEntropyLoss(),
        torch.randn(examples, 4).double(),
        torch.randint(4, (examples,)),
    )


def weights(problem: Problem) -> list[Tensor]:
    return [layer.weight for layer in problem.model if isinstance(layer, nn.Linear)]
