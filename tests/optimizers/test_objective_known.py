"""What an objective remembers, reports and evaluates away from the parameters."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.linalg.flat import flatten
from tests.optimizers.cases import CASES, COUPLED, LOSSES, RANDOM, Problem, Reference, close


def moved(problem: Problem, step: Tensor) -> Problem:
    twin = copy.deepcopy(problem)
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(flatten(twin.params) + step, twin.params)
    return twin


def small_step(problem: Problem) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.1 * torch.randn(
        sum(p.numel() for p in problem.params), generator=generator, dtype=torch.float64
    )


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_here_and_elsewhere(name: str) -> None:
    problem = CASES[name]()
    step = small_step(problem)
    here, other = Reference(problem, 0.1), Reference(moved(problem, step), 0.1)
    other.random_state = here.random_state
    before = [p.detach().clone() for p in problem.params]
    objective = problem.objective(0.1)
    for reference, offset in ((here, None), (other, step), (here, None)):
        loss, gradient = objective.value_and_gradient(offset)
        close(loss, reference.loss(reference.theta))
        close(gradient, reference.gradient(), 1e-9)
        assert not loss.requires_grad
        assert not gradient.requires_grad
    assert all(p.grad is None for p in problem.params)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.params, strict=True))
    assert dict(objective.counts) == {"value": 3, "grad": 3}


@pytest.mark.parametrize("name", CASES)
def test_a_move_with_what_is_known_saves_the_next_evaluation(name: str) -> None:
    problem = CASES[name]()
    objective, step = problem.objective(), small_step(problem)
    loss, gradient = objective.value_and_gradient(step)
    objective.move(step, loss, gradient)
    following = objective.on(problem.inputs, problem.targets)
    again, slope = following.value_and_gradient()
    if name in RANDOM | COUPLED:  # another mask, or running statistics that have to move
        assert objective.counts["value"] == 2
    else:
        assert objective.counts["value"] == 1
        assert again is loss
        assert slope is gradient
        fresh = problem.objective().value_and_gradient()
        assert torch.equal(fresh[0], loss)
        assert torch.equal(fresh[1], gradient)


def test_what_is_known_ends_with_another_batch_or_another_point() -> None:
    problem = LOSSES["mlp_ce"]()
    objective, step = problem.objective(), small_step(problem)
    known = objective.value_and_gradient(step)
    objective.move(step, *known)
    other = objective.on(problem.inputs.clone(), problem.targets)
    assert other.value_and_gradient()[0] is not known[0]
    with torch.no_grad():
        problem.params[0].add_(1)
    close(objective.value_and_gradient()[0], problem.objective().value())
    assert objective.counts["grad"] == 3
    objective.move(step)
    assert objective.value_and_gradient()[0] is not known[0]


def test_what_is_known_survives_a_checkpoint() -> None:
    problem = LOSSES["mlp_ce"]()
    objective, step = problem.objective(), small_step(problem)
    objective.move(step, *objective.value_and_gradient(step))
    file = io.BytesIO()
    torch.save({"model": problem.model.state_dict(), "objective": objective.state_dict()}, file)
    expected = objective.value_and_gradient()

    twin = LOSSES["mlp_ce"]()
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    twin.model.load_state_dict(state["model"])
    resumed = twin.objective()
    resumed.load_state_dict(state["objective"])
    again = resumed.on(twin.inputs, twin.targets).value_and_gradient()
    assert torch.equal(again[0], expected[0])
    assert torch.equal(again[1], expected[1])
    assert resumed.counts == objective.counts
    resumed.on(twin.inputs + 1, twin.targets).value_and_gradient()
    assert resumed.counts["grad"] == objective.counts["grad"] + 1


@pytest.mark.parametrize("ask", ["__call__", "value_and_gradient", "hessian", "ggn", "jacobian"])
def test_an_observer_hears_of_every_gradient_at_the_parameters(ask: str) -> None:
    heard: list[tuple[Tensor, Tensor]] = []
    problem = LOSSES["mlp_mse"]()
    objective = problem.objective(
        0.1, observer=lambda loss, gradient: heard.append((loss, gradient))
    )
    reference = Reference(problem, 0.1)
    getattr(objective, ask)()
    objective.value()
    objective.value_and_gradient(small_step(problem))
    objective.sampled()()
    objective.subset(torch.arange(2)).value_and_gradient()
    assert len(heard) == 1
    close(heard[0][0], reference.loss(reference.theta))
    close(heard[0][1], reference.gradient())


@pytest.mark.parametrize(
    "name", ["mlp_mse", "mlp_mse_sum", "mlp_mse_example", "conv", "rosenbrock"]
)
def test_residuals_here_and_elsewhere(name: str) -> None:
    problem = CASES[name]()
    step = small_step(problem)
    objective = problem.objective(0.3)
    close(objective.residuals(), objective.jacobian()[0])
    close(objective.residuals(step), moved(problem, step).objective(0.3).jacobian()[0])
    close(objective.residuals(step).square().sum() / 2, objective.value(step))


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce", "mlp_mse_example", "lstm"])
def test_a_subset_is_the_loss_on_its_examples(name: str) -> None:
    problem = CASES[name]()
    index = torch.tensor([1, 0])
    part = problem.objective().subset(index)
    alone = Objective(problem.model, problem.loss_fn, problem.inputs[index], problem.targets[index])
    close(part.value(), alone.value())
    close(part.ggn().dense(), alone.ggn().dense())


def test_the_parts_of_a_sum_add_up_by_their_scales() -> None:
    problem = LOSSES["mlp_ce_sum"]()
    objective = problem.objective()
    whole = objective.value()
    first, second = objective.subset(torch.arange(2)), objective.subset(torch.arange(2, 6))
    close(first.value() + second.value(), whole)
    assert (first.scale, second.scale, objective.scale) == (2, 4, 6)


def test_dropout_masks_are_the_same_for_every_evaluation_of_a_step() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    assert torch.equal(objective.value_and_gradient()[0], objective.value())
    assert not torch.equal(objective.on(problem.inputs, problem.targets).value(), objective.value())
    assert isinstance(problem.model[2], nn.Dropout)
