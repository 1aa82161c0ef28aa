"""Gradients with their graph, and the loss with its own.

What they are, what they count, what becomes of the graph.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.distributed import SingleProcess
from optimizers.linalg.flat import flatten, unflatten
from tests.optimizers.cases import Problem, mlp


def problem() -> Problem:
    torch.manual_seed(0)
    inputs = torch.randn(12, 4, dtype=torch.float64)
    return Problem(mlp((4, 5, 3)).double(), nn.CrossEntropyLoss(), inputs, torch.randint(3, (12,)))


def product(objective: Objective, vector: Tensor) -> Tensor:
    """H v by differentiating what lies in `.grad`."""
    gradients = [p.grad for p in objective.params]
    return flatten(
        torch.autograd.grad(gradients, objective.params, unflatten(vector, objective.params))
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{}, {"l2": 0.1}, {"parts": 3}, {"clip": 0.1}], ids=str)
def test_the_gradients_are_the_closures_and_their_derivative_is_the_hessian(
    settings: dict[str, float],
) -> None:
    case = problem()
    objective = case.objective(**settings)
    loss = objective()
    gradient = objective.gradient()
    vector = torch.randn_like(gradient)
    expected = objective.hessian()(vector)
    before = dict(objective.counts)

    with objective.differentiable() as evaluate:
        assert torch.equal(evaluate(), loss)
        torch.testing.assert_close(objective.gradient().detach(), gradient, rtol=0, atol=1e-15)
        torch.testing.assert_close(product(objective, vector), expected, rtol=1e-10, atol=1e-12)
    assert all(p.grad is not None and p.grad.grad_fn is None for p in case.params)
    assert {
        name: objective.counts[name] - before.get(name, 0) for name in ("value", "grad", "hvp")
    } == {"value": 1, "grad": 1, "hvp": 1}


def test_every_pass_through_the_graph_is_counted() -> None:
    objective = problem().objective()
    with objective.differentiable() as evaluate:
        evaluate()
        gradients = [p.grad for p in objective.params]
        for _ in range(3):
            probes = [torch.randn_like(p) for p in objective.params]
            torch.autograd.grad(gradients, objective.params, probes, retain_graph=True)  # type: ignore[arg-type]
    assert objective.counts["hvp"] == 3


def test_the_graph_is_dropped_when_something_goes_wrong() -> None:
    objective = problem().objective()

    def fail() -> None:
        with objective.differentiable() as evaluate:
            evaluate()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(p.grad is not None and p.grad.grad_fn is None for p in objective.params)


def test_an_unused_parameter_has_no_gradient() -> None:
    case = problem()
    case.model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    objective = Objective(case.model, case.loss_fn, case.inputs, case.targets)
    with objective.differentiable() as evaluate:
        evaluate()
        assert case.model.unused.grad is None


def test_the_loss_with_its_graph_counts_a_gradient_for_each_pass() -> None:
    case = problem()
    objective = case.objective(l2=0.1)
    expected = objective()
    gradient = objective.gradient()
    case.model.zero_grad()
    loss = objective.attached()
    assert torch.equal(loss.detach(), expected)
    assert dict(objective.counts) == {"value": 2, "grad": 1}
    loss.backward(retain_graph=True)
    torch.testing.assert_close(objective.gradient(), gradient, rtol=0, atol=1e-15)
    loss.backward()
    assert dict(objective.counts) == {"value": 2, "grad": 3}


class Two(SingleProcess):
    size = 2


def test_a_share_of_the_work_has_no_graph_of_the_whole() -> None:
    objective = problem().objective(ranks=Two())
    with pytest.raises(UnsupportedError, match="run it in one process"):
        objective.attached()
    with pytest.raises(UnsupportedError, match="run it in one process"), objective.differentiable():
        pass
