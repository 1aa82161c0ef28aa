"""Newton's method: modified factorisations, line searches, order of convergence, saddles,
refusals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from optimizers import Iterate, Objective, UnsupportedError, minimize
from optimizers.linalg.decompositions import shifted_cholesky
from optimizers.newton import Newton
from tests.optimizers.cases import CASES, Identity, Problem, Reference, Residuals, Scalar, close

ZERO = torch.zeros(1, 1)
EYE = torch.eye(3, dtype=torch.float64)

modifications = pytest.mark.parametrize("modification", ["cholesky", "eigen", "none"])
searches = pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe", "none"])


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def point(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def symmetric(seed: int, size: int, shift: float = 0.0) -> Tensor:
    matrix = torch.randn(
        size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return matrix + matrix.T + shift * torch.eye(size, dtype=torch.float64)


def saddle(x: Tensor) -> Tensor:
    return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


# -- the modified Cholesky factorisation -----------------------------------------------------------


def first_shift(matrix: Tensor, beta: float) -> float:
    """The first of the sequence of Nocedal and Wright's Algorithm 3.3 that makes the smallest
    eigenvalue positive."""
    step, smallest = beta * np.abs(matrix.numpy()).max(), matrix.diagonal().min().item()
    tau = 0.0 if smallest > 0 else step - smallest
    while np.linalg.eigvalsh(matrix.numpy() + tau * np.eye(len(matrix)))[0] <= 0:
        tau = max(2 * tau, step)
    return tau


@pytest.mark.parametrize("beta", [1e-3, 1e-1])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 4.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_shift_is_the_first_that_makes_the_matrix_positive_definite(
    seed: int, shift: float, beta: float
) -> None:
    matrix = symmetric(seed, 6, shift)
    decomposed = shifted_cholesky(matrix, beta)
    assert decomposed is not None
    factor, tau = decomposed
    assert tau == pytest.approx(first_shift(matrix, beta), rel=1e-12)
    close(factor @ factor.T, matrix + tau * torch.eye(6, dtype=torch.float64), 1e-12)


def test_a_positive_definite_matrix_is_left_alone_however_it_is_scaled() -> None:
    scales = torch.logspace(-8, 8, 5, dtype=torch.float64)
    matrix = symmetric(0, 5, 10.0) * scales[:, None] * scales
    factor = shifted_cholesky(matrix)
    assert factor is not None
    assert factor[1] == 0


def test_a_singular_matrix_counts_as_not_positive_definite() -> None:
    ones = torch.ones(4, 4, dtype=torch.float64) / 3
    factor = shifted_cholesky(ones)
    assert factor is not None
    assert factor[1] == pytest.approx(1e-3 / 3)
    zero = shifted_cholesky(torch.zeros(2, 2))
    assert zero is not None
    assert zero[1] == pytest.approx(1e-3)
    assert shifted_cholesky(torch.full((2, 2), float("nan"))) is None


# -- directions ------------------------------------------------------------------------------------


@modifications
@searches
def test_one_step_on_a_convex_quadratic(modification: str, line_search: str) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator))
    matrix = (basis * torch.logspace(-2, 3, 8, dtype=torch.float64)) @ basis.T
    target = torch.randn(8, dtype=torch.float64, generator=generator)
    problem = scalar([1.0] * 8, lambda x: (x - target) @ matrix @ (x - target) / 2 + 3)
    optimizer = Newton(
        problem.model.parameters(), modification=modification, line_search=line_search
    )
    before = problem.objective().value()
    assert torch.equal(optimizer.step(problem.objective()), before)
    close(flat(problem), target, 1e-9)


@pytest.mark.parametrize("modification", ["cholesky", "eigen"])
def test_a_step_on_a_network_solves_with_the_modified_hessian(modification: str) -> None:
    problem = CASES["mlp_ce"]()
    reference = Reference(problem, 0.01)
    hessian, gradient = torch.func.hessian(reference.loss)(reference.theta), reference.gradient()
    values, vectors = torch.linalg.eigh(hessian)
    assert float(values[0]) < 0
    if modification == "cholesky":
        modified = hessian + first_shift(hessian, 1e-3) * torch.eye(
            len(hessian), dtype=torch.float64
        )
    else:
        modified = (vectors * values.abs()) @ vectors.T
    Newton(problem.model.parameters(), lr=0.1, modification=modification, line_search="none").step(
        problem.objective(0.01)
    )
    close(flat(problem) - reference.theta, -0.1 * torch.linalg.solve(modified, gradient), 1e-7)


@modifications
@searches
def test_a_singular_hessian_gives_finite_steps(modification: str, line_search: str) -> None:
    problem = scalar([3.0, 1.0], lambda x: (x[0] + x[1] - 1) ** 2)
    optimizer = Newton(
        problem.model.parameters(), modification=modification, line_search=line_search
    )
    for _ in range(6):
        optimizer.step(problem.objective())
    close(flat(problem), point(1.5, -0.5), 1e-8)  # no part of the step in the null space


@modifications
def test_a_gradient_in_the_null_space_of_the_hessian_gives_a_finite_step_downhill(
    modification: str,
) -> None:
    problem = scalar([0.0, 0.0], lambda x: x[0] + x[1] ** 2)
    Newton(problem.model.parameters(), modification=modification).step(problem.objective())
    assert float(problem.objective().value()) < 0
    assert bool(problem.params[0].isfinite().all())


# -- saddles ---------------------------------------------------------------------------------------


def test_the_pure_method_converges_to_the_saddle() -> None:
    result = minimize(
        saddle, point(1.0, 1e-3), "newton", tol=1e-12, modification="none", line_search="none"
    )
    assert result.success
    assert abs(result.fun) < 1e-12
    assert float(result.x.abs().max()) < 1e-6


@pytest.mark.parametrize("modification", ["cholesky", "eigen"])
@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
def test_the_modified_method_leaves_the_saddle(modification: str, line_search: str) -> None:
    result = minimize(
        saddle,
        point(1.0, 1e-3),
        "newton",
        tol=1e-12,
        modification=modification,
        line_search=line_search,
    )
    assert result.success
    assert result.fun == pytest.approx(-1, abs=1e-12)
    close(result.x.abs(), point(0.0, 2**0.5), 1e-8)


def test_the_pure_method_with_a_line_search_follows_the_gradient_where_newton_leads_uphill() -> (
    None
):
    problem = scalar([0.5], lambda x: torch.cos(x).sum())
    optimizer = Newton(problem.model.parameters(), modification="none")
    optimizer.step(problem.objective())
    assert float(flat(problem)) == pytest.approx(0.5 + np.sin(0.5))


# -- line searches and the order of convergence ----------------------------------------------------


@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
def test_the_order_on_rosenbrock_is_two(line_search: str) -> None:
    """Near the minimum f is the square of the error in a suitable norm, so its order is the
    same."""
    losses: list[float] = []
    values: list[int] = []

    def note(iterate: Iterate) -> None:
        losses.append(iterate.fun)
        values.append(iterate.counts["value"])

    assert minimize(
        rosenbrock, point(-1.2, 1.0), "newton", tol=1e-13, line_search=line_search, callback=note
    ).success
    tail = [f for f in losses if 0 < f < 1e-3][-3:]
    first, second = (math.log(after / before) for before, after in itertools.pairwise(tail))
    assert second / first > 1.8
    # alpha = 1 is accepted at once
    assert [b - a for a, b in itertools.pairwise(values[-4:])] == [2, 2, 2]


@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
def test_the_gradient_vanishes_also_where_the_loss_no_longer_shows_it(line_search: str) -> None:
    """With 1e6 added, the loss resolves 1e-10: an error of 1e-6 in x, which one step squares."""
    result = minimize(
        lambda x: rosenbrock(x) + 1e6,
        point(-1.2, 1.0),
        "newton",
        tol=1e-11,
        line_search=line_search,
        max_steps=60,
    )
    assert result.success, result.message


def test_at_the_limit_of_precision_it_says_that_it_is_stuck() -> None:
    result = minimize(
        lambda x: torch.exp(x).sum() - 3.3 * x.sum() + 1e6,
        point(0.0, 1.0),
        "newton",
        tol=0.0,
        max_steps=200,
    )
    assert result.status in ("stalled", "converged")
    assert result.grad_norm < 1e-14
    assert result.steps < 50


@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
def test_the_line_search_makes_a_divergent_iteration_converge(line_search: str) -> None:
    """For sqrt(1 + x^2) the pure method is x -> -x^3."""

    def curve(x: Tensor) -> Tensor:
        return torch.sqrt(1 + x**2).sum()

    pure = minimize(
        curve, point(2.0), "newton", line_search="none", modification="none", max_steps=3
    )
    assert float(pure.x) == pytest.approx(-(2 ** (3**3)), rel=1e-6)
    assert minimize(curve, point(2.0), "newton", line_search=line_search, tol=1e-12).success


@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
def test_trials_outside_of_the_domain_are_shortened(line_search: str) -> None:
    """x - log x: from 3 the Newton step ends at -3."""
    result = minimize(
        lambda x: (x - torch.log(x)).sum(), point(3.0), "newton", line_search=line_search, tol=1e-12
    )
    reference = minimize_scalar(lambda x: x - np.log(x), bracket=(0.5, 1.5))
    assert result.success
    assert float(result.x) == pytest.approx(reference.x, abs=1e-7)


def test_strong_wolfe_tells_the_objective_what_it_found() -> None:
    problem = CASES["rosenbrock"]()
    objective = problem.objective()
    Newton(problem.model.parameters(), line_search="strong_wolfe").step(objective)
    counts = dict(objective.counts)
    loss, gradient = objective.value_and_gradient()
    assert objective.counts == counts
    reference = Reference(problem)
    assert float(loss) == pytest.approx(float(reference.loss(reference.theta)), rel=1e-12)
    close(gradient, reference.gradient(), 1e-10)


# -- refusals --------------------------------------------------------------------------------------


class Cliff(nn.Module):
    """Infinite everywhere but at the start."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        square = outputs.square().sum()
        return torch.where(square.detach() == 5.0, square, square + float("inf"))


@pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
def test_a_search_that_finds_nothing_leaves_the_parameters_and_says_so(line_search: str) -> None:
    problem = Problem(Residuals([1.0, 2.0], lambda x: x), Cliff(), ZERO, ZERO)
    optimizer = Newton(problem.model.parameters(), max_trials=6, line_search=line_search)
    objective = problem.objective()
    assert float(optimizer.step(objective)) == 5.0
    assert torch.equal(flat(problem), point(1.0, 2.0))
    assert objective.counts["value"] == 1 + 6
    assert optimizer.stuck == "no step along the Newton direction lowers the loss"


@modifications
def test_stationary_points_and_hessians_that_are_not_finite(modification: str) -> None:
    still = scalar([0.0, 0.0], saddle)
    optimizer = Newton(still.model.parameters(), modification=modification)
    optimizer.step(still.objective())
    assert optimizer.stuck == "the gradient is zero"
    broken = scalar([0.0, 1.0], lambda x: x.abs().pow(1.5).sum())
    optimizer = Newton(broken.model.parameters(), modification=modification)
    optimizer.step(broken.objective())
    assert optimizer.stuck == "the Hessian is not finite"
    assert torch.equal(flat(broken), point(0.0, 1.0))


def test_too_many_parameters_are_refused_with_what_fits() -> None:
    with pytest.raises(
        UnsupportedError, match=r"10 parameters need .* GiB .* newton_cg, trust_region and tron"
    ):
        Newton(nn.Linear(4, 2).parameters(), max_parameters=9)
    Newton(nn.Linear(4, 2).parameters(), max_parameters=10)


