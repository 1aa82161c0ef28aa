"""Gauss-Newton and the linear least squares below it: closed forms, rank, line search, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import optimizers
from optimizers import Objective, UnsupportedError
from optimizers.least_squares import GaussNewton
from optimizers.linalg.least_squares import DampedLeastSquares
from tests.optimizers.cases import CASES, Problem, Reference, Residuals, close

FORMS = ("svd", "primal", "dual", "auto")
SHAPES = [(12, 5), (5, 12), (6, 6)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def nonlinear(start: Sequence[float], residuals: Callable[[Tensor], Tensor]) -> Problem:
    """The loss |residuals(x)|^2."""
    count = len(residuals(torch.tensor(start, dtype=torch.float64)))
    targets = torch.zeros(1, count, dtype=torch.float64)
    return Problem(
        Residuals(start, residuals), nn.MSELoss(reduction="sum"), torch.zeros(1, 1), targets
    )


def linear(matrix: Tensor, b: Tensor, start: Sequence[float] | None = None) -> Problem:
    return nonlinear(start or [0.0] * matrix.shape[1], lambda x: matrix @ x - b)


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def graded(rows: int, columns: int, condition: float) -> Tensor:
    """A matrix whose singular values fall evenly from 1 to 1 / condition."""
    left, _ = torch.linalg.qr(normal(rows, columns, seed=1))
    right, _ = torch.linalg.qr(normal(columns, columns, seed=2))
    return (
        left
        * torch.logspace(0, -torch.tensor(condition).log10(), columns, dtype=torch.float64)
        @ right
    )


# -- the linear problem ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaled", [False, True])
def test_every_form_is_the_qr_solution_of_the_stacked_problem(
    form: str, shape: tuple[int, int], scaled: bool
) -> None:
    rows, columns = shape
    matrix, residuals = normal(rows, columns), normal(rows, seed=1)
    scales = (
        normal(columns, seed=2).abs() + 0.1 if scaled else torch.ones(columns, dtype=torch.float64)
    )
    system = DampedLeastSquares(matrix, scales if scaled else None, form)
    for damping in (1e-3, 1.0, 1e3):
        stacked = torch.cat([matrix, damping**0.5 * torch.diag(scales)])
        expected = torch.linalg.lstsq(
            stacked, torch.cat([-residuals, torch.zeros(columns).double()])
        ).solution
        step = system.solve(damping, residuals)
        assert step is not None
        close(step, expected, 1e-10)
        assert system.length(step) == pytest.approx(float((scales * expected).norm()))


def test_primal_and_dual_forms_agree() -> None:
    for shape in SHAPES:
        matrix, residuals = normal(*shape), normal(shape[0], seed=1)
        for damping in (1e-4, 1e-2, 10.0):
            primal = DampedLeastSquares(matrix, None, "primal").solve(damping, residuals)
            dual = DampedLeastSquares(matrix, None, "dual").solve(damping, residuals)
            assert primal is not None
            assert dual is not None
            close(primal, dual, 1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_limits_of_the_damping(form: str) -> None:
    matrix, residuals = normal(12, 5), normal(12, seed=1)
    scales = torch.tensor([1.0, 2.0, 0.5, 10.0, 0.1], dtype=torch.float64)
    system = DampedLeastSquares(matrix, scales, form)
    small, large = system.solve(1e-14, residuals), system.solve(1e12, residuals)
    assert small is not None
    assert large is not None
    close(small, -torch.linalg.lstsq(matrix, residuals[:, None]).solution[:, 0], 1e-9)
    close(1e12 * large, -(matrix.T @ residuals) / scales**2, 1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_the_condition_number_is_not_squared(form: str) -> None:
    """The normal equations would leave no digit at a condition number of 1e8."""
    matrix = graded(20, 6, 1e8)
    x = normal(6, seed=3)
    step = DampedLeastSquares(matrix, None, form).solve(0.0, -matrix @ x)
    assert step is not None
    close(step, x, 1e-6)
    naive = torch.linalg.solve(matrix.T @ matrix, matrix.T @ (matrix @ x))
    assert float((naive - x).norm() / x.norm()) > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(12, 6), (5, 9)])
def test_rank_deficient_problems_have_the_solution_of_least_norm(
    form: str, shape: tuple[int, int]
) -> None:
    rows, columns = shape
    matrix, residuals = normal(rows, 3) @ normal(3, columns, seed=1), normal(rows, seed=2)
    system = DampedLeastSquares(matrix, None, form, cut=1e-13)
    step = system.solve(0.0, residuals)
    assert step is not None
    close(step, -torch.linalg.pinv(matrix) @ residuals, 1e-9)
    assert system.rank == 3


def test_large_problems_take_the_smaller_gram_matrix_while_it_is_good_enough() -> None:
    assert DampedLeastSquares(normal(10, 4)).form == "svd"
    assert DampedLeastSquares(normal(400, 350)).form == "primal"
    wide = DampedLeastSquares(graded(400, 350, 1e5).T)
    assert wide.form == "dual"
    wide.solve(1.0, normal(350))
    assert "_svd" not in vars(wide)
    wide.solve(0.0, normal(350))
    assert "_svd" in vars(wide)


def test_a_form_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="form must be one of auto, svd, primal, dual, got 'qr'"):
        DampedLeastSquares(normal(3, 2), form="qr")


def test_zero_and_overflowing_matrices() -> None:
    for form in FORMS:
        zero = DampedLeastSquares(torch.zeros(4, 3).double(), None, form).solve(0.0, normal(4))
        assert zero is not None
        assert torch.equal(zero, torch.zeros(3).double())
    huge = DampedLeastSquares(1e200 * normal(5, 3), None, "primal").solve(
        0.0, 1e200 * normal(5, seed=1)
    )
    assert huge is not None  # the Gram matrix overflows, the singular value decomposition does not
    close(huge, -torch.linalg.pinv(normal(5, 3)) @ normal(5, seed=1))


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("line_search", ["armijo", "none"])
def test_linear_least_squares_in_one_step(form: str, line_search: str) -> None:
    matrix, b = normal(12, 5), normal(12, seed=1)
    problem = linear(matrix, b, [3.0, -1.0, 2.0, 0.5, 1.0])
    optimizer = GaussNewton(problem.model.parameters(), form=form, line_search=line_search)
    before = problem.objective().value()
    loss = optimizer.step(problem.objective())
    torch.testing.assert_close(loss, before, rtol=1e-14, atol=0)
    close(flat(problem), torch.linalg.lstsq(matrix, b[:, None]).solution[:, 0])
    assert not optimizer.stuck


def test_fewer_residuals_than_parameters_give_the_nearest_solution() -> None:
    matrix, b = normal(3, 7), normal(3, seed=1)
    start = normal(7, seed=2)
    problem = linear(matrix, b, start.tolist())
    GaussNewton(problem.model.parameters()).step(problem.objective())
    close(flat(problem), start + torch.linalg.pinv(matrix) @ (b - matrix @ start))
    assert float(problem.objective().value()) < 1e-25


@pytest.mark.parametrize("name", ["mlp_mse", "mlp_mse_sum", "mlp_mse_example", "conv", "multihead"])
def test_a_step_solves_the_gauss_newton_equations(name: str) -> None:
    """With an L2 term the matrix J'J of the network is regular, whatever the network's
    symmetries."""
    problem = CASES[name]()
    reference = Reference(problem, 0.1)
    GaussNewton(problem.model.parameters(), lr=0.5, line_search="none").step(problem.objective(0.1))
    expected = -torch.linalg.solve(reference.ggn(), reference.gradient())
    close(flat(problem) - reference.theta, 0.5 * expected, 1e-8)


def test_zero_residual_problems_converge_quadratically() -> None:
    problem = nonlinear(
        [1.2, 0.5],
        lambda x: torch.stack([x[0] ** 2 + x[1] ** 2 - 1, x[0] - x[1], x[0] * x[1] - 0.5]),
    )
    optimizer = GaussNewton(problem.model.parameters())
    errors = []
    for _ in range(5):
        optimizer.step(problem.objective())
        errors.append(float((flat(problem) - 0.5**0.5).norm()))
    for before, after in pairwise(errors):
        assert after <= max(2 * before**2, 1e-15)
    assert errors[-1] < 1e-15


def test_the_path_does_not_depend_on_the_coordinates() -> None:
    """Gauss-Newton is invariant under linear maps of the parameters: theta = A z."""
    transform = normal(3, 3) + 3 * torch.eye(3).double()
    times = torch.linspace(0, 2, 9, dtype=torch.float64)
    data = 2 * torch.exp(-0.7 * times) + 0.3 + 0.05 * normal(9, seed=4)

    def residuals(x: Tensor) -> Tensor:
        return x[0] * torch.exp(-x[1] * times) + x[2] - data

    start = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    one = nonlinear(start.tolist(), residuals)
    two = nonlinear(
        torch.linalg.solve(transform, start).tolist(), lambda z: residuals(transform @ z)
    )
    first, second = GaussNewton(one.model.parameters()), GaussNewton(two.model.parameters())
    for _ in range(6):
        first.step(one.objective())
        second.step(two.objective())
        close(transform @ flat(two), flat(one), 1e-9)


def test_the_step_is_halved_until_the_loss_falls() -> None:
    """arctan from 3: the full step overshoots to -9.5, a quarter of it lands at -0.1."""
    problem = nonlinear([3.0], torch.atan)
    objective = problem.objective()
    GaussNewton(problem.model.parameters()).step(objective)
    full = -torch.atan(torch.tensor(3.0).double()) * 10
    halvings = objective.counts["value"] - 2
    assert float(flat(problem)) == pytest.approx(3 + 0.5**halvings * float(full))
    assert abs(float(flat(problem))) < 3
    assert abs(3 + 0.5 ** (halvings - 1) * float(full)) > 3


def test_the_loss_never_rises_on_one_batch() -> None:
    for name in ("mlp_mse", "conv", "rosenbrock"):
        problem = CASES[name]()
        optimizer = GaussNewton(problem.model.parameters())
        losses = [float(optimizer.step(problem.objective(1e-3))) for _ in range(15)]
        assert all(after <= before * (1 + 1e-14) for before, after in pairwise(losses)), name
        assert losses[-1] < 0.7 * losses[0]


# -- where it ends ---------------------------------------------------------------------------------


def test_a_zero_gradient_and_zero_residuals_are_named() -> None:
    for problem in (
        nonlinear([1.0, 1.0], lambda x: x - 1),
        nonlinear([0.0], lambda x: torch.cat([x**2 + 1])),
    ):
        before = flat(problem).clone()
        optimizer = GaussNewton(problem.model.parameters())
        optimizer.step(problem.objective())
        assert optimizer.stuck == "the gradient is zero"
        assert torch.equal(flat(problem), before)


def test_it_goes_on_to_the_last_digit_and_says_so() -> None:
    """A residual of 0.3 remains.

    The loss shows no more than half of the digits that the steps can gain.
    """
    problem = nonlinear(
        [0.5, 0.5], lambda x: torch.stack([x[0] ** 2 - 2, x[0] * x[1] - 1, x[1] - 0.3])
    )
    optimizer = GaussNewton(problem.model.parameters())
    for _ in range(100):
        optimizer.step(problem.objective())
        if optimizer.stuck:
            break
    assert optimizer.stuck == "float64 cannot resolve the gradient any further"
    _, gradient = problem.objective().value_and_gradient()
    assert float(gradient.abs().max()) < 1e-14


def test_single_precision_is_solved_in_double_and_named() -> None:
    matrix, x = graded(30, 4, 1e3).float(), torch.tensor([1.0, -2.0, 0.5, 3.0])
    model = nn.Linear(4, 1, bias=False)
    targets = matrix @ x[:, None] + 0.1 * normal(30, 1, seed=5).float()
    exact = torch.linalg.lstsq(matrix.double(), targets.double()).solution[:, 0]
    objective = Objective(model, nn.MSELoss(), matrix, targets)
    optimizer = GaussNewton(model.parameters())
    for _ in range(20):
        optimizer.step(objective.on(matrix, targets))
        if optimizer.stuck:
            break
    assert optimizer.stuck.startswith("float32 cannot resolve the gradient any further")
    assert model.weight.dtype == torch.float32
    close(model.weight.detach().double()[0], exact, 1e-4)


def test_a_direction_along_which_nothing_falls_is_refused_and_another_method_named() -> None:
    problem = nonlinear([2.0], lambda x: torch.where(x.detach() == 2.0, x, x + float("nan")))
    optimizer = GaussNewton(problem.model.parameters(), max_trials=7)
    objective = problem.objective()
    optimizer.step(objective)
    assert float(flat(problem)) == 2.0
    assert "none of 7 step lengths" in optimizer.stuck
    assert "levenberg_marquardt" in optimizer.stuck
    assert objective.counts == {"value": 1 + 7, "jac": 1}
    problem = nonlinear([2.0], lambda x: x)
    optimizer.param_groups[0]["params"] = list(problem.model.parameters())
    optimizer.step(problem.objective())
    assert (float(flat(problem)), optimizer.stuck) == (0.0, "")


# -- declarations ----------------------------------------------------------------------------------


def test_too_large_a_jacobian_is_refused_with_its_size() -> None:
    model = nn.Linear(40, 30)
    inputs, targets = torch.randn(1000, 40), torch.randn(1000, 30)
    objective = Objective(model, nn.MSELoss(), inputs, targets)
    optimizer = GaussNewton(model.parameters(), max_gib=0.25)
    with pytest.raises(
        UnsupportedError, match=r"30,000 residuals by 1,230 parameters are 0\.27 GiB"
    ) as refusal:
        optimizer.step(objective)
    assert "ggn_cg and hessian_free" in str(refusal.value)
    assert objective.counts == {"value": 1}


def test_losses_that_are_no_squared_errors_are_refused() -> None:
    problem = CASES["mlp_ce"]()
    with pytest.raises(UnsupportedError, match="squared error"):
        GaussNewton(problem.model.parameters()).step(problem.objective())


def test_counts_and_needs() -> None:
    problem = CASES["rosenbrock"]()
    objective = problem.objective()
    GaussNewton(problem.model.parameters()).step(objective)
    assert objective.counts["jac"] == 1
    assert objective.counts["value"] >= 2
    assert set(objective.counts) == {"value", "jac"}
    assert GaussNewton.needs == {"jacobian"}


def test_the_function_and_the_package_of_the_same_name() -> None:
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    for _ in range(
        2
    ):  # loading the package in the first call must not hide the function from the second
        result = optimizers.least_squares(
            lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), start
        )
        assert result.success
    from optimizers import least_squares

    close(least_squares(lambda x: x - 1, start, "gauss_newton").x, torch.ones(2).double())
