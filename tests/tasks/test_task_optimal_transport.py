"""Entropic optimal transport.

Its solution against other algorithms, its derivatives against their formulas.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from optimizers import Objective
from tasks.transport.optimal_transport import OptimalTransport
from tasks.transport.sinkhorn import plan, sinkhorn

SMALL: dict[str, Any] = {"points": 12, "target_points": 8}


def plain_sinkhorn(costs: np.ndarray, epsilon: float) -> tuple[np.ndarray, float]:
    """The plan and its entropic cost by the scaling iteration as it is usually written, without
    logarithms."""
    n, m = costs.shape
    kernel = np.exp(-costs / epsilon) / (n * m)
    left, right = np.ones(n), np.ones(m)
    for _ in range(20_000):
        left = 1 / n / (kernel @ right)
        right = 1 / m / (kernel.T @ left)
    transport = left[:, None] * kernel * right
    return transport, float(
        (transport * costs).sum() + epsilon * (transport * np.log(transport * n * m)).sum()
    )


def linear_program(costs: np.ndarray) -> float:
    """The transport cost without regularisation."""
    n, m = costs.shape
    rows = np.kron(np.eye(n), np.ones((1, m)))
    columns = np.kron(np.ones((1, n)), np.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return float(linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=marginals).fun)


def value_at(task: OptimalTransport, prices: Tensor) -> dict[str, float]:
    model = task.model(0)
    with torch.no_grad():
        next(model.parameters()).copy_(prices)
    return task.evaluate(model, "val")


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03])
def test_solution_is_that_of_the_plain_iteration(epsilon: float) -> None:
    task = OptimalTransport(**SMALL, epsilon=epsilon)
    expected, cost = plain_sinkhorn(task.costs.numpy(), epsilon)
    transport = plan(task.costs, task.weights[0], epsilon, task.optimum) / len(task.costs)
    np.testing.assert_allclose(transport.numpy(), expected, atol=1e-9)
    # the semi-dual's maximum is the primal's minimum
    assert task.cost == pytest.approx(cost, rel=1e-9)
    at_best = value_at(task, task.optimum)
    assert at_best["gap"] < 1e-12
    assert at_best["marginal_error"] < 1e-9


def test_cost_comes_near_the_linear_programme_as_epsilon_falls() -> None:
    lowest = linear_program(OptimalTransport(**SMALL).costs.numpy())
    for epsilon in (0.1, 0.01, 0.003):
        excess = OptimalTransport(**SMALL, epsilon=epsilon).cost - lowest
        assert 0 < excess < epsilon * math.log(min(SMALL.values()))


def test_gap_is_the_distance_of_the_semi_dual_from_its_maximum() -> None:
    task = OptimalTransport(**SMALL, epsilon=0.05)
    prices = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = prices.mean() - 0.05 * ((prices - task.costs) / 0.05).exp().mean(dim=1).log().mean()
    assert value_at(task, prices)["gap"] == pytest.approx(task.cost - float(value), rel=1e-10)
    assert value_at(task, prices + 3)["gap"] == pytest.approx(
        value_at(task, prices)["gap"], rel=1e-10
    )


def test_gradient_and_hessian_are_the_formulas_and_the_gauss_newton_matrix_is_the_hessian() -> None:
    task = OptimalTransport(**SMALL, epsilon=0.05)
    model = task.model(1)
    objective = Objective(model, task.loss_fn, *next(task.batches("train", 0)))
    (prices,) = (parameter.detach() for parameter in model.parameters())
    shares = plan(task.costs, task.weights[0], 0.05, prices)
    marginal = shares.mean(dim=0)
    objective()
    torch.testing.assert_close(objective.gradient(), (marginal - 1 / 8) / 0.05)
    expected = (marginal.diag() - shares.T @ shares / len(shares)) / 0.05**2
    for curvature in (objective.hessian(), objective.ggn()):
        matrix = torch.stack([curvature(unit) for unit in torch.eye(8, dtype=torch.float64)])
        torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-9)
    eigenvalues = torch.linalg.eigvalsh(expected)
    assert abs(float(eigenvalues[0])) < 1e-10 < float(eigenvalues[1])


def test_condition_grows_as_epsilon_falls() -> None:
    conditions = []
    for epsilon in (0.1, 0.01, 0.003):
        task = OptimalTransport(points=100, target_points=50, epsilon=epsilon)
        shares = plan(task.costs, task.weights[0], epsilon, task.optimum)
        eigenvalues = torch.linalg.eigvalsh(
            shares.mean(dim=0).diag() - shares.T @ shares / len(shares)
        )
        conditions.append(float(eigenvalues[-1] / eigenvalues[1]))
    assert conditions[0] < 20 < conditions[1] < 100 < conditions[2]


def test_sinkhorn_sweeps_raise_the_semi_dual() -> None:
    task = OptimalTransport(**SMALL, epsilon=0.02)
    prices, gaps = torch.zeros(8, dtype=torch.float64), []
    for _ in range(5):
        gaps.append(value_at(task, prices)["gap"])
        prices = sinkhorn(task.costs, task.weights[0], 0.02, prices, 20)
    assert all(later < before for before, later in pairwise(gaps))


def test_seeds_draw_clouds_and_starts() -> None:
    task, other = OptimalTransport(**SMALL), OptimalTransport(**SMALL, problem_seed=1)
    assert not torch.equal(task.costs, other.costs)
    assert float(task.costs.mean()) == pytest.approx(1)
    still = OptimalTransport(**SMALL, spread=0.0).model(5)
    assert not next(still.parameters()).any()


def test_prices_that_overflow_are_not_called_solved() -> None:
    task = OptimalTransport(**SMALL)
    assert math.isnan(value_at(task, torch.full((8,), torch.nan, dtype=torch.float64))["gap"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon must be above 0, got 0\.0"),
        (
            {"epsilon": 1e-5},
            r"epsilon=1e-05 is too small: the marginal of the best plan found is off by",
        ),
        ({"points": 0}, "points must be above 0, got 0"),
        ({"target_points": 1}, "target_points must be at least 2, got 1"),
        ({"spread": -1.0}, r"spread must be at least 0, got -1\.0"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimalTransport(**arguments)
