"""Hidden matrices to one optimizer, the rest to another: equal to both run by hand."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Unsupported
from optimizers.matrix.by_role import ByRole
from tests.optimizers.cases import CASES, Problem, TiedEmbedding, mlp

MUON = partial(torch.optim.Muon, lr=0.02, weight_decay=0.1)
ADAMW = partial(torch.optim.AdamW, lr=0.01)


def build(problem: Problem) -> ByRole:
    return ByRole(problem.model.named_parameters(), hidden=MUON, rest=ADAMW)


def deep(loss_fn: nn.Module | None = None) -> Problem:
    torch.manual_seed(0)
    return Problem(mlp((4, 6, 5, 3)), loss_fn or nn.CrossEntropyLoss(), torch.randn(8, 4), torch.randint(3, (8,)))


def convolutional() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(3, 3)
    )
    return Problem(model, nn.CrossEntropyLoss(), torch.randn(6, 2, 4, 4), torch.randint(3, (6,)))


CASES_BY_ROLE = {
    "mlp": (deep, {"0.weight", "2.weight"}),
    "convolution": (convolutional, {"0.weight", "3.weight"}),
}


@pytest.mark.parametrize("name", CASES_BY_ROLE)
def test_equals_muon_and_adamw_by_hand(name: str) -> None:
    make, hidden = CASES_BY_ROLE[name]
    problem = make()
    optimizer = build(problem)
    twin = copy.deepcopy(problem)
    named = dict(twin.model.named_parameters())
    matrices = {key: nn.Parameter(named[key].detach().flatten(1).clone()) for key in hidden}
    muon, adamw = (
        MUON([matrices[k] for k in named if k in hidden]),
        ADAMW([p for k, p in named.items() if k not in hidden]),
    )
    objective, other = problem.objective(), twin.objective()
    for _ in range(6):
        loss = optimizer.step(objective.on(problem.inputs, problem.targets))
        expected = other.on(twin.inputs, twin.targets)()
        assert torch.equal(loss, expected)
        for key, matrix in matrices.items():
            grad = named[key].grad
            assert grad is not None
            matrix.grad = grad.flatten(1)
        muon.step()
        adamw.step()
        with torch.no_grad():
            for key, matrix in matrices.items():
                named[key].copy_(matrix.view_as(named[key]))
    for key, parameter in problem.model.named_parameters():
        assert torch.equal(parameter, named[key]), key


def test_a_kernel_that_is_not_contiguous_is_moved_all_the_same() -> None:
    problem, twin = convolutional(), convolutional()
    problem.model.to(memory_format=torch.channels_last)
    assert not problem.model[0].weight.is_contiguous()
    optimizers = [build(p) for p in (problem, twin)]
    for _ in range(3):
        for optimizer, each in zip(optimizers, (problem, twin), strict=True):
            optimizer.step(each.objective())
    for layer in (0, 3):
        mine, other = problem.model[layer].weight, twin.model[layer].weight
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-3)  # Newton-Schulz rounds in bfloat16
    assert not problem.model[0].weight.is_contiguous()


def test_a_parameter_whose_storage_was_exchanged_is_still_the_one_that_moves() -> None:
    problem, twin = deep(), deep()
    optimizer = build(problem)
    for each in (problem, twin):
        for parameter in each.params:
            parameter.data = 2 * parameter.data
    optimizer.step(problem.objective())
    build(twin).step(twin.objective())
    for mine, other in zip(problem.params, twin.params, strict=True):
        assert torch.equal(mine, other)


def test_needs_a_hidden_matrix() -> None:
    torch.manual_seed(0)
    for model in (mlp((4, 3)), CASES["rosenbrock"]().model, nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3))):
        named = [(name.replace("0.weight", "embedding.weight"), p) for name, p in model.named_parameters()]
        if len(named) == 2:
            named = named[::-1]
        with pytest.raises(Unsupported, match="hidden matrices"):
            ByRole(named, hidden=MUON, rest=ADAMW)
    assert ByRole.needs == {"matrices"}


def test_embeddings_and_head_go_to_the_rest() -> None:
    model = TiedEmbedding()
    model.head = nn.Linear(3, 5)
    optimizer = ByRole(model.named_parameters(), hidden=MUON, rest=ADAMW)
    assert [p.shape for p in optimizer.hidden.param_groups[0]["params"]] == [(3, 3)]
    assert {id(p) for p in optimizer.rest.param_groups[0]["params"]} == {
        id(p) for p in (model.embedding.weight, model.hidden.bias, model.head.weight, model.head.bias)
    }


def test_a_schedule_moves_both() -> None:
    problem = deep()
    optimizer = build(problem)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step(problem.objective())
    schedule.step()
    assert optimizer.hidden.param_groups[0]["lr"] == 0.01
    assert optimizer.rest.param_groups[0]["lr"] == 0.005


@pytest.mark.parametrize("where", ["0.weight", "4.bias"])
def test_a_gradient_that_is_not_finite_moves_nothing(where: str) -> None:
    problem = deep()
    optimizer = build(problem)
    optimizer.step(problem.objective())
    before: list[Tensor] = [p.detach().clone() for p in problem.params]
    state: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    dict(problem.model.named_parameters())[where].register_hook(lambda grad: grad * float("nan"))
    assert bool(optimizer.step(problem.objective()).isfinite())
    for parameter, value in zip(problem.params, before, strict=True):
        assert torch.equal(parameter, value)
    assert str(optimizer.state_dict()) == str(state)
