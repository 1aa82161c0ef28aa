"""LocoProp against the local least-squares problems, solved with the examples in hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.natural_gradient import LocoProp
from tests.optimizers.cases import ExampleMSE, Problem, TiedEmbedding, close, mlp


def classifier() -> Problem:
    torch.manual_seed(0)
    return Problem(
        mlp((5, 7, 4)).double(),
        nn.CrossEntropyLoss(),
        torch.randn(9, 5).double(),
        torch.randint(4, (9,)),
    )


def convolutional() -> Problem:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()
    return Problem(
        model, ExampleMSE(), torch.randn(6, 2, 3, 3).double(), torch.randn(6, 2).double()
    )


PROBLEMS = {"mlp": classifier, "convolution": convolutional}


def recorded(problem: Problem) -> dict[str, tuple[Tensor, Tensor]]:
    """What each layer sees, a row for each position, with a one for the bias, and the gradient of
    an example's loss."""
    twin, seen = copy.deepcopy(problem), {}

    def hook(name: str) -> Any:
        def keep(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            output.retain_grad()
            seen[name] = (inputs[0].detach(), output)

        return keep

    for name, layer in twin.model.named_children():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(hook(name))
    twin.loss_fn(twin.model(twin.inputs), twin.targets).backward()
    rows = {}
    for name, (value, output) in seen.items():
        layer = twin.model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            value = F.unfold(value, layer.kernel_size).mT.flatten(0, 1)
        slope = output.grad.flatten(2).mT.flatten(0, 1) if output.ndim == 4 else output.grad
        rows[name] = (
            torch.cat([value, torch.ones(len(value), 1, dtype=value.dtype)], 1),
            len(twin.inputs) * slope,
        )
    return rows


def whole(layer: Any) -> Tensor:
    """Weight and bias as one matrix."""
    return torch.cat([layer.weight.detach().flatten(1), layer.bias.detach()[:, None]], 1)


def fitted(
    rows: Tensor, slopes: Tensor, start: Tensor, gamma: float, damping: float, examples: int
) -> Tensor:
    """The minimum of 1/2 mean |W abar - t|^2 + damping/2 |W - W_0|^2 by least squares on the
    examples themselves."""
    targets = rows @ start.T - gamma * slopes
    pull = damping**0.5 * torch.eye(rows.shape[1], dtype=rows.dtype)
    left = torch.cat([rows / examples**0.5, pull])
    right = torch.cat([targets / examples**0.5, pull @ start.T])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution.T


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_each_layer_goes_to_the_minimum_of_its_own_problem(name: str, damping: float) -> None:
    problem = PROBLEMS[name]()
    seen = recorded(problem)
    before = {key: whole(problem.model.get_submodule(key)) for key in seen}
    optimizer = LocoProp(problem.model.named_parameters(), lr=0.7, momentum=0.0, damping=damping)
    optimizer.step(problem.objective())
    for key, (rows, slopes) in seen.items():
        expected = fitted(rows, slopes, before[key], 0.7, damping, len(problem.inputs))
        close(whole(problem.model.get_submodule(key)) - before[key], expected - before[key])
    assert set(optimizer.layer_coverage().values()) == {"locoprop"}


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_kfacs_step_without_the_output_factor(name: str) -> None:
    """W' (A + damping I)^{-1} with A the mini-batch's own.

    One backward step in the metric of the inputs.
    """
    problem = PROBLEMS[name]()
    seen = recorded(problem)
    before = {key: whole(problem.model.get_submodule(key)) for key in seen}
    LocoProp(problem.model.named_parameters(), lr=1.0, momentum=0.0, damping=0.3).step(
        problem.objective()
    )
    for key, (rows, slopes) in seen.items():
        count = len(problem.inputs)
        matrix = rows.T @ rows / count + 0.3 * torch.eye(rows.shape[1], dtype=rows.dtype)
        step = torch.linalg.solve(matrix, rows.T @ slopes / count).T
        close(before[key] - whole(problem.model.get_submodule(key)), step)


def by_gradient_steps(
    problem: Problem, seen: dict[str, tuple[Tensor, Tensor]], count: int
) -> dict[str, Tensor]:
    """Gradient steps on each layer's local loss, by autograd through the examples."""
    results = {}
    for key, (rows, slopes) in seen.items():
        start = whole(problem.model.get_submodule(key))
        targets, weight = rows @ start.T - 0.7 * slopes, start.clone().requires_grad_()
        matrix = rows.T @ rows / len(problem.inputs) + 0.3 * torch.eye(
            rows.shape[1], dtype=rows.dtype
        )
        for _ in range(count):
            fit = (rows @ weight.T - targets).square().sum() / (2 * len(problem.inputs))
            loss = fit + 0.15 * (weight - start).square().sum()
            (slope,) = torch.autograd.grad(loss, weight)
            weight = (weight - slope / matrix.abs().sum(1).max()).detach().requires_grad_()
        results[key] = weight.detach()
    return results


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_steps_are_those_on_the_local_losses(name: str, steps: int) -> None:
    """The first is a step along the layer's own gradient."""
    problem = PROBLEMS[name]()
    seen = recorded(problem)
    expected = by_gradient_steps(problem, seen, steps)
    options = {"lr": 0.7, "momentum": 0.0, "damping": 0.3, "local": "gd", "local_steps": steps}
    LocoProp(problem.model.named_parameters(), **options).step(problem.objective())
    for key in seen:
        close(whole(problem.model.get_submodule(key)), expected[key])


@pytest.mark.parametrize("max_dim", [None, 1])
def test_many_gradient_steps_are_the_exact_solution(max_dim: int | None) -> None:
    ends = []
    for options in ({"local": "exact"}, {"local": "gd", "local_steps": 3000}):
        problem = classifier()
        LocoProp(problem.model.named_parameters(), damping=0.3, max_dim=max_dim, **options).step(
            problem.objective()
        )
        ends.append(torch.cat([p.detach().flatten() for p in problem.params]))
    close(*ends)


@pytest.mark.parametrize("steps", [None, 1, 4])
def test_a_diagonal_is_that_of_the_inputs_squares(steps: int | None) -> None:
    """U = W' / (a + damping), or gradient steps on it, from U = 0, of the length 1 / max(a +
    damping)."""
    problem = classifier()
    seen, before = recorded(problem), whole(problem.model[0])
    options: dict[str, Any] = {} if steps is None else {"local": "gd", "local_steps": steps}
    method = LocoProp(
        problem.model.named_parameters(), lr=0.2, damping=0.3, max_dim=1, momentum=0.0, **options
    )
    method.step(problem.objective())
    rows, slopes = seen["0"]
    entries, gradient = rows.square().mean(0) + 0.3, slopes.T @ rows / len(rows)
    local = gradient / entries if steps is None else torch.zeros_like(gradient)
    for _ in range(steps or 0):
        local = local - (local * entries - gradient) / entries.max()
    close(whole(problem.model[0]), before - 0.2 * local)


def test_the_unit_of_the_loss_does_not_matter() -> None:
    ends = []
    for loss_fn in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")):
        problem = classifier()
        problem.loss_fn = loss_fn
        optimizer = LocoProp(problem.model.named_parameters())
        for _ in range(5):
            optimizer.step(problem.objective())
        ends.append(torch.cat([p.detach().flatten() for p in problem.params]))
    close(*ends)


def test_embeddings_and_tied_weights_go_to_the_fallback() -> None:
    model = TiedEmbedding()
    optimizer = LocoProp(model.named_parameters(), fallback="sgd")
    tokens = torch.randint(5, (2, 4))
    optimizer.step(Problem(model, nn.CrossEntropyLoss(), tokens, tokens).objective())
    assert optimizer.layer_coverage() == {
        "embedding.weight": "sgd",
        "hidden.weight": "locoprop",
        "hidden.bias": "locoprop",
    }
