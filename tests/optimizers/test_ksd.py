"""Krylov subspace descent: what it spans, where it goes, what it refuses."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError, minimize
from optimizers.krylov.ksd import KSD
from tests.optimizers.cases import (
    CASES,
    LOSSES,
    Identity,
    Problem,
    Reference,
    Residuals,
    Scalar,
    close,
    mlp,
)


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def quadratic(size: int) -> tuple[Problem, Tensor]:
    """|A x - b|^2 and its minimiser."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(size + 3, size, dtype=torch.float64, generator=generator)
    b = torch.randn(size + 3, dtype=torch.float64, generator=generator)
    model = Residuals([0.0] * size, lambda x: matrix @ x)
    problem = Problem(model, nn.MSELoss(reduction="sum"), torch.zeros(1, 1), b[None])
    return problem, torch.linalg.lstsq(matrix, b).solution


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_a_quadratic_in_as_many_dimensions_as_the_subspace_takes_one_step(curvature: str) -> None:
    problem, solution = quadratic(8)
    KSD(problem.model.parameters(), dimension=8, curvature=curvature).step(problem.objective())
    close(flat(problem), solution, 1e-7)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_mse_sum", "lstm"])
def test_a_step_lies_in_the_krylov_space_and_the_previous_step(name: str) -> None:
    problem = CASES[name]()
    optimizer = KSD(problem.model.parameters(), dimension=4)
    previous: list[Tensor] = []
    for _ in range(
        2
    ):  # by the third the losses are near zero, and the vectors parallel to round-off
        reference, before = Reference(problem), flat(problem)
        gradient, matrix = reference.gradient(), reference.ggn()
        powers = [gradient]
        for _ in range(3):
            powers.append(matrix @ powers[-1] / (matrix @ powers[-1]).norm())
        basis = torch.linalg.qr(torch.stack([*powers, *previous]).T).Q
        optimizer.step(problem.objective())
        step = flat(problem) - before
        close(basis @ (basis.T @ step), step, 1e-6)
        previous = [step]
    close(optimizer.stored("direction"), step, 1e-12)


def test_the_point_is_the_lowest_of_the_subspace() -> None:
    """Minimising over the same span by somebody else's hands finds no lower loss."""
    problem = LOSSES["mlp_ce"]()
    reference, before = Reference(problem), flat(problem)
    gradient, matrix = reference.gradient(), reference.ggn()
    KSD(problem.model.parameters(), dimension=3, search_steps=200).step(problem.objective())
    basis = torch.linalg.qr(
        torch.stack([gradient, matrix @ gradient, matrix @ (matrix @ gradient)]).T
    ).Q.T
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    other = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        other.zero_grad()
        loss = reference.loss(before + x @ basis)
        loss.backward()
        return loss

    other.step(closure)
    assert float(problem.objective().value()) == pytest.approx(float(closure().detach()), rel=1e-6)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce_sum", "lstm", "tied", "rosenbrock", "conv_bn"])
@pytest.mark.parametrize("preconditioner", ["none", "fisher"])
def test_the_loss_never_rises_on_one_batch(name: str, preconditioner: str) -> None:
    problem = CASES[name]()
    optimizer = KSD(problem.model.parameters(), preconditioner=preconditioner, dimension=5)
    losses = [float(optimizer.step(problem.objective())) for _ in range(10)]
    rounding = 1e-14 * losses[0]  # at its least the loss wavers in its last digits
    assert all(after <= before + rounding for before, after in pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]


def test_the_hessian_may_be_indefinite() -> None:
    def saddle(x: Tensor) -> Tensor:
        return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4

    problem = Problem(Scalar([1.0, 1e-3], saddle), Identity(), torch.zeros(1, 1), torch.zeros(1))
    optimizer = KSD(problem.model.parameters(), curvature="hessian")
    for _ in range(5):
        optimizer.step(problem.objective())
    assert float(saddle(problem.params[0].detach())) == pytest.approx(-1)
    assert optimizer.needs == {"hessian"}
    assert minimize(
        saddle, torch.tensor([1.0, 1e-3]).double(), "ksd", curvature="hessian"
    ).fun == pytest.approx(-1)
    with pytest.raises(UnsupportedError, match="least_squares"):
        minimize(saddle, torch.tensor([1.0, 1e-3]).double(), "ksd")


def test_products_and_searches_see_their_shares() -> None:
    problem = LOSSES["mlp_ce"]()
    seen: list[int] = []
    problem.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    options = {"dimension": 2, "search_steps": 2, "curvature_share": 0.5, "search_share": 1 / 3}
    objective: Objective = problem.objective()
    KSD(problem.model.parameters(), **options).step(objective)
    assert seen[:2] == [3, 6]
    assert set(seen[2:]) == {2}
    assert objective.counts["ggnvp"] == 1  # two products on half of the examples


def test_a_stationary_point_is_named() -> None:
    problem, solution = quadratic(3)
    with torch.no_grad():
        problem.params[0].zero_()
    problem.targets.zero_()
    optimizer = KSD(problem.model.parameters())
    optimizer.step(problem.objective())
    assert "gradient is zero" in optimizer.stuck
    assert not flat(problem).any()
    assert solution.any()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dimension", 0),
        ("curvature", "fisher"),
        ("preconditioner", "x"),
        ("search_share", 0.0),
        ("floor", 0.0),
    ],
)
def test_ranges(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        KSD(mlp().parameters(), **{option: value})
