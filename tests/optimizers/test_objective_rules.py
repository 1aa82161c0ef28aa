"""Rules 1-5 of the architecture.

One function per step, running statistics once per step, kept graphs, nothing left.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.optimizers.cases import CASES, LSTMNet, Problem, close
from tests.optimizers.objective_rules_cases import ORACLES, allowed

# -- rule 1: random state --------------------------------------------------------------------------


def test_every_evaluation_of_a_step_sees_the_same_masks() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    value = objective.value()
    assert (
        len(
            {
                float(problem.loss_fn(problem.model(problem.inputs), problem.targets).detach())
                for _ in range(5)
            }
        )
        == 5
    )
    for again in (
        objective.value,
        objective,
        lambda: objective.hessian().loss,
        lambda: objective.ggn().loss,
    ):
        assert torch.equal(again(), value)
    close(objective.value(torch.zeros_like(objective.gradient())), value)
    close(objective.per_example_grads().mean(0), objective.gradient())


def test_masks_differ_between_steps() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    values = []
    for _ in range(5):
        objective = objective.on(problem.inputs, problem.targets)
        values.append(float(objective.value()))
    assert len(set(values)) == 5


def test_numbers_drawn_between_creation_and_first_evaluation_do_not_matter() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective().on(problem.inputs, problem.targets)
    torch.rand(3)
    first = objective()
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(objective.value(), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("oracle", ORACLES)
def test_global_generator_advances_as_by_one_forward(oracle: str) -> None:
    problem = CASES["dropout"]()
    if not allowed(oracle, problem):
        problem.loss_fn, problem.targets = nn.MSELoss(), torch.zeros(6, 3, dtype=torch.float64)
    torch.manual_seed(5)
    problem.model(problem.inputs)
    after_one = torch.get_rng_state()
    torch.manual_seed(5)
    objective = problem.objective()  # its own draws must not show either
    ORACLES[oracle](objective)
    assert torch.equal(torch.get_rng_state(), after_one)
    ORACLES[oracle](objective)
    objective.value()
    assert torch.equal(torch.get_rng_state(), after_one)
    ORACLES[oracle](objective.on(problem.inputs, problem.targets))
    assert not torch.equal(torch.get_rng_state(), after_one)


def test_a_failing_forward_gives_the_generator_back() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    objective()
    torch.rand(3)
    state = torch.get_rng_state()
    broken = problem.model.register_forward_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("boom"))
    )
    with pytest.raises(RuntimeError, match="boom"):
        objective.value()
    broken.remove()
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_in_a_recurrent_layer() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(3, 4, 2).double(), torch.randint(3, (3, 4))
    problem = Problem(LSTMNet(dropout=0.5).double(), nn.CrossEntropyLoss(), inputs, targets)
    objective = problem.objective()
    loss = objective()
    assert torch.equal(objective.value(), loss)
    close(objective.hessian().gradient, objective.gradient())
    close(objective.per_example_grads().mean(0), objective.gradient())


# -- rule 2: running statistics --------------------------------------------------------------------


def plain_statistics(problem: Problem, steps: int) -> dict[str, Tensor]:
    model = copy.deepcopy(problem.model)
    for _ in range(steps):
        model(problem.inputs)
    return dict(model.named_buffers())


FIRST = [name for name in ORACLES if name not in ("value(step)", "per_example_grads", "jacobian")]


@pytest.mark.parametrize("first", FIRST)
def test_running_statistics_move_once_per_step(first: str) -> None:
    problem = CASES["conv_bn"]()
    expected = plain_statistics(problem, 2)
    objective = problem.objective()
    for _ in range(2):
        objective = objective.on(problem.inputs, problem.targets)
        for name in (first, *FIRST, "value(step)"):
            ORACLES[name](objective)
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, expected[name]), name


def test_evaluation_mode_leaves_the_statistics_alone() -> None:
    problem = CASES["conv_bn"]()
    problem.model(problem.inputs)
    problem.model.eval()
    expected = plain_statistics(problem, 0)
    objective = problem.objective()
    first = objective()
    assert torch.equal(objective.value(), first)
    close(objective.per_example_grads().mean(0), objective.gradient())
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, expected[name])


def test_instance_normalisation_with_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2),
        nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(18, 2),
    ).double()
    problem = Problem(
        model, nn.MSELoss(), torch.randn(3, 1, 4, 4).double(), torch.randn(3, 2).double()
    )
    expected = plain_statistics(problem, 1)
    objective = problem.objective()
    loss = objective()
    assert torch.equal(objective.value(), loss)
    close(objective.per_example_grads().mean(0), objective.gradient())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    model.eval()
    objective = objective.on(problem.inputs, problem.targets)
    close(objective.value(), problem.loss_fn(model(problem.inputs), problem.targets).detach())
    close(objective.value(), problem.loss_fn(model(problem.inputs), problem.targets).detach())


def test_training_with_batch_normalisation_equals_a_plain_loop() -> None:
    problem = CASES["conv_bn"]()
    twin = copy.deepcopy(problem)
    ours, theirs = (torch.optim.SGD(p.model.parameters(), lr=0.1) for p in (problem, twin))
    objective = problem.objective()
    for _ in range(5):
        objective = objective.on(problem.inputs, problem.targets)
        ours.step(objective)
        objective.value()
        theirs.zero_grad()
        twin.loss_fn(twin.model(twin.inputs), twin.targets).backward()
        theirs.step()
    for (name, mine), other in zip(
        problem.model.state_dict().items(), twin.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other), name
