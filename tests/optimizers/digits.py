"""The 8 x 8 digits: an autoencoder and a classifier that a method has to train faster than momentum
does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from sklearn.datasets import load_digits

from tests.optimizers.cases import ExampleBCE, Problem, mlp

Builder = Callable[[Iterable[Any]], torch.optim.Optimizer]


def autoencoder() -> Problem:
    """Six tanh layers, cross-entropy summed over the pixels."""
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    torch.manual_seed(0)
    return Problem(mlp((64, 40, 20, 8, 20, 40, 64)), ExampleBCE(), images, images)


def trained(build: Builder, steps: int = 300, batch: int = 256) -> float:
    """The loss on all images after some steps on random mini-batches, the same ones for every
    method."""
    problem = autoencoder()
    optimizer = build(problem.model.named_parameters())
    objective = problem.objective(generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        index = torch.randint(len(problem.inputs), (batch,), generator=draws)
        optimizer.step(objective.on(problem.inputs[index], problem.targets[index]))  # type: ignore[arg-type]
    return float(problem.objective().value())


def momentum(lr: float) -> Builder:
    return partial(torch.optim.SGD, lr=lr, momentum=0.9)


@cache
def best_of_momentum(steps: int = 300) -> float:
    """Momentum at the best of three learning rates around its optimum."""
    return min(trained(momentum(lr), steps) for lr in (0.06, 0.1, 0.17))