def test_all_parameters_of_the_model_in_its_order() -> None:
    problem = CASES["mlp_ce"]()
    params = problem.params
    for wrong in (params[:-1], params[::-1], [{"params": params[:2]}, {"params": params[2:]}]):
        with pytest.raises(ValueError, match="Newton needs all trainable parameters"):
            Newton(wrong).step(problem.objective())


# -- counts and precision --------------------------------------------------------------------------


def test_counts_of_a_step() -> None:
    problem = scalar([1.0, 2.0, 3.0], lambda x: (x**2 / 2).sum())
    for line_search, counts in {
        "armijo": {"value": 2, "grad": 1, "hvp": 3},
        "strong_wolfe": {"value": 2, "grad": 2, "hvp": 3},
        "none": {"value": 1, "grad": 1, "hvp": 3},
    }.items():
        with torch.no_grad():
            problem.params[0].copy_(point(1.0, 2.0, 3.0))
        objective = problem.objective()
        Newton(problem.model.parameters(), line_search=line_search).step(objective)
        assert objective.counts == counts
        close(flat(problem) + 1, torch.ones(3, dtype=torch.float64))
    assert Newton.needs == {"hessian"}


@modifications
def test_single_precision(modification: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(20, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.5
    Newton(model.parameters(), modification=modification).step(
        Objective(model, nn.MSELoss(), inputs, targets)
    )
    close(model.weight.detach(), torch.tensor([[1.0, 2.0, -1.0]]), 1e-5)
