"""Problems on which step sizes have a closed form, and a plain loop to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.method import Method
from tests.optimizers.cases import Identity, Problem, Scalar, mlp


def function(start: Sequence[float], value: Callable[[Tensor], Tensor]) -> Problem:
    """A function of a vector, its own mini-batch."""
    return Problem(Scalar(start, value), Identity(), torch.zeros(1, 1), torch.zeros(1))


def bowl(start: Sequence[float] = (3.0, -4.0), scale: float = 1.0, lowest: float = 0.0) -> Problem:
    """lowest + scale |x|^2 / 2."""
    return function(start, lambda x: lowest + scale * x @ x / 2)


def classification(examples: int = 40) -> Problem:
    torch.manual_seed(0)
    model = mlp((6, 8, 3)).double()
    return Problem(
        model,
        nn.CrossEntropyLoss(),
        torch.randn(examples, 6).double(),
        torch.randint(3, (examples,)),
    )


def separable(examples: int = 30, dimension: int = 80) -> Problem:
    """Logistic regression with more parameters than examples: the loss tends to zero."""
    torch.manual_seed(0)
    model = nn.Linear(dimension, 2).double()
    inputs = torch.randn(examples, dimension).double()
    return Problem(model, nn.CrossEntropyLoss(), inputs, torch.randint(2, (examples,)))


def interpolating(examples: int = 20, dimension: int = 50) -> Problem:
    """Least squares with more parameters than examples: one solution fits all mini-batches."""
    torch.manual_seed(0)
    model = nn.Linear(dimension, 1, bias=False).double()
    return Problem(
        model,
        nn.MSELoss(),
        torch.randn(examples, dimension).double(),
        torch.randn(examples, 1).double(),
    )


def batches(problem: Problem, steps: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(len(problem.inputs), generator=generator)[:size] for _ in range(steps)]
    return [(problem.inputs[index], problem.targets[index]) for index in chosen]


def run(
    problem: Problem, method: Method, data: list[tuple[Tensor, Tensor]], l2: float = 0.0
) -> list[float]:
    """The losses before the steps on these mini-batches."""
    objective: Objective = problem.objective(l2)
    return [float(method.step(objective.on(*batch))) for batch in data]


def full(problem: Problem, steps: int) -> list[tuple[Tensor, Tensor]]:
    return [(problem.inputs, problem.targets)] * steps


def evaluated(problem: Problem, batch: tuple[Tensor, Tensor], l2: float = 0.0) -> Tensor:
    """A mini-batch's loss by plain torch, `.grad` filled."""
    for parameter in problem.params:
        parameter.grad = None
    with torch.enable_grad():
        squares = torch.stack([p.square().sum() for p in problem.params]).sum()
        loss = problem.loss_fn(problem.model(batch[0]), batch[1]) + l2 / 2 * squares
        loss.backward()
    return loss.detach()


def vector(problem: Problem) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in problem.params])


def slope(problem: Problem) -> Tensor:
    return torch.cat(
        [
            torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1)
            for p in problem.params
        ]
    )


def put(problem: Problem, theta: Tensor) -> None:
    with torch.no_grad():
        nn.utils.vector_to_parameters(theta, problem.params)
