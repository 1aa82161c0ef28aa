"""Problems and loops for the methods that treat weights as matrices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from tests.optimizers.cases import Problem, mlp


def linear_layers(*sizes: int, bias: bool = False, dtype: torch.dtype = torch.float64) -> Problem:
    """A regression by a network without biases, on 64 examples.

    Square layers have gradients of full rank.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), nn.Tanh()]
    inputs, targets = (
        torch.randn(64, sizes[0], dtype=dtype),
        torch.randn(64, sizes[-1], dtype=dtype),
    )
    return Problem(nn.Sequential(*layers[:-1]).to(dtype), nn.MSELoss(), inputs, targets)


def kernels(dtype: torch.dtype = torch.float64) -> Problem:
    """A regression by two convolutions and a linear layer, without biases."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, bias=False),
        nn.Flatten(),
        nn.Linear(16, 4, bias=False),
    )
    return Problem(
        model.to(dtype),
        nn.MSELoss(),
        torch.randn(64, 3, 5, 5, dtype=dtype),
        torch.randn(64, 4, dtype=dtype),
    )


def classifier(dtype: torch.dtype = torch.float64) -> Problem:
    """A classification by four layers with biases."""
    torch.manual_seed(0)
    model = mlp((5, 6, 6, 6, 4)).to(dtype)
    return Problem(
        model, nn.CrossEntropyLoss(), torch.randn(64, 5, dtype=dtype), torch.randint(4, (64,))
    )


def batches(problem: Problem, steps: int, size: int = 24) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches, the same for every problem."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randperm(len(problem.inputs), generator=generator)[:size]
        yield problem.inputs[chosen], problem.targets[chosen]


def train(problem: Problem, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Steps of an optimizer that takes an objective; the losses."""
    objective = problem.objective()
    return [float(optimizer.step(objective.on(*batch))) for batch in batches(problem, steps)]  # type: ignore[arg-type]


def train_by_hand(problem: Problem, step: Callable[[], object], steps: int) -> None:
    """The same batches; `step` finds the gradients in the parameters."""
    objective = problem.objective()
    for batch in batches(problem, steps):
        objective.on(*batch)()
        with torch.no_grad():
            step()


def distance(one: Problem, other: Problem) -> float:
    """The largest difference of two models' parameters, relative to each parameter's largest
    entry."""
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(one.params, other.params, strict=True)
    )
