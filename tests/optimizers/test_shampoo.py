"""Shampoo against a textbook version, torch's diagonal methods where it grafts, and itself in other
arrangements."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers.matrix import Shampoo
from optimizers.matrix import shampoo as module
from tests.optimizers.cases import Problem
from tests.optimizers.matrix_cases import distance, kernels, linear_layers, train, train_by_hand

PLAIN: dict[str, Any] = {
    "beta1": 0.0,
    "period": 1,
    "start": 0,
    "grafting": "none",
    "eps": 1e-4,
    "lr": 0.05,
}


def root(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**-exponent) @ vectors.T


def textbook(
    problem: Problem,
    steps: int,
    lr: float,
    eps: float,
    beta2: float,
    exponent: Callable[[int], float],
) -> None:
    """One parameter, one mode, one decomposition at a time, by einsum."""
    factors: dict[Any, list[Tensor]] = {}

    def step(count: list[int] = [0]) -> None:  # noqa: B006
        count[0] += 1
        for parameter in problem.params:
            gradient = parameter.grad
            assert gradient is not None
            letters = "abcd"[: gradient.ndim]
            mine = factors.setdefault(
                parameter, [torch.zeros(size, size).double() for size in gradient.shape]
            )
            direction = gradient
            for mode, (letter, factor) in enumerate(zip(letters, mine, strict=True)):
                gram = torch.einsum(
                    f"{letters},{letters.replace(letter, 'z')}->{letter}z", gradient, gradient
                )
                factor.copy_(factor + gram if beta2 == 1 else beta2 * factor + (1 - beta2) * gram)
                seen = factor / (1 if beta2 == 1 else 1 - beta2 ** count[0])
                power = root(seen + eps * torch.eye(len(seen)).double(), exponent(gradient.ndim))
                direction = torch.einsum(
                    f"{letters},{letter}z->{letters.replace(letter, 'z')}", direction, power
                )
                assert mode < 4
            parameter.sub_(lr * direction)

    train_by_hand(problem, step, steps)


@pytest.mark.parametrize("beta2", [1.0, 0.9])
def test_thirty_steps_of_the_textbook(beta2: float) -> None:
    problem, twin = linear_layers(6, 8, 5, 3), linear_layers(6, 8, 5, 3)
    train(problem, Shampoo(problem.model.named_parameters(), beta2=beta2, **PLAIN), 30)
    textbook(twin, 30, 0.05, 1e-4, beta2, lambda order: 1 / (2 * order))
    assert distance(problem, twin) < 1e-10


def test_a_kernel_has_a_factor_for_each_mode() -> None:
    problem, twin = kernels(), kernels()
    train(problem, Shampoo(problem.model.named_parameters(), beta2=1.0, **PLAIN), 10)
    textbook(twin, 10, 0.05, 1e-4, 1.0, lambda order: 1 / (2 * order))
    assert distance(problem, twin) < 1e-10


def test_exponents_by_the_number_of_modes() -> None:
    problem, twin = kernels(), kernels()
    options = PLAIN | {"exponents": [0.5, 0.5, 0.3, 0.2]}
    train(problem, Shampoo(problem.model.named_parameters(), beta2=1.0, **options), 10)
    textbook(twin, 10, 0.05, 1e-4, 1.0, lambda order: {2: 0.5, 4: 0.2}[order])
    assert distance(problem, twin) < 1e-10


def test_a_flattened_kernel_is_the_matrix_of_its_rows() -> None:
    """A convolution on patches the size of the image is a linear layer."""
    torch.manual_seed(0)
    linear = linear_layers(18, 4, 3)
    convolution = copy.deepcopy(linear)
    kernel = torch.nn.Conv2d(2, 4, 3, bias=False).double()
    kernel.weight.data = linear.model[0].weight.detach().clone().view(4, 2, 3, 3)
    convolution.model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (2, 3, 3)),
        kernel,
        torch.nn.Flatten(),
        *copy.deepcopy(linear.model[1:]),
    )
    for each in (linear, convolution):
        train(each, Shampoo(each.model.named_parameters(), flatten=True, **PLAIN), 8)
    flat = convolution.model[1].weight.flatten(1)
    torch.testing.assert_close(flat, linear.model[0].weight, rtol=1e-9, atol=1e-12)


def test_it_is_the_shampoo_of_pytorch_optimizer() -> None:
    packaged = pytest.importorskip("pytorch_optimizer")
    problem, twin = linear_layers(6, 6, 6), linear_layers(6, 6, 6)
    train(problem, Shampoo(problem.model.named_parameters(), beta2=1.0, **PLAIN), 30)
    peer = packaged.Shampoo(
        twin.model.parameters(), lr=0.05, matrix_eps=1e-4, preconditioning_compute_steps=1
    )
    train_by_hand(twin, peer.step, 30)
    assert distance(problem, twin) < 1e-8


def test_a_longer_side_has_no_factor_and_the_other_the_whole_exponent() -> None:
    problem, start = linear_layers(4, 7), linear_layers(4, 7)
    gradient: list[Tensor] = []
    train_by_hand(start, lambda: gradient.append(start.params[0].grad.clone()), 1)  # type: ignore[union-attr]
    train(
        problem, Shampoo(problem.model.named_parameters(), max_dimension=4, beta2=1.0, **PLAIN), 1
    )
    (g,) = gradient
    expected = g @ root(g.T @ g + 1e-4 * torch.eye(4).double(), 0.5)
    moved = (start.params[0] - problem.params[0]).detach() / 0.05
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-10)


# -- grafting --------------------------------------------------------------------------------------

DIAGONAL: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "none": lambda params: torch.optim.SGD(params, lr=0.05),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.05),
    "adam": lambda params: torch.optim.Adam(params, lr=0.05, betas=(0.0, 0.9)),
}


@pytest.mark.parametrize("grafting", DIAGONAL)
def test_before_its_start_it_is_the_grafted_method(grafting: str) -> None:
    problem, twin = linear_layers(4, 5, 3), linear_layers(4, 5, 3)
    train(
        problem,
        Shampoo(
            problem.model.named_parameters(),
            **PLAIN | {"start": 9, "grafting": grafting},
            beta2=0.9,
        ),
        8,
    )
    train_by_hand(twin, DIAGONAL[grafting](twin.params).step, 8)
    assert distance(problem, twin) < 1e-10


@pytest.mark.parametrize("grafting", ["sgd", "adagrad", "adam"])
def test_a_grafted_step_has_the_direction_of_one_and_the_norm_of_the_other(grafting: str) -> None:
    start, one, other, both = (linear_layers(4, 5, 3) for _ in range(4))
    train(one, Shampoo(one.model.named_parameters(), **PLAIN, beta2=0.9), 1)
    train_by_hand(other, DIAGONAL[grafting](other.params).step, 1)
    train(
        both, Shampoo(both.model.named_parameters(), **PLAIN | {"grafting": grafting}, beta2=0.9), 1
    )
    for origin, *ends in zip(start.params, one.params, other.params, both.params, strict=True):
        direction, length, grafted = ((end - origin).detach() for end in ends)
        torch.testing.assert_close(
            grafted, direction * length.norm() / direction.norm(), rtol=1e-8, atol=1e-12
        )


def test_an_infinite_eps_with_sgds_norm_is_sgd_with_momentum() -> None:
    problem, twin = linear_layers(4, 5, 3), linear_layers(4, 5, 3)
    options = PLAIN | {"eps": 1e20, "grafting": "sgd", "beta1": 0.9, "lr": 0.5}
    train(problem, Shampoo(problem.model.named_parameters(), bias_correction=False, **options), 20)
    train_by_hand(twin, torch.optim.SGD(twin.params, lr=0.05, momentum=0.9).step, 20)
    assert distance(problem, twin) < 1e-10


def test_momentum_is_a_corrected_average_of_directions() -> None:
    """A constant direction passes through unchanged from the first step on, with and without
    looking ahead."""
    for nesterov in (False, True):
        problem, twin = linear_layers(4, 5, 3), linear_layers(4, 5, 3)
        options = PLAIN | {"grafting": "sgd", "eps": 1e20}
        for each, beta1 in ((problem, 0.9), (twin, 0.0)):
            optimizer = Shampoo(
                each.model.named_parameters(), **options | {"beta1": beta1, "nesterov": nesterov}
            )
            optimizer.step(each.objective())
        assert distance(problem, twin) < 1e-12


# -- blocks and refreshes --------------------------------------------------------------------------


def test_blocks_are_matrices_of_their_own() -> None:
    """A weight (7, 6), cut after four rows and four columns, is four parameters."""
    whole = linear_layers(6, 7)
    rows = copy.deepcopy(whole)
    rows.model = SideBySide(whole.model[0].weight.detach())
    train(whole, Shampoo(whole.model.named_parameters(), block_size=4, beta2=1.0, **PLAIN), 8)
    quarters = [
        rows.model.top_left,
        rows.model.top_right,
        rows.model.bottom_left,
        rows.model.bottom_right,
    ]
    optimizer = Shampoo([(f"part{i}", part) for i, part in enumerate(quarters)], beta2=1.0, **PLAIN)
    train(rows, optimizer, 8)
    torch.testing.assert_close(whole.model[0].weight, rows.model.weight(), rtol=1e-9, atol=1e-12)


class SideBySide(torch.nn.Module):
    """A linear layer (7, 6) whose weight is four parameters, cut after four rows and four
    columns."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.top_left, self.top_right, self.bottom_left, self.bottom_right = (
            torch.nn.Parameter(part.clone())
            for part in (weight[:4, :4], weight[:4, 4:], weight[4:, :4], weight[4:, 4:])
        )

    def weight(self) -> Tensor:
        top = torch.cat([self.top_left, self.top_right], 1)
        return torch.cat([top, torch.cat([self.bottom_left, self.bottom_right], 1)], 0)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight().T


