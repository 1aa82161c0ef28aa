"""K-FAC without a learning rate.

Step and momentum of the exact quadratic model, damping from how well it predicts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from optimizers.linalg.flat import flatten
from optimizers.natural_gradient import EKFAC, KFAC
from optimizers.natural_gradient.step_rules import best_combination
from tests.optimizers.cases import CASES, Problem, Reference, close, mlp
from tests.optimizers.kfac_quadratic_cases import ADAPTED, QUADRATIC, flat, scale_of


def direction(problem: Problem, optimizer: KFAC, scale: float, gradient: Tensor) -> Tensor:
    """U of a network of Linear layers, from the inverses that the optimizer keeps and a flat
    gradient."""
    parts, rest = [], gradient / scale
    for layer in (m for m in problem.model if isinstance(m, nn.Linear)):
        count = layer.weight.numel()
        weight, bias, rest = (
            rest[:count],
            rest[count : count + len(layer.bias)],
            rest[count + len(layer.bias) :],
        )
        state = optimizer.state[layer.weight]
        matrix = torch.cat([weight.view_as(layer.weight), bias[:, None]], dim=1)
        solved = state["g_inverse"] @ matrix @ state["a_inverse"]
        parts += [solved[:, :-1].flatten(), solved[:, -1]]
    return torch.cat(parts)


# -- the best combination --------------------------------------------------------------------------


def random_problem(size: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """A semi-definite matrix, and a gradient in its range."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(rank, size, dtype=torch.float64, generator=generator)
    matrix = rows.T @ rows
    return matrix, matrix @ torch.randn(size, dtype=torch.float64, generator=generator)


