"""Saddle-free Newton.

Closed forms, dense references, refusals, damping, and the Krylov form against the exact one.
"""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.newton import SaddleFreeNewton
from tests.optimizers.cases import CASES, Identity, Problem, Reference, Residuals, Scalar, close

ZERO = torch.zeros(1, 1)

forms = pytest.mark.parametrize("form", ["exact", "lanczos"])
adaptivity = pytest.mark.parametrize("adaptive", [True, False])


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def quadratic(matrix: Tensor, start: list[float]) -> Problem:
    return scalar(start, lambda x: x @ matrix @ x / 2)


def diagonal(*spectrum: float) -> Tensor:
    return torch.diag(torch.tensor(spectrum, dtype=torch.float64))


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


# -- closed forms ----------------------------------------------------------------------------------


@forms
@adaptivity
def test_one_step_on_a_convex_quadratic(form: str, adaptive: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator))
    matrix = (basis * torch.logspace(-2, 3, 8, dtype=torch.float64)) @ basis.T
    target = torch.randn(8, dtype=torch.float64, generator=generator)
    problem = scalar([1.0] * 8, lambda x: (x - target) @ matrix @ (x - target) / 2 + 3)
    optimizer = SaddleFreeNewton(
        problem.model.parameters(), damping=0.0, form=form, adaptive=adaptive
    )
    before = problem.objective().value()
    loss = optimizer.step(problem.objective())
    assert torch.equal(loss, before)
    close(problem.params[0].detach(), target, 1e-8)
    assert float(problem.objective().value()) == pytest.approx(3, abs=1e-12)


@forms
def test_a_step_doubles_along_negative_curvature(form: str) -> None:
    problem = quadratic(diagonal(3.0, -2.0, 0.5, -0.1), [1.0, 2.0, 3.0, 4.0])
    SaddleFreeNewton(problem.model.parameters(), damping=0.0, form=form, adaptive=False).step(
        problem.objective()
    )
    close(problem.params[0].detach(), torch.tensor([0.0, 4.0, 0.0, 8.0], dtype=torch.float64))


@forms
@adaptivity
def test_the_saddle_function_is_left(form: str, adaptive: bool) -> None:
    problem = scalar([1.0, 1e-3], lambda x: 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4)
    optimizer = SaddleFreeNewton(
        problem.model.parameters(), damping=1e-6, form=form, adaptive=adaptive
    )
    for _ in range(40):
        optimizer.step(problem.objective())
    assert float(problem.objective().value()) == pytest.approx(-1, abs=1e-10)
    close(problem.params[0].detach().abs(), torch.tensor([0.0, 2**0.5], dtype=torch.float64), 1e-6)


@forms
def test_rosenbrock_to_scipys_solution(form: str) -> None:
    problem = CASES["rosenbrock"]()
    optimizer = SaddleFreeNewton(problem.model.parameters(), damping=1e-3, form=form)
    for _ in range(60):
        optimizer.step(problem.objective())
    reference = minimize(
        lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0], method="BFGS"
    )
    assert float(problem.objective().value()) < 1e-20
    close(problem.params[0].detach(), torch.from_numpy(reference.x), 1e-4)


# -- dense references ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_mse_sum", "mlp_mse"])
def test_a_step_is_the_dense_solve_with_scaled_damping(name: str) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.2)
    hessian, gradient = torch.func.hessian(reference.loss)(reference.theta), reference.gradient()
    objective = problem.objective(0.2)
    objective.value()
    values, vectors = torch.linalg.eigh(hessian)
    assert float(values[0]) < 0
    damped = (vectors * values.abs()) @ vectors.T + 0.3 * objective.scale * torch.eye(
        len(gradient)
    ).double()
    optimizer = SaddleFreeNewton(problem.model.parameters(), lr=0.5, damping=0.3, adaptive=False)
    optimizer.step(objective)
    close(flat(problem) - reference.theta, -0.5 * torch.linalg.solve(damped, gradient), 1e-9)