def refreshed(
    problem: Problem, steps: int, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[int]:
    """How many matrices were decomposed in each step."""
    counts = [0] * steps
    now = [0]
    original = module.inverse_roots

    def counted(matrices: Tensor, exponent: float, eps: float) -> Any:
        counts[now[0]] += len(matrices)
        return original(matrices, exponent, eps)

    monkeypatch.setattr(module, "inverse_roots", counted)
    optimizer = Shampoo(problem.model.named_parameters(), **options)
    for step in range(steps):
        now[0] = step
        optimizer.step(problem.objective())
    return counts


def test_roots_are_refreshed_on_the_period(monkeypatch: pytest.MonkeyPatch) -> None:
    renewals = refreshed(linear_layers(4, 4, 4, 3), 9, monkeypatch, period=3, start=2)
    assert renewals == [0, 0, 6, 0, 0, 6, 0, 0, 6]


def test_staggered_refreshes_are_as_many_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    renewals = refreshed(
        linear_layers(4, 4, 4, 4, 4, 3), 21, monkeypatch, period=5, start=0, staggered=True
    )
    assert renewals[0] == 10
    assert set(renewals[1:]) == {2}


@pytest.mark.parametrize("period", [1, 3, 7])
def test_staggered_every_piece_has_one_turn_in_a_period(period: int) -> None:
    problem = linear_layers(4, 6, 4, 6, 6)
    optimizer = Shampoo(
        problem.model.named_parameters(), period=period, staggered=True, block_size=4
    )
    train(problem, optimizer, 1)
    for stack in optimizer._stacks:
        turns = [optimizer.due(stack, since) for since in range(period, 2 * period)]
        pieces = torch.cat([torch.arange(len(stack))[turn] for turn in turns if turn is not None])
        assert sorted(pieces.tolist()) == list(range(len(stack)))


def test_a_root_that_fails_is_kept_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, twin = linear_layers(4, 4, 3), linear_layers(4, 4, 3)
    optimizer = Shampoo(problem.model.named_parameters(), beta2=1.0, **PLAIN)
    train(problem, optimizer, 2)
    roots = [state["root_0"].clone() for state in optimizer.state.values()]

    def failing(matrices: Tensor, exponent: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        bad = torch.full_like(matrices, math.nan)
        return bad, bad[:, 0, 0], torch.zeros(len(matrices), dtype=torch.bool)

    monkeypatch.setattr(module, "inverse_roots", failing)
    train(problem, optimizer, 1)
    assert all(
        torch.equal(a, state["root_0"])
        for a, state in zip(roots, optimizer.state.values(), strict=True)
    )
    assert optimizer.failures["root"] == 4
    assert optimizer.telemetry()["failures/root"] == 4
    assert all(bool(p.isfinite().all()) for p in problem.params)
    assert distance(problem, twin) > 0
