"""Known values of the functions and of logistic regression."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from tasks.functions.function import FunctionTask
from tasks.functions.quadratic import Quadratic
from tasks.functions.rosenbrock import Rosenbrock
from tasks.regression.logistic import Logistic


def value_at(task: FunctionTask, point: Tensor) -> float:
    model = task.model(0)
    with torch.no_grad():
        next(model.parameters()).copy_(point)
    return task.evaluate(model, "val")["gap"]


def loss_of(task: FunctionTask, model: nn.Module, step: int = 0) -> Tensor:
    inputs, targets = next(task.batches("train", seed=0, start=step))
    loss: Tensor = task.loss_fn(model(inputs), targets)
    return loss


def test_rosenbrock_start_and_minimum() -> None:
    task = Rosenbrock(dimension=2, spread=0)
    assert task.evaluate(task.model(0), "val")["gap"] == pytest.approx(24.2, rel=1e-12)
    assert value_at(task, torch.ones(2)) == 0
    assert float(loss_of(task, task.model(1)).detach()) == pytest.approx(24.2, rel=1e-12)


def test_rosenbrock_in_ten_dimensions_has_a_second_minimum() -> None:
    task = Rosenbrock(dimension=10)
    model = task.model(0)
    x = next(model.parameters())
    with torch.no_grad():
        x.fill_(1)
        x[0] = -1
    optimizer = torch.optim.LBFGS(
        [x], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(task, model)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert task.evaluate(model, "val")["gap"] == pytest.approx(3.9866, abs=1e-4)
    assert float(x[0].detach()) == pytest.approx(-1, abs=0.02)


def test_rosenbrock_spread_moves_the_start() -> None:
    task = Rosenbrock(dimension=4, spread=0.1)
    start = next(task.model(0).parameters()).detach()
    assert 0 < float((start - torch.tensor([-1.2, 1, -1.2, 1])).abs().max()) < 0.5


@pytest.mark.parametrize("spectrum", ["log", "linear", "clustered"])
def test_quadratic_has_its_spectrum_and_its_optimum(spectrum: str) -> None:
    task = Quadratic(dimension=20, condition=500, spectrum=spectrum)
    eigenvalues = torch.linalg.eigvalsh(task.hessian)
    torch.testing.assert_close(eigenvalues, task.eigenvalues.sort().values)
    assert float(eigenvalues[-1]) == pytest.approx(1, rel=1e-10)
    assert float(eigenvalues[-1] / eigenvalues[0]) == pytest.approx(500, rel=1e-8)
    assert value_at(task, task.optimum) == 0


def test_quadratic_loss_gradient_and_curvature_are_those_of_its_formula() -> None:
    task = Quadratic(dimension=7, condition=10)
    model = task.model(2)
    x = next(model.parameters())
    away = x.detach() - task.optimum
    loss = loss_of(task, model)
    torch.testing.assert_close(loss.detach(), away @ task.hessian @ away / 2)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(gradient.detach(), task.hessian @ away)
    (product,) = torch.autograd.grad(gradient @ away, x)
    torch.testing.assert_close(product, task.hessian @ away)


def test_quadratic_noise_has_the_shape_of_the_hessian() -> None:
    task = Quadratic(dimension=4, condition=20, noise=0.5, batch_size=2)
    model = task.model(0)
    x = next(model.parameters())
    exact = task.hessian @ (x.detach() - task.optimum)
    errors = []
    for inputs, targets in islice(task.batches("train", seed=1), 8000):
        (gradient,) = torch.autograd.grad(task.loss_fn(model(inputs), targets), x)
        errors.append(gradient - exact)
    covariance = torch.stack(errors).T.cov()
    torch.testing.assert_close(covariance, 0.5**2 * task.hessian / 2, atol=0.008, rtol=0)
    assert task.evaluate(model, "val") == Quadratic(dimension=4, condition=20).evaluate(
        model, "val"
    )


def test_quadratic_is_fixed_by_its_problem_seed() -> None:
    first, again, other = Quadratic(), Quadratic(), Quadratic(problem_seed=1)
    assert torch.equal(first.root, again.root)
    assert not torch.allclose(first.root, other.root)


def test_logistic_minimum_is_stationary_and_its_gap_is_zero() -> None:
    task = Logistic(l2=0.01)
    model = task.model(0)
    assert task.evaluate(model, "val")["gap"] > 0.1
    weight, bias = model.parameters()
    with torch.no_grad():
        weight.copy_(task.optimum[None, :-1])
        bias.copy_(task.optimum[-1:])
    inputs, targets = next(task.batches("train", seed=0))
    loss = task.loss_fn(model(inputs), targets) + task.l2 / 2 * (
        weight.square().sum() + bias.square().sum()
    )
    gradient = torch.autograd.grad(loss, [weight, bias])
    assert max(float(part.abs().max()) for part in gradient) < 1e-14
    for split in ("train", "val", "test"):
        assert task.evaluate(model, split)["gap"] < 1e-14
    assert task.evaluate(model, "test")["accuracy"] > 0.9


def test_logistic_inputs_are_standardised_on_the_training_split() -> None:
    inputs, _ = Logistic().splits["train"]
    torch.testing.assert_close(inputs.mean(0), torch.zeros(30, dtype=torch.float64))
    torch.testing.assert_close(inputs.std(0), torch.ones(30, dtype=torch.float64))


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (Rosenbrock, {"dimension": 1}, "dimension must be at least 2, got 1"),
        (Rosenbrock, {"spread": -1.0}, "spread must be at least 0, got -1.0"),
        (Quadratic, {"dimension": 1}, "dimension must be at least 2, got 1"),
        (Quadratic, {"condition": 0.5}, "condition must be at least 1, got 0.5"),
        (Quadratic, {"noise": -1}, "noise must be at least 0, got -1"),
        (Quadratic, {"batch_size": 0}, "batch_size must be above 0, got 0"),
        (
            Quadratic,
            {"spectrum": "flat"},
            "spectrum must be one of log, linear, clustered, got 'flat'",
        ),
        (Logistic, {"l2": 0}, "l2 must be above 0, got 0"),
        (Logistic, {"test_size": 569}, "test_size must be between 1 and 568, got 569"),
        (Logistic, {"val_size": 0}, "val_size must be between 1 and 468, got 0"),
    ],
)
def test_bad_values_are_named(task: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)
