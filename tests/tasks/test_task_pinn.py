"""Forward derivatives, and Poisson's equation as a least squares problem."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from optimizers import Objective
from tasks.physics.jets import JetNet
from tasks.physics.pinn_poisson import PinnPoisson, solution

torch.set_num_threads(1)
Weights = list[Tensor]


def plain(weights: Weights, point: Tensor) -> Tensor:
    """The same network without derivatives: the last column of each weight is the bias."""
    for depth, weight in enumerate(weights):
        point = F.linear(torch.tanh(point) if depth else point, weight[:, :-1], weight[:, -1])
    return point.squeeze(-1)


def weights_of(model: nn.Module) -> Weights:
    return [parameter.detach() for parameter in model.parameters()]


def small(**arguments: object) -> PinnPoisson:
    return PinnPoisson(**{"hidden": [6], "interior": 25, "boundary": 12, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("hidden", [[7], [6, 5], [5, 4, 6]])
def test_jet_equals_torch_func(hidden: list[int], dimension: int) -> None:
    torch.manual_seed(len(hidden))
    model = JetNet(dimension, hidden).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    points = torch.randn(9, dimension, dtype=torch.float64)
    weights = weights_of(model)
    jet = model(points)
    second = vmap(jacrev(jacrev(plain, argnums=1), argnums=1), in_dims=(None, 0))(weights, points)
    scale = float(second.abs().max())
    torch.testing.assert_close(jet[:, 0], plain(weights, points), atol=1e-12, rtol=1e-12)
    first = vmap(grad(plain, argnums=1), in_dims=(None, 0))(weights, points)
    torch.testing.assert_close(jet[:, 1:-1], first, atol=1e-12, rtol=1e-12)
    laplacian = second.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(jet[:, -1], laplacian, atol=1e-12 * max(1.0, scale), rtol=1e-12)


def test_loss_is_the_mean_inside_plus_the_mean_on_the_boundary() -> None:
    task = PinnPoisson()
    model = task.model(0)
    weights = weights_of(model)
    assert sum(weight.numel() for weight in weights) == 129
    inputs, targets = next(task.batches("train", 0))
    inside, edge = inputs[inputs[:, 2] == 0, :2], inputs[inputs[:, 2] == 1, :2]
    second = vmap(jacrev(jacrev(plain, argnums=1), argnums=1), in_dims=(None, 0))(weights, inside)
    source = 2 * math.pi**2 * torch.sin(math.pi * inside[:, 0]) * torch.sin(math.pi * inside[:, 1])
    expected = (second.diagonal(dim1=1, dim2=2).sum(1) + source).square().mean() + plain(
        weights, edge
    ).square().mean()
    torch.testing.assert_close(
        task.loss_fn(model(inputs), targets).detach(), expected, rtol=1e-12, atol=0
    )


def test_source_is_minus_the_laplacian_of_the_solution() -> None:
    points = torch.rand(5, 2, dtype=torch.float64)
    second = vmap(jacrev(jacrev(lambda point: solution(point[None]).squeeze())))(points)
    laplacian = second.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(laplacian, -2 * math.pi**2 * solution(points))


def test_grid_is_regular_inside_and_around() -> None:
    inputs, targets = PinnPoisson().splits["train"]
    inside, edge = inputs[inputs[:, 2] == 0, :2], inputs[inputs[:, 2] == 1, :2]
    assert (len(inside), len(edge)) == (900, 120)
    assert not targets.any()
    torch.testing.assert_close(inside.unique(), torch.arange(1, 31, dtype=torch.float64) / 31)
    assert len(inside.unique(dim=0)) == 900
    steps = (edge - edge.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(steps, torch.full((120,), 4 / 120, dtype=torch.float64))
    assert bool(((edge == 0) | (edge == 1)).any(dim=1).all())
    assert edge.min() == 0
    assert edge.max() == 1


def test_random_points_follow_the_problem_seed() -> None:
    first, again, other = (
        small(points="random", problem_seed=seed).splits["train"][0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    inside, edge = first[first[:, 2] == 0, :2], first[first[:, 2] == 1, :2]
    assert (len(inside), len(edge)) == (25, 12)
    assert 0 < float(inside.min()) < float(inside.max()) < 1
    assert bool(((edge == 0) | (edge == 1)).any(dim=1).all())


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_relative_error_of_a_constant_has_its_closed_form(constant: float) -> None:
    task = small()
    model = task.model(0)
    head = list(model.parameters())[-1]
    with torch.no_grad():
        head.zero_()[:, -1] = constant
    mean, square = 4 / math.pi**2, 1 / 4  # of the solution over the unit square
    expected = math.sqrt((constant**2 - 2 * constant * mean + square) / square)
    for split in ("train", "val", "test"):
        assert task.evaluate(model, split)["relative_error"] == pytest.approx(expected, rel=2e-4)


def test_mini_batches_estimate_the_loss_without_bias() -> None:
    task = small(interior=36, boundary=24, batch_size=10)
    model = task.model(0)
    with torch.no_grad():
        parts = [task.loss_fn(model(x), y) for x, y in islice(task.batches("train", 0), 6)]
        whole = task.loss_fn(model(task.splits["train"][0]), task.splits["train"][1])
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_objective_gives_jacobian_and_gauss_newton() -> None:
    task = small(hidden=[5, 4])
    model = task.model(1)
    inputs, targets = next(task.batches("train", 0))
    objective = Objective(model, task.loss_fn, inputs, targets)
    residuals, jacobian = objective.jacobian()
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    rows = jacrev(lambda params: functional_call(model, params, (inputs,))[:, 0])(named)
    dense = torch.cat([part.flatten(1) for part in rows.values()], dim=1) * math.sqrt(
        2 / len(inputs)
    )
    torch.testing.assert_close(jacobian, dense)
    torch.testing.assert_close(residuals.square().sum() / 2, objective.value())
    vector = torch.randn(dense.shape[1], dtype=torch.float64)
    torch.testing.assert_close(objective.ggn()(vector), dense.T @ (dense @ vector))


def test_captured_layers_give_the_gradient() -> None:
    task = small(hidden=[5, 4])
    objective = Objective(task.model(0), task.loss_fn, *next(task.batches("train", 0)))
    with objective.capture() as captured:
        objective()
    assert len(captured) == 3
    for layer, record in captured.items():
        ((value, gradient),) = record.uses()
        assert value.shape[:2] == (37, 4)
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        torch.testing.assert_close(torch.einsum("nso,nsi->oi", gradient, value), weight.grad)


def test_levenberg_marquardt_solves_the_equation() -> None:
    task = PinnPoisson(hidden=[20], interior=196, boundary=60)
    model = task.model(0)
    inputs, _ = next(task.batches("train", 0))
    named = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def residual(params: dict[str, Tensor], example: Tensor) -> Tensor:
        return functional_call(model, params, (example[None],)).squeeze()

    damping = 1e-2
    for _ in range(200):
        rows = vmap(grad(residual), in_dims=(None, 0))(named, inputs)
        jacobian = torch.cat([part.flatten(1) for part in rows.values()], dim=1)
        errors = functional_call(model, named, (inputs,))[:, 0]
        normal = jacobian.T @ jacobian + damping * torch.eye(jacobian.shape[1], dtype=torch.float64)
        step = -torch.linalg.solve(normal, jacobian.T @ errors)
        parts = step.split([value.numel() for value in named.values()])
        trial = {
            name: value + part.view_as(value)
            for (name, value), part in zip(named.items(), parts, strict=True)
        }
        better = functional_call(model, trial, (inputs,)).square().sum() < errors.square().sum()
        named, damping = (trial, damping / 3) if better else (named, damping * 4)
    model.load_state_dict(named)
    assert task.evaluate(model, "test")["relative_error"] < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": []}, "hidden must be a list of at least one number above 0"),
        ({"points": "sobol"}, "points must be one of grid, random, got 'sobol'"),
        ({"interior": 24}, "interior must be a square number for points=grid, got 24"),
        ({"boundary": 10}, "boundary must be a multiple of 4 for points=grid, got 10"),
        ({"interior": 0}, "interior must be at least 1, got 0"),
        ({"boundary": 0, "points": "random"}, "boundary must be at least 1, got 0"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)
