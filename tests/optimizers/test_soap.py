"""SOAP against pytorch_optimizer's, against a plain float64 twin, and against Adam where its bases
are the identity.

On full batches the second gradient equals the first, is diagonal in the fresh eigenbasis, and Adam
divides round-off by round-off: every comparison uses mini-batches whose gradients have full rank.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers.linalg import roots
from optimizers.matrix import SOAP
from optimizers.matrix import soap as module
from tests.optimizers.cases import Problem
from tests.optimizers.matrix_cases import distance, kernels, linear_layers, train, train_by_hand

SQUARE = (6, 6, 6, 6)


def peers(problem: Problem, twin: Problem, steps: int, lr: float = 3e-3, **options: Any) -> float:
    """How far apart ours and pytorch_optimizer's SOAP are after some steps."""
    packaged = pytest.importorskip("pytorch_optimizer")
    names = {"period": "precondition_frequency", "max_dimension": "max_precondition_dim"}
    theirs = {names.get(key, key): value for key, value in options.items()}
    betas = (theirs.pop("beta1", 0.95), theirs.pop("beta2", 0.95))
    train(
        problem, SOAP(problem.model.named_parameters(), lr=lr, weight_decay=0.0, **options), steps
    )
    peer = packaged.SOAP(twin.params, lr=lr, betas=betas, weight_decay=0.0, **theirs)
    train_by_hand(twin, peer.step, steps)
    return distance(problem, twin)


@pytest.mark.parametrize(
    "options",
    [{}, {"period": 1}, {"shampoo_beta": 0.9, "beta1": 0.9, "beta2": 0.98}, {"max_dimension": 3}],
)
def test_a_hundred_steps_of_pytorch_optimizers_soap(options: dict[str, Any]) -> None:
    problem, twin = (linear_layers(*SQUARE, dtype=torch.float32) for _ in range(2))
    assert peers(problem, twin, 100, **options) < 1e-5


def test_kernels_have_a_basis_for_each_mode() -> None:
    """Fewer steps: one basis of a kernel's four is wrong as soon as two eigenvalues are as close as
    float32's noise."""
    problem, twin = kernels(torch.float32), kernels(torch.float32)
    assert peers(problem, twin, 12, max_dimension=4) < 1e-4


def test_vectors_with_a_basis_of_their_own() -> None:
    """A vector's first factor has rank one.

    No two programmes agree on the rest of its basis, but on its moments.
    """
    problem, twin = (linear_layers(*SQUARE, bias=True, dtype=torch.float32) for _ in range(2))
    train(problem, SOAP(problem.model.named_parameters(), precondition_1d=True), 40)
    coverage = SOAP(twin.model.named_parameters(), precondition_1d=True).layer_coverage()
    assert set(coverage.values()) == {"soap"}
    assert SOAP(twin.model.named_parameters(), precondition_1d=True).needs == frozenset()
    assert float(problem.objective().value()) < 0.95 * float(twin.objective().value())


def test_without_any_basis_it_is_adam() -> None:
    problem, twin = linear_layers(4, 5, 3), linear_layers(4, 5, 3)
    optimizer = SOAP(
        problem.model.named_parameters(),
        lr=0.01,
        beta1=0.9,
        beta2=0.99,
        max_dimension=1,
        skip_first=False,
        eps=1e-300,
        weight_decay=0.1,
    )
    train(problem, optimizer, 50)
    adam = torch.optim.AdamW(twin.params, lr=0.01, betas=(0.9, 0.99), eps=1e-300, weight_decay=0.1)
    train_by_hand(twin, adam.step, 50)
    assert distance(problem, twin) < 1e-11
    assert set(optimizer.layer_coverage().values()) == {"identity"}
    assert optimizer.telemetry()["preconditioned"] == 0


