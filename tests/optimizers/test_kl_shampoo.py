"""KL-Shampoo against a dense twin with exact decompositions, and its factors against the covariance
they estimate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers.matrix import KLShampoo
from optimizers.matrix import kl_shampoo as module
from tests.optimizers.cases import Identity, Problem
from tests.optimizers.matrix_cases import distance, linear_layers, train, train_by_hand


class Twin:
    """One matrix's factors as they are defined, every power by a full decomposition."""

    def __init__(self, parameter: Tensor, eps: float) -> None:
        self.parameter, self.eps, self.count = parameter, eps, 0
        self.moment = torch.zeros_like(parameter)

    def power(self, factor: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(factor)
        return (
            vectors
            @ torch.diag(values.clamp(min=self.eps * float(values.mean())) ** exponent)
            @ vectors.T
        )

    def step(self) -> None:
        gradient = self.parameter.grad
        assert gradient is not None
        m, n = gradient.shape
        if self.count == 0:
            scale = gradient.square().mean().sqrt()
            self.left, self.right = scale * torch.eye(m).double(), scale * torch.eye(n).double()
        self.count += 1
        self.moment = 0.9 * self.moment + 0.1 * gradient
        corrected = self.moment / (1 - 0.9**self.count)
        self.parameter.sub_(
            0.01 * self.power(self.left, -0.5) @ corrected @ self.power(self.right, -0.5)
        )
        left = gradient @ self.power(self.right, -1.0) @ gradient.T / n
        right = gradient.T @ self.power(self.left, -1.0) @ gradient / m
        self.left, self.right = 0.95 * self.left + 0.05 * left, 0.95 * self.right + 0.05 * right


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_at_period_one_it_is_the_dense_definition(eps: float) -> None:
    problem, twin = linear_layers(6, 8, 5, 3), linear_layers(6, 8, 5, 3)
    options: dict[str, Any] = {
        "lr": 0.01,
        "beta2": 0.95,
        "period": 1,
        "basis": "eigh",
        "weight_decay": 0.0,
    }
    train(problem, KLShampoo(problem.model.named_parameters(), eps=eps, **options), 30)
    twins = [Twin(parameter, eps) for parameter in twin.params]
    train_by_hand(twin, lambda: [each.step() for each in twins], 30)
    assert distance(problem, twin) < 1e-9


class Matrix(nn.Module):
    """A weight whose loss <W, inputs> has the inputs as its gradient."""

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(m, n, dtype=torch.float64))
        self.head = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.weight * inputs).sum() + 0 * self.head.sum()


