"""SGD-PH against the Hessian by torch.func, against its recursion by hand, and what its premise is
worth."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from optimizers import Objective
from optimizers.diagonal import SGDPH
from tests.optimizers.cases import Problem, close, mlp


def kernels(channels: int = 4, examples: int = 24) -> Problem:
    """conv-BN-tanh twice, pooled: five vectors, of which the last is the output's bias."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.Tanh(),
        nn.Conv2d(channels, 3, 2, bias=False),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    ).double()
    with torch.no_grad():  # away from all scales one and all shifts zero
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return Problem(
        model,
        nn.CrossEntropyLoss(),
        torch.randn(examples, 1, 6, 6).double(),
        torch.randint(3, (examples,)),
    )


def vectors(of: Problem) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in of.model.named_parameters() if p.ndim == 1]


def exact_block(of: Problem, name: str, batch: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """H_kk of one vector by torch.func, on a copy of the model."""
    model = copy.deepcopy(of.model)
    inputs, targets = (of.inputs, of.targets) if batch is None else batch
    fixed = {key: p.detach() for key, p in model.named_parameters() if key != name}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # torch.func cannot write to running statistics
            module.track_running_stats, module.num_batches_tracked = False, None
            module.running_mean = module.running_var = None

    def loss(vector: Tensor) -> Tensor:
        return of.loss_fn(functional_call(model, {**fixed, name: vector}, (inputs,)), targets)

    return hessian(loss)(dict(of.model.named_parameters())[name].detach())


def batches(of: Problem, steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(len(of.inputs), generator=generator)[:16] for _ in range(steps)]
    return [(of.inputs[index], of.targets[index]) for index in chosen]


def trained(of: Problem, steps: int, **options: Any) -> SGDPH:
    method, objective = SGDPH(of.model.named_parameters(), **options), of.objective()
    for batch in batches(of, steps):
        method.step(objective.on(*batch))
    return method


# -- the curvature ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [False, True])
def test_each_vector_in_its_turn_gets_its_blocks_row_sums_or_diagonal(exact: bool) -> None:
    problem = kernels()
    method = SGDPH(problem.model.named_parameters(), lr=0.0, decay=0.0, exact_block=exact)
    objective = problem.objective()
    for name, vector in vectors(problem):
        method.step(objective.on(problem.inputs, problem.targets))
        block = exact_block(problem, name)
        expected = block.diagonal() if exact else block.sum(1)
        torch.testing.assert_close(
            method.state[vector]["diag"], expected.abs(), rtol=1e-9, atol=1e-14
        )
        if float(expected.abs().min()) > 1e-14:
            share = float((expected < 0).double().mean())
            assert method.telemetry()["negative_share"] == pytest.approx(share)


def test_a_softmaxs_bias_has_a_product_with_ones_of_zero() -> None:
    """Why the last vector has to be left to SGD: adding a number to all logits changes nothing."""
    problem = kernels()
    name, bias = vectors(problem)[-1]
    diagonals = {}
    for exact in (False, True):
        method = SGDPH(problem.model.named_parameters(), lr=0.0, decay=0.0, exact_block=exact)
        for _ in vectors(problem):
            method.step(problem.objective())
        diagonals[exact] = method.state[bias]["diag"]
    assert float(diagonals[False].max()) < 1e-15
    assert float(diagonals[True].min()) > 0.1
    assert name == "8.bias"


def test_the_ratios_are_those_of_the_exact_blocks() -> None:
    problem = kernels()
    method = SGDPH(problem.model.named_parameters(), lr=0.0, exact_block=True)
    objective, ratios, errors = problem.objective(), [], []
    for name, _ in vectors(problem):
        method.step(objective.on(problem.inputs, problem.targets))
        block = exact_block(problem, name)
        diagonal = block.diagonal()
        ratios.append(float((block - diagonal.diag()).norm() / diagonal.norm()))
        errors.append(float((block.sum(1) - diagonal).norm() / diagonal.norm()))
        telemetry = method.telemetry()
        assert telemetry["off_diagonal"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-8)
        assert telemetry["ones_error"] == pytest.approx(sum(errors) / len(errors), rel=1e-8)


def test_the_premise_is_false_behind_a_second_normalisation() -> None:
    """The other entries weigh about as much as the diagonal, for scales and shifts alike."""
    problem = kernels(channels=8, examples=128)
    method = SGDPH(problem.model.named_parameters(), lr=0.0, exact_block=True)
    objective = problem.objective()
    for _ in vectors(problem)[:-1]:
        method.step(objective.on(problem.inputs, problem.targets))
    assert method.telemetry()["off_diagonal"] > 0.3
    assert method.telemetry()["ones_error"] > 0.3


def test_it_holds_where_channels_do_not_meet() -> None:
    """One channel for each output and a squared error: then a product with ones is the diagonal."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    problem = Problem(
        model.double(), nn.MSELoss(), torch.randn(9, 1, 4, 4).double(), torch.randn(9, 3).double()
    )
    method = SGDPH(problem.model.named_parameters(), lr=0.0, exact_block=True)
    for _ in range(2):
        method.step(problem.objective())
    assert method.telemetry()["off_diagonal"] < 1e-12
    assert method.telemetry()["ones_error"] < 1e-12


def test_random_signs_for_long_vectors_are_unbiased() -> None:
    problem = kernels()
    (name, vector), *_ = vectors(problem)
    block = exact_block(problem, name)
    variance = (block - block.diagonal().diag()).square().sum(1)
    method = SGDPH(
        problem.model.named_parameters(),
        lr=0.0,
        decay=0.0,
        exact_block=True,
        max_exact=2,
        probes=300,
        seed=3,
    )
    objective = problem.objective()
    method.step(objective)
    error = (method.state[vector]["diag"] - block.diagonal().abs()).abs()
    assert bool((error < 5 * (variance / 300).sqrt()).all())
    assert method.param_groups[0]["draws"] == 300
    assert objective.counts["hvp"] == 300
    assert "off_diagonal" not in method.telemetry()


# -- the step --------------------------------------------------------------------------------------


def by_hand(of: Problem, steps: int, exact: bool, plain_last: bool, decay: float) -> None:
    """The released update with H_kk by torch.func, one parameter after the other."""
    named = list(of.model.named_parameters())
    turns = [name for name, p in named if p.ndim == 1]
    buffers: dict[str, Tensor] = {}
    diagonals = {name: torch.zeros_like(p) for name, p in named if p.ndim == 1}
    objective = of.objective()
    for t, batch in enumerate(batches(of, steps)):
        name = turns[t % len(turns)]
        block = exact_block(of, name, batch)
        fresh = block.diagonal() if exact else block @ torch.ones(len(block)).double()
        objective.on(*batch)()
        diagonals[name] = 0.9 * diagonals[name] + 0.1 * fresh.abs()
        seen = 1 - 0.9 ** ((t + 1) // len(turns) + 1)
        for key, p in named:
            assert p.grad is not None
            plain = p.ndim > 1 or (plain_last and key == turns[-1])
            gradient = p.grad + decay * p.detach() if plain else p.grad
            buffers[key] = 0.9 * buffers[key] + gradient if key in buffers else gradient.clone()
            direction = buffers[key]
            if not plain:
                direction = direction * seen * 2e-3 / (diagonals[key] + 1e-3) + decay * p.detach()
            p.data -= 0.05 * direction


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("plain_last", [False, True])
def test_it_is_the_published_recursion(exact: bool, plain_last: bool) -> None:
    ours, twin = kernels(), kernels()
    trained(
        ours,
        23,
        lr=0.05,
        tau=2e-3,
        eps=1e-3,
        weight_decay=0.01,
        exact_block=exact,
        plain_last=plain_last,
    )
    by_hand(twin, 23, exact, plain_last, 0.01)
    for one, other, start in zip(ours.params, twin.params, kernels().params, strict=True):
        close(one.detach(), other.detach(), 1e-9)
        assert not torch.equal(one, start)


def test_without_vectors_it_is_sgd_with_momentum() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)
    ).double()
    ours = Problem(
        model, nn.CrossEntropyLoss(), torch.randn(20, 4).double(), torch.randint(3, (20,))
    )
    twin = copy.deepcopy(ours)
    method = trained(ours, 10, weight_decay=0.02)
    sgd, objective = (
        torch.optim.SGD(twin.params, lr=0.1, momentum=0.9, weight_decay=0.02),
        twin.objective(),
    )
    for batch in batches(twin, 10):
        sgd.step(objective.on(*batch))
    for one, other in zip(ours.params, twin.params, strict=True):
        close(one.detach(), other.detach(), 1e-13)
    assert method.telemetry() == {}


def test_a_step_costs_a_gradient_and_a_product() -> None:
    problem = kernels()
    method = SGDPH(problem.model.named_parameters())
    objective = problem.objective()
    for _ in range(7):
        method.step(objective.on(problem.inputs, problem.targets))
    assert dict(objective.counts) == {"value": 7, "grad": 7, "hvp": 7}
    numbers = sum(value.numel() for state in method.state.values() for value in state.values())
    assert numbers == sum(p.numel() for p in problem.params) + sum(
        p.numel() for _, p in vectors(problem)
    )


def test_the_block_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = kernels(), kernels()
    first = trained(whole, 6, exact_block=True)
    monkeypatch.setattr("optimizers.diagonal.sgd_ph.ROWS", 1)
    second = trained(pieces, 6, exact_block=True)
    for one, other in zip(whole.params, pieces.params, strict=True):
        close(one.detach(), other.detach(), 1e-12)
    assert first.telemetry() == pytest.approx(second.telemetry(), rel=1e-9)


def test_a_parameter_of_another_model_is_refused() -> None:
    torch.manual_seed(0)
    problem, other = kernels(), kernels()
    with pytest.raises(ValueError, match="pass the model's own"):
        SGDPH(other.model.parameters()).step(problem.objective())


def test_a_curvature_that_is_not_finite_is_left_out() -> None:
    """The loss and its gradient are finite, its second derivative is not."""

    class Kink(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - outputs.detach()).abs().pow(1.5).sum() + outputs.mean()

    torch.manual_seed(0)
    problem = Problem(
        mlp((3, 2)).double(), Kink(), torch.randn(5, 3).double(), torch.zeros(5, 2).double()
    )
    method = SGDPH(problem.model.named_parameters(), lr=0.01)
    start = [p.detach().clone() for p in problem.params]
    loss = method.step(problem.objective())
    assert bool(loss.isfinite())
    assert method.failures == {"curvature": 1}
    assert not bool(method.state[problem.params[1]]["diag"].any())
    assert all(
        bool(p.isfinite().all()) and not torch.equal(p, q)
        for p, q in zip(problem.params, start, strict=True)
    )


def test_it_is_an_optimizer_of_parts_too() -> None:
    """A mini-batch in two parts has the same Hessian where nothing couples its examples."""
    torch.manual_seed(0)
    ours = Problem(
        mlp((4, 5, 3)).double(),
        nn.CrossEntropyLoss(),
        torch.randn(12, 4).double(),
        torch.arange(12) % 3,
    )
    twin = copy.deepcopy(ours)
    for problem, parts in ((ours, 1), (twin, 3)):
        method = SGDPH(problem.model.named_parameters())
        objective = Objective(
            problem.model, problem.loss_fn, problem.inputs, problem.targets, parts=parts
        )
        for _ in range(4):
            method.step(objective.on(problem.inputs, problem.targets))
    for one, other in zip(ours.params, twin.params, strict=True):
        close(one.detach(), other.detach(), 1e-11)