class Twin:
    """SOAP of one matrix in float64, from the definition.

    Full matrices, the momentum kept in the original basis.
    """

    def __init__(self, parameter: Tensor, period: int, skip_first: bool) -> None:
        self.parameter, self.period, self.skip_first, self.count = parameter, period, skip_first, 0
        m, n = parameter.shape
        self.left, self.right = torch.zeros(m, m).double(), torch.zeros(n, n).double()
        self.moment, self.square = torch.zeros(m, n).double(), torch.zeros(m, n).double()

    def observe(self, gradient: Tensor) -> None:
        self.left = 0.95 * self.left + 0.05 * gradient @ gradient.T
        self.right = 0.95 * self.right + 0.05 * gradient.T @ gradient

    def step(self) -> None:
        gradient = self.parameter.grad
        assert gradient is not None
        if self.count == 0:
            self.observe(gradient)
            self.bases = [
                torch.linalg.eigh(factor)[1].flip(-1) for factor in (self.left, self.right)
            ]
        if self.count or not self.skip_first:
            self.adam(gradient, self.count + (not self.skip_first))
        if self.count:
            self.observe(gradient)
            if self.count % self.period == 0:
                self.turn()
        self.count += 1

    def adam(self, gradient: Tensor, count: int) -> None:
        left, right = self.bases
        self.moment = 0.95 * self.moment + 0.05 * gradient
        self.square = 0.95 * self.square + 0.05 * (left.T @ gradient @ right) ** 2
        direction = (left.T @ self.moment @ right) / (self.square.sqrt() + 1e-8)
        rate = 0.01 * (1 - 0.95**count) ** 0.5 / (1 - 0.95**count)
        self.parameter.sub_(rate * left @ direction @ right.T)

    def turn(self) -> None:
        orders = []
        for side, factor in enumerate((self.left, self.right)):
            basis = self.bases[side]
            order = torch.diag(basis.T @ factor @ basis).argsort(descending=True)
            self.bases[side] = torch.linalg.qr(factor @ basis[:, order])[0]
            orders.append(order)
        self.square = self.square[orders[0]][:, orders[1]]


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("period", [1, 7])
@pytest.mark.parametrize(("shift", "tolerance"), [(0.0, 1e-9), (roots.NULL, 1e-6)])
def test_the_definition_in_float64(
    skip_first: bool, period: int, shift: float, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly without the power step's shift, nearly with it."""
    monkeypatch.setattr(roots, "NULL", shift)
    problem, twin = linear_layers(*SQUARE), linear_layers(*SQUARE)
    options: dict[str, Any] = {
        "lr": 0.01,
        "period": period,
        "skip_first": skip_first,
        "weight_decay": 0.0,
    }
    train(problem, SOAP(problem.model.named_parameters(), **options), 40)
    twins = [Twin(parameter, period, skip_first) for parameter in twin.params]
    train_by_hand(twin, lambda: [each.step() for each in twins], 40)
    assert distance(problem, twin) < tolerance


def test_staggered_each_basis_turns_at_its_own_step() -> None:
    """With as many pieces as the period has steps, one a step."""
    problem = linear_layers(*SQUARE)
    optimizer = SOAP(problem.model.named_parameters(), period=3, staggered=True)
    train(problem, optimizer, 3)
    bases = [state["basis_0"].clone() for state in optimizer.state.values()]
    for step in range(3):
        optimizer.step(problem.objective())
        turned = [
            not torch.equal(a, state["basis_0"])
            for a, state in zip(bases, optimizer.state.values(), strict=True)
        ]
        assert turned == [index <= step for index in range(3)]


def test_the_first_step_moves_nothing_but_the_bases() -> None:
    problem, start = linear_layers(*SQUARE), linear_layers(*SQUARE)
    optimizer = SOAP(problem.model.named_parameters())
    train(problem, optimizer, 1)
    assert distance(problem, start) == 0
    train(problem, optimizer, 1)
    assert distance(problem, start) > 0


def test_a_basis_that_fails_is_kept_with_its_moments_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = linear_layers(*SQUARE)
    optimizer = SOAP(problem.model.named_parameters(), period=1)
    train(problem, optimizer, 4)
    bases = [state["basis_1"].clone() for state in optimizer.state.values()]
    original = module.power_step

    def failing(matrices: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        new, values, order = original(matrices, before)
        new[1] = float("nan")
        return new, values, order

    monkeypatch.setattr(module, "power_step", failing)
    train(problem, optimizer, 1)
    saved = [
        torch.equal(a, state["basis_1"])
        for a, state in zip(bases, optimizer.state.values(), strict=True)
    ]
    assert saved == [False, True, False]
    assert optimizer.failures == {"basis": 2}
    assert all(bool(p.isfinite().all()) for p in problem.params)