def positive(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return factor @ factor.T / n + 0.2 * torch.eye(n, dtype=torch.float64)


def up_to_scale(matrix: Tensor) -> Tensor:
    return matrix / matrix.trace()


@pytest.mark.parametrize(("basis", "period"), [("qr", 10), ("eigh", 5)])
def test_the_factors_converge_to_the_covariance(basis: str, period: int) -> None:
    """For gradients R^(1/2) Z C^(1/2) the fixed point is R and C, which an average of 500 meets to
    a few percent."""
    rows, columns = positive(4, 0), positive(3, 1)
    left, right = torch.linalg.cholesky(rows), torch.linalg.cholesky(columns)
    generator = torch.Generator().manual_seed(2)
    model = Matrix(4, 3)
    problem = Problem(model, Identity(), torch.zeros(4, 3).double(), torch.zeros(1))
    optimizer = KLShampoo(model.named_parameters(), lr=0.0, beta2=0.998, basis=basis, period=period)
    noise = torch.randn(2500, 4, 3, generator=generator, dtype=torch.float64)
    optimizer.step(problem.objective().on(left @ noise[0] @ right.T, problem.targets))
    (stack,) = [stack for stack in optimizer._stacks if stack.shape == (4, 3)]
    for each in left @ noise @ right.T:
        optimizer.update(stack, each[None])
        stack.count()
    state = optimizer.state[model.weight]
    for mode, expected in enumerate((rows, columns)):
        rotated = state[f"basis_{mode}"] @ state[f"factor_{mode}"] @ state[f"basis_{mode}"].T
        torch.testing.assert_close(up_to_scale(rotated), up_to_scale(expected), rtol=0, atol=0.03)
        assert off_diagonal(state[f"factor_{mode}"]) < 0.05
    scale = float(
        state["factor_0"].trace() * state["factor_1"].trace() / (rows.trace() * columns.trace())
    )
    assert scale == pytest.approx(1, abs=0.05)


def off_diagonal(matrix: Tensor) -> float:
    return float((matrix - matrix.diagonal().diag()).norm() / matrix.norm())


def test_turning_the_basis_changes_no_factor() -> None:
    problem = linear_layers(6, 8, 5, 3)
    optimizer = KLShampoo(problem.model.named_parameters(), period=100)
    train(problem, optimizer, 20)
    for stack in optimizer._stacks:
        before = dense(stack)
        for basis in ("qr", "eigh"):
            optimizer.basis = basis
            optimizer._turn(stack, slice(0, len(stack)))
            for old, new in zip(before, dense(stack), strict=True):
                torch.testing.assert_close(
                    new, old, rtol=1e-10, atol=1e-12 * float(old.abs().max())
                )
        assert max(off_diagonal(each) for each in stack.tensors["factor_0"]) < 1e-10


def dense(stack: Any) -> list[Tensor]:
    """The factors and the momentum in the original basis."""
    bases = [stack.tensors["basis_0"], stack.tensors["basis_1"]]
    factors = [
        basis @ stack.tensors[f"factor_{mode}"] @ basis.mT for mode, basis in enumerate(bases)
    ]
    return [*factors, bases[0] @ stack.tensors["exp_avg"] @ bases[1].mT]


def test_a_first_gradient_of_zero_is_waited_out() -> None:
    """A zero head keeps the gradient from the layers before it for one step.

    Their factors begin with the second.
    """
    problem = linear_layers(4, 4, 3)
    start = [p.detach().clone() for p in problem.params]
    with torch.no_grad():
        problem.params[-1].zero_()
    optimizer = KLShampoo(problem.model.named_parameters(), lr=0.01, weight_decay=0.0)
    train(problem, optimizer, 1)
    assert torch.equal(problem.params[0], start[0])
    train(problem, optimizer, 20)
    assert 0 < float((problem.params[0] - start[0]).detach().abs().max()) < 0.5


def test_the_second_moment_in_the_basis_turns_as_a_diagonal_covariance() -> None:
    """A permutation permutes it, and no turn changes its sum."""
    problem = linear_layers(4, 5, 3)
    optimizer = KLShampoo(
        problem.model.named_parameters(), adam_in_basis=True, period=100, basis="eigh"
    )
    train(problem, optimizer, 10)
    for stack in optimizer._stacks:
        before = stack.tensors["exp_avg_sq"].clone()
        optimizer._turn(stack, slice(0, len(stack)))
        after = stack.tensors["exp_avg_sq"]
        torch.testing.assert_close(after.sum((1, 2)), before.sum((1, 2)))
        optimizer._turn(stack, slice(0, len(stack)))  # diagonal already: an identity up to signs
        torch.testing.assert_close(stack.tensors["exp_avg_sq"], after)


def test_a_basis_that_fails_is_kept_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = linear_layers(4, 4, 4)
    optimizer = KLShampoo(problem.model.named_parameters(), period=1, basis="eigh")
    train(problem, optimizer, 3)
    bases = [state["basis_0"].clone() for state in optimizer.state.values()]

    def failing(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype).expand_as(matrices)
        return (
            torch.ones_like(matrices[..., 0]),
            identity,
            torch.zeros(len(matrices), dtype=torch.bool),
        )

    monkeypatch.setattr(module, "stacked_eigen", failing)
    train(problem, optimizer, 1)
    assert all(
        torch.equal(a, state["basis_0"])
        for a, state in zip(bases, optimizer.state.values(), strict=True)
    )
    assert optimizer.failures == {"basis": 4}
    assert all(bool(p.isfinite().all()) for p in problem.params)
