"""Newton and saddle-free Newton: closed forms, refusals, damping."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from optimizers import Objective, Unsupported
from optimizers.newton.newton import Newton
from tests.optimizers.cases import CASES, Identity, Problem, Reference, Residuals, Scalar, close

ZERO = torch.zeros(1, 1)


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def quadratic(matrix: Tensor, start: list[float]) -> Problem:
    return scalar(start, lambda x: x @ matrix @ x / 2)


def saddle(start: tuple[float, float] = (1.0, 1e-3)) -> Problem:
    return scalar(list(start), lambda x: 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4)


@pytest.mark.parametrize("saddle_free", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
def test_one_step_on_a_convex_quadratic(saddle_free: bool, adaptive: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator))
    matrix = (basis * torch.logspace(-2, 3, 8, dtype=torch.float64)) @ basis.T
    target = torch.randn(8, dtype=torch.float64, generator=generator)
    problem = scalar([1.0] * 8, lambda x: (x - target) @ matrix @ (x - target) / 2 + 3)
    optimizer = Newton(problem.model.parameters(), damping=0.0, saddle_free=saddle_free, adaptive=adaptive)
    before = problem.objective().value()
    loss = optimizer.step(problem.objective())
    assert torch.equal(loss, before)
    close(problem.params[0].detach(), target)
    assert float(problem.objective().value()) == pytest.approx(3, abs=1e-12)


def test_saddle_free_step_doubles_along_negative_curvature() -> None:
    spectrum = torch.tensor([3.0, -2.0, 0.5, -0.1], dtype=torch.float64)
    problem = quadratic(torch.diag(spectrum), [1.0, 2.0, 3.0, 4.0])
    Newton(problem.model.parameters(), damping=0.0, adaptive=False).step(problem.objective())
    close(problem.params[0].detach(), torch.tensor([0.0, 4.0, 0.0, 8.0], dtype=torch.float64))


def test_plain_newton_step_goes_to_the_saddle() -> None:
    problem = quadratic(torch.diag(torch.tensor([3.0, -2.0], dtype=torch.float64)), [1.0, 2.0])
    Newton(problem.model.parameters(), damping=0.0, adaptive=False, saddle_free=False).step(problem.objective())
    assert float(problem.params[0].detach().abs().max()) < 1e-12


def test_adaptive_newton_refuses_the_rise_that_its_model_predicts() -> None:
    problem = quadratic(torch.diag(torch.tensor([-2.0, -3.0], dtype=torch.float64)), [1.0, 2.0])
    optimizer = Newton(problem.model.parameters(), damping=1e-3, saddle_free=False, max_trials=3)
    before = problem.objective().value()
    optimizer.step(problem.objective())
    assert float(problem.objective().value()) <= float(before)
    assert optimizer.param_groups[0]["damping"] > 1e-3


@pytest.mark.parametrize("adaptive", [True, False])
def test_saddle_function_is_left_by_saddle_free_newton(adaptive: bool) -> None:
    problem = saddle()
    optimizer = Newton(problem.model.parameters(), damping=1e-6, adaptive=adaptive)
    for _ in range(40):
        optimizer.step(problem.objective())
    assert float(problem.objective().value()) == pytest.approx(-1, abs=1e-10)
    close(problem.params[0].detach().abs(), torch.tensor([0.0, 2**0.5], dtype=torch.float64), 1e-6)


def test_saddle_function_holds_plain_newton() -> None:
    problem = saddle()
    optimizer = Newton(problem.model.parameters(), damping=0.0, saddle_free=False, adaptive=False)
    for _ in range(40):
        optimizer.step(problem.objective())
    assert abs(float(problem.objective().value())) < 1e-12
    assert float(problem.params[0].detach().abs().max()) < 1e-6


def test_rosenbrock_to_scipys_solution() -> None:
    problem = CASES["rosenbrock"]()
    optimizer = Newton(problem.model.parameters(), damping=1e-3)
    for _ in range(60):
        optimizer.step(problem.objective())
    reference = minimize(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0], method="BFGS")
    assert float(problem.objective().value()) < 1e-20
    close(problem.params[0].detach(), torch.from_numpy(reference.x), 1e-4)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_mse_sum", "mlp_mse"])
@pytest.mark.parametrize("saddle_free", [True, False])
def test_a_step_is_the_dense_solve_with_scaled_damping(name: str, saddle_free: bool) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.2)
    hessian, gradient = reference.hessian(), reference.gradient()
    objective = problem.objective(0.2)
    objective.value()
    values, vectors = torch.linalg.eigh(hessian)
    curvature = (vectors * (values.abs() if saddle_free else values)) @ vectors.T
    damped = curvature + 0.3 * objective.scale * torch.eye(len(gradient)).double()
    optimizer = Newton(problem.model.parameters(), lr=0.5, damping=0.3, saddle_free=saddle_free, adaptive=False)
    optimizer.step(objective)
    moved = torch.cat([p.detach().flatten() for p in problem.params]) - reference.theta
    close(moved, -0.5 * torch.linalg.solve(damped, gradient), 1e-9)


def test_same_trajectory_whatever_the_reduction() -> None:
    ends = []
    for name in ("mlp_mse", "mlp_mse_sum", "mlp_mse_example"):
        problem = CASES[name]()
        optimizer = Newton(problem.model.parameters(), damping=0.1)
        for _ in range(6):
            optimizer.step(problem.objective())
        ends.append(torch.cat([p.detach().flatten() for p in problem.params]))
    close(ends[1], ends[0], 1e-8)
    close(ends[2], ends[0], 1e-8)


def test_damping_adapts() -> None:
    problem = quadratic(torch.eye(2).double(), [1.0, 2.0])
    optimizer = Newton(problem.model.parameters(), damping=1e-3)
    optimizer.step(problem.objective())
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-3 / 3)


def test_refused_steps_leave_the_parameters_and_raise_the_damping() -> None:
    class Cliff(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            square = outputs.square().sum()
            return torch.where(square.detach() == 5.0, square, square + float("inf"))

    problem = Problem(Residuals([1.0, 2.0], lambda x: x), Cliff(), ZERO, ZERO)
    before = problem.params[0].detach().clone()
    optimizer = Newton(problem.model.parameters(), damping=1e-3, max_trials=4)
    objective = problem.objective()
    loss = optimizer.step(objective)
    assert float(loss) == 5.0
    assert torch.equal(problem.params[0], before)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-3 * 4**4)
    assert objective.counts["value"] == 1 + 4
    undamped = Newton(problem.model.parameters(), damping=0.0, max_trials=4)
    undamped.step(objective)
    assert objective.counts["value"] == 5 + 2  # without damping every further trial would be the same


def test_at_a_minimum_nothing_moves_and_the_damping_does_not_grow() -> None:
    problem = quadratic(torch.eye(2).double(), [0.0, 0.0])
    optimizer = Newton(problem.model.parameters())
    optimizer.step(problem.objective())
    assert torch.equal(problem.params[0], torch.zeros(2).double())
    assert optimizer.param_groups[0]["damping"] <= 1e-3


def test_too_many_parameters() -> None:
    with pytest.raises(Unsupported, match="10 parameters"):
        Newton(nn.Linear(4, 2).parameters(), max_parameters=9)
    Newton(nn.Linear(4, 2).parameters(), max_parameters=10)


def test_all_parameters_of_the_model_in_its_order() -> None:
    problem = CASES["mlp_ce"]()
    params = problem.params
    for wrong in (params[:-1], params[::-1], [{"params": params[:2]}, {"params": params[2:]}]):
        with pytest.raises(ValueError, match="Newton needs all trainable parameters"):
            Newton(wrong).step(problem.objective())


def test_counts_of_a_step() -> None:
    problem = CASES["rosenbrock"]()
    objective = problem.objective()
    Newton(problem.model.parameters(), adaptive=False).step(objective)
    assert objective.counts == {"value": 1, "grad": 1, "hvp": 2}
    assert Newton.needs == {"hessian"}


def test_single_precision() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(20, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.5
    Newton(model.parameters(), damping=0.0).step(Objective(model, nn.MSELoss(), inputs, targets))
    close(model.weight.detach(), torch.tensor([[1.0, 2.0, -1.0]]), 1e-5)