def test_with_all_dimensions_the_krylov_form_is_the_exact_one() -> None:
    paths = []
    for options in ({"form": "exact"}, {"form": "lanczos", "krylov": 100}):
        problem = CASES["mlp_ce"]()
        optimizer = SaddleFreeNewton(problem.model.parameters(), damping=1e-2, **options)  # type: ignore[arg-type]
        path = []
        for _ in range(5):
            optimizer.step(problem.objective(1e-2))
            path.append(flat(problem))
        paths.append(torch.stack(path))
    close(paths[1], paths[0], 1e-6)


def test_a_krylov_step_is_the_dense_one_within_the_space_of_gradients_and_the_last_step() -> None:
    problem = CASES["mlp_mse_sum"]()
    optimizer = SaddleFreeNewton(
        problem.model.parameters(), damping=0.1, form="lanczos", krylov=2, lr=0.5, adaptive=False
    )
    start = flat(problem)
    optimizer.step(problem.objective())
    reference = Reference(problem)
    hessian, gradient, previous = reference.hessian(), reference.gradient(), reference.theta - start
    objective = problem.objective()
    optimizer.step(objective)
    assert objective.counts["hvp"] == 3
    basis, _ = torch.linalg.qr(torch.stack([gradient, hessian @ gradient, previous], dim=1))
    values, vectors = torch.linalg.eigh(basis.T @ hessian @ basis)
    ritz = basis @ vectors
    expected = -0.5 * ritz @ (ritz.T @ gradient / (values.abs() + 0.1 * objective.scale))
    close(flat(problem) - reference.theta, expected, 1e-9)


@forms
def test_same_trajectory_whatever_the_reduction(form: str) -> None:
    ends = []
    for name in ("mlp_mse", "mlp_mse_sum", "mlp_mse_example"):
        problem = CASES[name]()
        optimizer = SaddleFreeNewton(problem.model.parameters(), damping=0.1, form=form, krylov=10)
        for _ in range(6):
            optimizer.step(problem.objective())
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-8)
    close(ends[2], ends[0], 1e-8)


# -- refusals and damping --------------------------------------------------------------------------


def test_damping_adapts() -> None:
    problem = quadratic(diagonal(1.0, 1.0), [1.0, 2.0])
    optimizer = SaddleFreeNewton(problem.model.parameters(), damping=1e-3)
    optimizer.step(problem.objective())
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-3 / 3)


def test_a_rise_is_refused_even_where_the_model_predicts_it() -> None:
    """Three times the Newton step overshoots a quadratic until damping has halved it."""
    problem = quadratic(diagonal(1.0, 1.0), [1.0, 2.0])
    optimizer = SaddleFreeNewton(problem.model.parameters(), lr=3.0, damping=0.1)
    objective = problem.objective()
    optimizer.step(objective)
    assert float(problem.objective().value()) < 2.5
    assert objective.counts["value"] == 1 + 3  # refused at damping 0.1 and 0.4, taken at 1.6
    close(problem.params[0].detach(), (1 - 3 / 2.6) * torch.tensor([1.0, 2.0], dtype=torch.float64))