def dense_best(
    matrix: Tensor, gradient: Tensor, directions: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The point D x that minimises the model in the span, and the model there, by a basis of the
    span."""
    spanned = torch.stack(list(directions), dim=1)
    basis, values, _ = torch.linalg.svd(spanned, full_matrices=False)
    basis = basis[:, values > 1e-9 * values.max()]
    point = (
        basis
        @ torch.linalg.lstsq(basis.T @ matrix @ basis, -basis.T @ gradient, driver="gelsd").solution
    )
    return point, gradient @ point + point @ matrix @ point / 2


@pytest.mark.parametrize("rank", [8, 3])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_best_combination_is_the_dense_minimum_over_the_span(rank: int, count: int) -> None:
    for seed in range(20):
        matrix, gradient = random_problem(8, rank, seed)
        directions = list(
            torch.randn(count, 8, dtype=torch.float64)
            * torch.logspace(-6, 6, count).double()[:, None]
        )
        combination = best_combination(lambda v, m=matrix: m @ v, gradient, directions)
        assert combination is not None
        coefficients, change = combination
        point = torch.stack([c * d for c, d in zip(coefficients, directions, strict=True)]).sum(0)
        expected, lowest = dense_best(matrix, gradient, [d / d.norm() for d in directions])
        if rank == 8:
            close(point, expected, 1e-7)
        assert change == pytest.approx(float(lowest), rel=1e-8)
        assert change <= 0


@pytest.mark.parametrize("second", ["parallel", "opposite", "zero", "almost parallel"])
def test_best_combination_of_directions_that_span_less(second: str) -> None:
    matrix, gradient = random_problem(6, 6, 0)
    first = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    others = {
        "parallel": 1e-3 * first,
        "opposite": -first,
        "zero": 0 * first,
        "almost parallel": first * (1 + 1e-13),
    }
    combination = best_combination(lambda v: matrix @ v, gradient, [first, others[second]])
    assert combination is not None
    (alpha, mu), change = combination
    expected, lowest = dense_best(matrix, gradient, [first])
    close(alpha * first + mu * others[second], expected)
    assert change == pytest.approx(float(lowest))
    assert abs(mu) < 1e4
    if second == "zero":
        assert mu == 0


def test_best_combination_without_a_slope_or_a_number() -> None:
    matrix, gradient = random_problem(4, 4, 0)
    directions = [torch.ones(4).double(), torch.arange(4).double()]
    assert best_combination(lambda v: matrix @ v, 0 * gradient, directions) == ([0.0, 0.0], 0.0)
    assert best_combination(lambda v: matrix @ v * float("nan"), gradient, directions) is None
    assert best_combination(lambda v: matrix @ v, gradient * float("inf"), directions) is None


# -- the step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [KFAC, EKFAC])
def test_one_step_of_a_linear_regression_is_newtons(method: type[KFAC]) -> None:
    """The block is exact, so U is Newton's direction and the model's best length is one."""
    torch.manual_seed(0)
    inputs = torch.randn(30, 4).double() * torch.logspace(-1, 1, 4).double()
    problem = Problem(mlp((4, 2)).double(), nn.MSELoss(), inputs, torch.randn(30, 2).double())
    homogeneous = torch.cat([inputs, torch.ones(30, 1).double()], dim=1)
    solution = torch.linalg.lstsq(homogeneous, problem.targets, driver="gelsd").solution.T
    method(problem.model.named_parameters(), damping=1e-18, **QUADRATIC).step(problem.objective())
    close(problem.model[0].weight.detach(), solution[:, :-1], 1e-5)
    close(problem.model[0].bias.detach(), solution[:, -1], 1e-5)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_ce_sum", "mlp_mse", "mlp_bce_example"])
@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_length_and_momentum_are_the_closed_form(name: str, l2: float) -> None:
    """Martens and Grosse (2015), section 7, with the exact Gauss-Newton matrix as a dense one."""
    problem = CASES[name]()
    scale, damping = scale_of(problem), 0.3
    optimizer = KFAC(problem.model.named_parameters(), damping=damping, **QUADRATIC)
    objective = problem.objective(l2)
    last: Tensor | None = None
    for _ in range(4):
        reference = Reference(problem, l2)
        before, gradient = flat(problem), reference.gradient()
        matrix = reference.ggn() + scale * damping * torch.eye(len(before)).double()
        optimizer.step(objective.on(problem.inputs, problem.targets))
        u = direction(problem, optimizer, scale, gradient)
        spanned = torch.stack([u] if last is None else [u, last], dim=1)
        x = torch.linalg.solve(spanned.T @ matrix @ spanned, -spanned.T @ gradient)
        assert float(x[0]) < 0
        last = flat(problem) - before
        close(last, spanned @ x, 1e-9)
        close(flatten(optimizer.state[p]["last_step"] for p in problem.params), last)
        assert not any("momentum_buffer" in optimizer.state[p] for p in problem.params)


def test_a_schedule_scales_the_step() -> None:
    problem = CASES["mlp_ce"]()
    start, half = flat(problem), copy.deepcopy(problem)
    KFAC(problem.model.named_parameters(), lr=0.2, **QUADRATIC).step(problem.objective())
    optimizer = KFAC(half.model.named_parameters(), lr=0.2, **QUADRATIC)
    optimizer.param_groups[0]["lr"] *= 0.5
    optimizer.step(half.objective())
    close(flat(half) - start, (flat(problem) - start) / 2)
    close(flatten(optimizer.state[p]["last_step"] for p in half.params), flat(half) - start)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = flat(half)
    optimizer.step(half.objective())
    assert torch.equal(flat(half), before)


def test_learning_rate_momentum_and_clip_are_not_used() -> None:
    ends = []
    for options in ({}, {"lr": 7.0, "momentum": 0.1, "kl_clip": 1e-9}):
        problem = CASES["mlp_bce"]()
        optimizer = KFAC(problem.model.named_parameters(), **options, **QUADRATIC)
        for _ in range(3):
            optimizer.step(problem.objective())
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-14)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_ce_sum"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_curvature_of_a_share_of_the_batch(name: str, l2: float) -> None:
    """The product is that of the first examples, for the loss of them all.

    The regulariser counts once.
    """
    problem = CASES[name]()
    scale, damping = scale_of(problem), 0.3
    l2 *= scale  # the same regulariser for the canonical loss
    part = copy.deepcopy(problem)
    part.inputs, part.targets = part.inputs[:2], part.targets[:2]
    gradient, size = Reference(problem, l2).gradient(), len(flat(problem))
    matrix = (
        Reference(part).ggn() * scale / scale_of(part)
        + (l2 + scale * damping) * torch.eye(size).double()
    )
    before = flat(problem)
    optimizer = KFAC(
        problem.model.named_parameters(), damping=damping, curvature_share=0.3, **QUADRATIC
    )
    objective = problem.objective(l2)
    optimizer.step(objective)
    u = direction(problem, optimizer, scale, gradient)
    close(flat(problem) - before, -(u @ gradient) / (u @ matrix @ u) * u, 1e-9)
    assert objective.counts["ggnvp"] == pytest.approx(1 / 3)
    assert objective.counts["value"] == pytest.approx(4 / 3)


@pytest.mark.parametrize("family", ["ce", "mse", "bce"])
@pytest.mark.parametrize(
    "options",
    [{"staggered": True, "statistics_period": 2, "inverse_period": 2}, {"curvature_share": 0.5}],
    ids=["staggered", "share"],
)
def test_same_trajectory_whatever_the_reduction(family: str, options: dict[str, object]) -> None:
    ends, dampings = [], set()
    for reduction in ("", "_sum", "_example") if family != "ce" else ("", "_sum"):
        problem = CASES[f"mlp_{family}{reduction}"]()
        optimizer = KFAC(problem.model.named_parameters(), **{**QUADRATIC, **ADAPTED, **options})
        objective = problem.objective(
            0.1 * scale_of(problem), generator=torch.Generator().manual_seed(0)
        )
        for _ in range(6):
            optimizer.step(objective.on(problem.inputs, problem.targets))
            dampings.add(round(optimizer.param_groups[0]["damping"], 9))
        ends.append(flat(problem))
    assert len(dampings) <= 6  # the same ones for all
    for end in ends[1:]:
        close(end, ends[0], 1e-8)


def test_cost_of_a_step() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    optimizer = KFAC(problem.model.named_parameters(), step_rule="exact", statistics_period=10)
    assert "ggn" in optimizer.needs
    optimizer.step(objective)
    assert objective.counts == {
        "value": 2,
        "grad": 2,
        "ggnvp": 1,
    }  # the first step has no other to go on with
    optimizer.step(objective)
    assert objective.counts == {"value": 3, "grad": 3, "ggnvp": 3}