class Cliff(nn.Module):
    """Infinite everywhere but at the start."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        square = outputs.square().sum()
        return torch.where(square.detach() == 5.0, square, square + float("inf"))


def test_refused_steps_leave_the_parameters_and_raise_the_damping() -> None:
    problem = Problem(Residuals([1.0, 2.0], lambda x: x), Cliff(), ZERO, ZERO)
    before = flat(problem).clone()
    optimizer = SaddleFreeNewton(problem.model.parameters(), damping=1e-3, max_trials=4)
    objective = problem.objective()
    loss = optimizer.step(objective)
    assert float(loss) == 5.0
    assert torch.equal(problem.params[0], before)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-3 * 4**4)
    assert objective.counts["value"] == 1 + 4
    assert optimizer.stuck == ""  # the next step goes on with more damping


def test_where_damping_cannot_grow_a_refusal_says_so() -> None:
    problem = Problem(Residuals([1.0, 2.0], lambda x: x), Cliff(), ZERO, ZERO)
    undamped = SaddleFreeNewton(problem.model.parameters(), damping=0.0, max_trials=4)
    objective = problem.objective()
    undamped.step(objective)
    assert objective.counts["value"] == 2  # without damping every further trial would be the same
    assert "damping=0 " in undamped.stuck
    full = SaddleFreeNewton(problem.model.parameters(), damping=1e12)
    full.step(problem.objective())
    assert "damping=1e+12" in full.stuck


@forms
def test_at_a_minimum_nothing_moves_and_the_damping_does_not_grow(form: str) -> None:
    problem = quadratic(diagonal(1.0, 1.0), [0.0, 0.0])
    optimizer = SaddleFreeNewton(problem.model.parameters(), form=form)
    optimizer.step(problem.objective())
    assert torch.equal(problem.params[0], torch.zeros(2).double())
    assert optimizer.param_groups[0]["damping"] <= 1e-3
    assert optimizer.stuck == "the gradient is zero"


@forms
def test_a_hessian_that_is_not_finite_moves_nothing(form: str) -> None:
    problem = scalar([0.0, 1.0], lambda x: x.abs().pow(1.5).sum())
    optimizer = SaddleFreeNewton(problem.model.parameters(), form=form)
    assert float(optimizer.step(problem.objective())) == 1.0
    assert torch.equal(problem.params[0], torch.tensor([0.0, 1.0]).double())
    assert optimizer.stuck == "the Hessian is not finite"


@forms
def test_a_singular_hessian_gives_finite_steps(form: str) -> None:
    problem = scalar([3.0, 1.0], lambda x: (x[0] + x[1] - 1) ** 2)
    optimizer = SaddleFreeNewton(problem.model.parameters(), damping=0.0, form=form)
    optimizer.step(problem.objective())
    close(problem.params[0].detach(), torch.tensor([1.5, -0.5], dtype=torch.float64))


# -- sizes, counts, precision ----------------------------------------------------------------------


def test_the_form_follows_the_number_of_parameters() -> None:
    with pytest.raises(UnsupportedError, match=r"10 parameters .* form=lanczos"):
        SaddleFreeNewton(nn.Linear(4, 2).parameters(), form="exact", max_parameters=9)
    assert SaddleFreeNewton(nn.Linear(4, 2).parameters(), max_parameters=9).form == "lanczos"
    assert SaddleFreeNewton(nn.Linear(4, 2).parameters(), max_parameters=10).form == "exact"


def test_all_parameters_of_the_model_in_its_order() -> None:
    problem = CASES["mlp_ce"]()
    params = problem.params
    for wrong in (params[:-1], params[::-1], [{"params": params[:2]}, {"params": params[2:]}]):
        with pytest.raises(ValueError, match="SaddleFreeNewton needs all trainable parameters"):
            SaddleFreeNewton(wrong).step(problem.objective())


def test_counts_of_a_step() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    SaddleFreeNewton(problem.model.parameters(), adaptive=False).step(objective)
    assert objective.counts == {"value": 1, "grad": 1, "hvp": 43}
    objective = problem.objective()
    optimizer = SaddleFreeNewton(
        problem.model.parameters(), adaptive=False, form="lanczos", krylov=4
    )
    optimizer.step(objective)
    assert objective.counts == {"value": 1, "grad": 1, "hvp": 4}
    optimizer.step(objective)
    assert objective.counts["hvp"] == 4 + 5
    assert SaddleFreeNewton.needs == {"hessian"}


@forms
def test_single_precision(form: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(20, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.5
    SaddleFreeNewton(model.parameters(), damping=0.0, form=form).step(
        Objective(model, nn.MSELoss(), inputs, targets)
    )
    close(model.weight.detach(), torch.tensor([[1.0, 2.0, -1.0]]), 1e-5)
