"""Levenberg-Marquardt.

Damped equations, damping rules, geodesic acceleration, NIST's values, MINPACK's counts.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp

from optimizers import Objective, Result, UnsupportedError, least_squares
from optimizers.least_squares import GaussNewton, LevenbergMarquardt
from optimizers.least_squares.rules import (
    MarquardtRule,
    NielsenRule,
    diagonal,
    floored,
    identity,
    running_maximum,
)
from tasks.functions.problems import MORE_GARBOW_HILLSTROM, PROBLEMS
from tasks.regression.nist import datasets
from tests.optimizers.cases import CASES, Problem, Reference, Residuals, close

SCALINGS = ("identity", "diagonal", "running_maximum")
FORMS = ("svd", "primal", "dual")
SQUARES = ("mlp_mse", "mlp_mse_sum", "mlp_mse_example", "conv", "multihead")


def nonlinear(start: Sequence[float], residuals: Callable[[Tensor], Tensor]) -> Problem:
    """The loss |residuals(x)|^2."""
    count = len(residuals(torch.tensor(start, dtype=torch.float64)))
    targets = torch.zeros(1, count, dtype=torch.float64)
    return Problem(
        Residuals(start, residuals), nn.MSELoss(reduction="sum"), torch.zeros(1, 1), targets
    )


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def valley(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def walled(x: Tensor) -> Tensor:
    """Finite at the start (2,) alone."""
    return torch.where(x.detach() == 2.0, x, x + float("nan"))


# -- the step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SQUARES)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("form", FORMS)
def test_a_step_solves_the_damped_equations(name: str, scaling: str, form: str) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.01)
    matrix, gradient = reference.ggn(), reference.gradient()
    objective = problem.objective(0.01)
    objective.value()
    squares = (
        objective.scale * torch.ones_like(gradient) if scaling == "identity" else matrix.diagonal()
    )
    damping = 10 * float(
        (matrix.diagonal() / squares).max()
    )  # so much that the loss falls, and lr = 1 is taken
    optimizer = LevenbergMarquardt(
        problem.model.parameters(), scaling=scaling, tau=10.0, first_step=None, form=form
    )
    optimizer.step(objective)
    expected = -torch.linalg.solve(matrix + damping * torch.diag(squares), gradient)
    close(flat(problem) - reference.theta, expected, 1e-9)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_without_damping_it_is_gauss_newton(scaling: str) -> None:
    one, two = (
        nonlinear([-1.2, 1.0], lambda x: torch.cat([valley(x), x[:1] * x[1:]])) for _ in range(2)
    )
    LevenbergMarquardt(one.model.parameters(), scaling=scaling, tau=1e-14, first_step=None).step(
        one.objective()
    )
    GaussNewton(two.model.parameters(), line_search="none").step(two.objective())
    close(flat(one), flat(two), 1e-9)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_with_much_damping_it_is_scaled_steepest_descent(scaling: str) -> None:
    problem = nonlinear([-1.2, 1.0], valley)
    start = flat(problem).clone()
    _, gradient = problem.objective().value_and_gradient()
    jacobian = jacrev(valley)(start)
    squares = torch.ones(2).double() if scaling == "identity" else jacobian.square().sum(0)
    LevenbergMarquardt(problem.model.parameters(), scaling=scaling, tau=1e8, first_step=None).step(
        problem.objective()
    )
    moved = flat(problem) - start
    close(moved / moved.norm(), -(gradient / squares) / (gradient / squares).norm(), 1e-6)


@pytest.mark.parametrize("scaling", ["diagonal", "running_maximum"])
def test_the_units_of_the_parameters_do_not_matter(scaling: str) -> None:
    units = vector(1e-6, 1e5)
    one = nonlinear([-1.2, 1.0], valley)
    two = nonlinear((vector(-1.2, 1.0) / units).tolist(), lambda z: valley(units * z))
    first = LevenbergMarquardt(one.model.parameters(), scaling=scaling)
    second = LevenbergMarquardt(two.model.parameters(), scaling=scaling)
    for _ in range(12):
        first.step(one.objective())
        second.step(two.objective())
        close(units * flat(two), flat(one), 1e-8)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_same_trajectory_whatever_the_reduction(scaling: str) -> None:
    ends = []
    for name in ("mlp_mse", "mlp_mse_sum", "mlp_mse_example"):
        problem = CASES[name]()
        optimizer = LevenbergMarquardt(problem.model.parameters(), scaling=scaling)
        for _ in range(5):
            optimizer.step(problem.objective())
        ends.append((flat(problem), optimizer.param_groups[0]["damping"]))
    for end, damping in ends[1:]:
        close(end, ends[0][0], 1e-7)
        assert damping == pytest.approx(ends[0][1], rel=1e-6)


def test_the_first_step_is_bounded() -> None:
    """BoxBOD's first start.

    The linear model points at a plateau a hundred times as far away as the start is large.
    """
    regression = datasets()["BoxBOD"]
    problem = nonlinear(regression.starts[0].tolist(), regression.residuals)
    LevenbergMarquardt(problem.model.parameters(), scaling="identity").step(problem.objective())
    assert (
        0
        < float((flat(problem) - regression.starts[0]).norm())
        <= float(regression.starts[0].norm())
    )
    lost = least_squares(regression.residuals, regression.starts[0], first_step=None, tol=0.0)
    found = least_squares(regression.residuals, regression.starts[0], tol=0.0)
    assert regression.digits(lost.x) == 0
    assert regression.digits(found.x) > 10


# -- the rules -------------------------------------------------------------------------------------


def test_nielsens_rule() -> None:
    rule = NielsenRule()
    assert rule.accepted(6.0, 1.0) == pytest.approx((2.0, 2.0))
    assert rule.accepted(6.0, 0.5) == (6.0, 2.0)
    assert rule.accepted(6.0, 0.25) == pytest.approx((6 * 1.125, 2.0))
    assert rule.accepted(6.0, 0.0) == (12.0, 2.0)
    assert rule.accepted(6.0, 1e300) == pytest.approx((2.0, 2.0))
    assert rule.refused(*rule.refused(*rule.refused(1.0, 2.0))) == (64.0, 16.0)


def test_marquardts_rule() -> None:
    rule = MarquardtRule(increase=2.0, decrease=0.1)
    assert rule.accepted(5.0, 0.3) == (0.5, 2.0)
    assert rule.refused(5.0, 2.0) == (10.0, 2.0)
    for increase, decrease in ((1.0, 0.1), (2.0, 1.0), (2.0, 0.0)):
        with pytest.raises(ValueError, match="increase > 1 > decrease > 0"):
            MarquardtRule(increase, decrease)


@pytest.mark.parametrize(
    ("rule", "factors"), [("nielsen", [2, 8, 64, 1024]), ("marquardt", [10, 100, 1000, 10000])]
)
def test_refused_steps_raise_the_damping_and_reuse_the_jacobian(
    rule: str, factors: list[float]
) -> None:
    problem = nonlinear([2.0], walled)
    optimizer = LevenbergMarquardt(
        problem.model.parameters(), rule=rule, tau=0.5, first_step=None, max_trials=2
    )
    objective = problem.objective()
    optimizer.step(objective)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(0.5 * factors[1])
    assert objective.counts == {"value": 1 + 2, "jac": 1}
    optimizer.step(
        objective.on(problem.inputs, problem.targets)
    )  # goes on where the last step gave up
    assert optimizer.param_groups[0]["damping"] == pytest.approx(0.5 * factors[3])
    assert optimizer.stuck == ""
    assert flat(problem).tolist() == [2.0]


def test_accepted_steps_on_a_linear_problem_divide_the_damping_by_three() -> None:
    problem = nonlinear([3.0, 4.0], lambda x: torch.stack([x[0] - 1, 2 * x[1] + x[0], x[1] - 5]))
    optimizer = LevenbergMarquardt(problem.model.parameters(), tau=0.1, first_step=None)
    for k in range(1, 6):
        optimizer.step(problem.objective())
        assert optimizer.param_groups[0]["damping"] == pytest.approx(0.1 / 3**k)


def test_delayed_gratification_keeps_the_factors_it_is_given() -> None:
    problem = nonlinear([3.0, 4.0], lambda x: torch.stack([x[0] - 1, 2 * x[1] + x[0], x[1] - 5]))
    optimizer = LevenbergMarquardt(
        problem.model.parameters(),
        rule="marquardt",
        increase=3.0,
        decrease=0.2,
        tau=1.0,
        first_step=None,
    )
    optimizer.step(problem.objective())
    assert optimizer.param_groups[0]["damping"] == pytest.approx(0.2)


def test_the_scalings() -> None:
    norms, before = vector(1, 4, 0), vector(2, 3, 0)
    assert identity(norms, before).tolist() == [1, 1, 1]
    assert diagonal(norms, before).tolist() == [1, 4, 0]
    assert running_maximum(norms, before).tolist() == [2, 4, 0]
    assert running_maximum(norms, None).tolist() == [1, 4, 0]


def test_scales_have_a_floor_that_looks_at_what_they_mean_for_the_residuals() -> None:
    theta = vector(3, 2, -1)
    assert floored(vector(1, 4, 0), theta, 1e-16).tolist() == pytest.approx([1, 4, 4e-8])
    assert floored(vector(1e30, 4, 1e-20), vector(1e-30, 1, 1), 1e-16).tolist() == pytest.approx(
        [1e30, 4, 4e-8]
    )
    assert floored(vector(1, 4, 0), vector(0, 0, 0), 1e-16).tolist() == pytest.approx([1, 4, 4e-8])
    assert floored(vector(0, 0, 0), theta, 1e-16).tolist() == [1, 1, 1]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_parameter_whose_column_is_round_off_does_not_fly_away(scaling: str) -> None:
    """The softmax of an attention ignores the bias of its keys, but the derivative by it is 1e-18
    instead of zero."""
    problem = CASES["multihead"]()
    optimizer = LevenbergMarquardt(problem.model.parameters(), scaling=scaling)
    for _ in range(25):
        loss = optimizer.step(problem.objective())
    keys = dict(problem.model.named_parameters())["attention.in_proj_bias"][4:8]
    assert float(keys.detach().abs().max()) < 30
    assert float(loss) < 1e-20


def test_the_running_maximum_is_one_and_only_it_is_kept() -> None:
    problem = nonlinear([-1.2, 1.0], lambda x: torch.cat([valley(x), torch.sin(3 * x)]))
    optimizer = LevenbergMarquardt(problem.model.parameters())
    seen = torch.zeros(2).double()
    for _ in range(8):
        objective = problem.objective()
        objective.value()
        columns = objective.jacobian()[1].norm(dim=0) / objective.scale**0.5
        seen = torch.maximum(seen, columns)
        optimizer.step(problem.objective())
        close(optimizer.state[problem.params[0]]["scales"], seen)
    other = LevenbergMarquardt(problem.model.parameters(), scaling="diagonal")
    other.step(problem.objective())
    assert not other.state[problem.params[0]]


def test_a_dead_parameter_stays_where_it_is() -> None:
    for scaling in SCALINGS:
        problem = nonlinear([-1.2, 1.0, 7.0], lambda x: valley(x[:2]))
        optimizer = LevenbergMarquardt(problem.model.parameters(), scaling=scaling)
        for _ in range(40):
            optimizer.step(problem.objective())
        close(flat(problem), vector(1, 1, 7), 1e-8)


# -- geodesic acceleration -------------------------------------------------------------------------


def test_the_acceleration_is_the_second_directional_derivative() -> None:
    """The residuals are quadratic, so the finite difference is exact."""
    start = vector(-0.9, 0.8)
    problem = nonlinear(start.tolist(), valley)
    options: dict[str, Any] = {
        "scaling": "identity",
        "tau": 5e-3,
        "first_step": None,
        "max_acceleration": 100.0,
    }
    objective = problem.objective()
    LevenbergMarquardt(problem.model.parameters(), acceleration=True, **options).step(objective)
    jacobian, residuals = jacrev(valley)(start), valley(start)
    matrix = jacobian.T @ jacobian
    damped = matrix + 5e-3 * float(matrix.diagonal().max()) * torch.eye(2).double()
    velocity = -torch.linalg.solve(damped, jacobian.T @ residuals)

    def along(x: Tensor) -> Tensor:
        return jvp(valley, (x,), (velocity,))[1]

    bend = jvp(along, (start,), (velocity,))[1]
    added = -torch.linalg.solve(damped, jacobian.T @ bend)
    assert float(added.norm()) > 0.05 * float(velocity.norm())
    close(flat(problem) - start, velocity + added / 2, 1e-9)
    assert objective.counts == {"value": 3, "jac": 1}


def test_a_large_acceleration_is_refused_before_the_trial_point_is_looked_at() -> None:
    problem = nonlinear([-0.9, 0.8], valley)
    options: dict[str, Any] = {"first_step": None, "max_acceleration": 1e-6, "max_trials": 3}
    optimizer = LevenbergMarquardt(problem.model.parameters(), acceleration=True, **options)
    objective = problem.objective()
    optimizer.step(objective)
    assert flat(problem).tolist() == [-0.9, 0.8]
    assert objective.counts == {"value": 1 + 3, "jac": 1}
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-3 * 64)


def test_acceleration_takes_fewer_steps_along_a_curved_valley() -> None:
    regression = datasets()["Bennett5"]
    plain, curved = (
        least_squares(regression.residuals, regression.starts[0], tol=0.0, acceleration=flag)
        for flag in (False, True)
    )
    assert min(regression.digits(plain.x), regression.digits(curved.x)) > 10
    assert 4 * curved.steps < plain.steps


# -- where it ends ---------------------------------------------------------------------------------


def test_a_zero_gradient_and_zero_residuals_are_named() -> None:
    for problem in (
        nonlinear([1.0, 1.0], lambda x: x - 1),
        nonlinear([0.0], lambda x: torch.cat([x**2 + 1])),
        nonlinear([0.0, 1.0], lambda x: 0 * x + 1),
    ):
        before = flat(problem).clone()
        optimizer = LevenbergMarquardt(problem.model.parameters())
        optimizer.step(problem.objective())
        assert optimizer.stuck == "the gradient is zero"
        assert torch.equal(flat(problem), before)


def test_a_plateau_on_one_batch_does_not_spoil_the_damping() -> None:
    problem = nonlinear([0.0, 1.0], lambda x: 0 * x + 1)
    other = nonlinear([0.0, 1.0], lambda x: x - 2)
    optimizer = LevenbergMarquardt(problem.model.parameters())
    optimizer.step(problem.objective())
    optimizer.param_groups[0]["params"] = list(other.model.parameters())
    for _ in range(30):
        optimizer.step(other.objective())
    close(flat(other), vector(2, 2), 1e-12)


@pytest.mark.parametrize("name", ["rosenbrock", "mlp_mse", "conv"])
def test_problems_without_residuals_end_in_words(name: str) -> None:
    problem = CASES[name]()
    optimizer = LevenbergMarquardt(problem.model.parameters())
    for _ in range(200):
        loss = optimizer.step(problem.objective())
        if optimizer.stuck:
            break
    assert optimizer.stuck
    assert float(loss) < 1e-25


def test_it_goes_on_to_the_last_digit_and_says_so() -> None:
    problem = nonlinear(
        [0.5, 0.5], lambda x: torch.stack([x[0] ** 2 - 2, x[0] * x[1] - 1, x[1] - 0.3])
    )
    optimizer = LevenbergMarquardt(problem.model.parameters())
    losses = []
    for _ in range(200):
        losses.append(float(optimizer.step(problem.objective())))
        if optimizer.stuck:
            break
    assert optimizer.stuck == "float64 cannot resolve the gradient any further"
    assert all(after <= before * (1 + 1e-14) for before, after in pairwise(losses))
    _, gradient = problem.objective().value_and_gradient()
    assert float(gradient.abs().max()) < 1e-13


def test_single_precision_is_solved_in_double_and_named() -> None:
    regression = datasets()["Misra1a"]
    inputs, targets = regression.x.float(), regression.y[:, None].float()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.Parameter(regression.starts[1].float())

        def forward(self, x: Tensor) -> Tensor:
            return regression.model(self.b, x)[:, None]

    model = Model()
    optimizer = LevenbergMarquardt(model.parameters())
    for _ in range(100):
        optimizer.step(Objective(model, nn.MSELoss(), inputs, targets))
        if optimizer.stuck:
            break
    assert optimizer.stuck.startswith("float32 cannot resolve the gradient any further; pass")
    assert optimizer.state[model.b]["scales"].dtype == torch.float32
    assert regression.digits(model.b) > 3


def test_a_wall_around_the_start_ends_in_words() -> None:
    problem = nonlinear([2.0], walled)
    optimizer = LevenbergMarquardt(problem.model.parameters(), max_trials=5)
    for _ in range(20):
        optimizer.step(problem.objective())
        if optimizer.stuck:
            break
    assert optimizer.stuck == "float64 cannot resolve the gradient any further"
    assert flat(problem).tolist() == [2.0]
    assert np.isfinite(optimizer.param_groups[0]["damping"])


def test_points_where_the_model_breaks_down_are_stepped_back_from() -> None:
    """log is undefined beyond the first Gauss-Newton step."""
    problem = nonlinear([5.0], torch.log)
    optimizer = LevenbergMarquardt(problem.model.parameters(), first_step=None)
    objective = problem.objective()
    optimizer.step(objective)
    assert objective.counts["value"] > 2
    for _ in range(40):
        optimizer.step(problem.objective())
    close(flat(problem), vector(1), 1e-9)


# -- awkward problems ------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rank_deficient_problems(scaling: str) -> None:
    """Only x0 + x1 matters, so a whole line of solutions exists; a residual of 0.5 remains."""
    problem = nonlinear(
        [2.0, -0.5, 1.0],
        lambda x: torch.stack([torch.exp(x[0] + x[1]) - 2, (x[0] + x[1]) * x[2] - 1, x[2] - 1]),
    )
    optimizer = LevenbergMarquardt(problem.model.parameters(), scaling=scaling)
    for _ in range(120):
        optimizer.step(problem.objective())
        if optimizer.stuck:
            break
    end = flat(problem)
    assert float(end.abs().max()) < 10  # no flight along the line of solutions
    reference = scipy.optimize.least_squares(
        lambda z: [np.exp(z[0]) - 2, z[0] * z[1] - 1, z[1] - 1],
        [1.5, 1.0],
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    close(torch.stack([end[0] + end[1], end[2]]), torch.from_numpy(reference.x), 1e-7)


@pytest.mark.parametrize("form", ["auto", *FORMS])
def test_fewer_residuals_than_parameters(form: str) -> None:
    problem = nonlinear(
        [0.5, -1.0, 2.0, 0.1], lambda x: torch.stack([x.square().sum() - 3, x[0] * x[1] - x[2]])
    )
    optimizer = LevenbergMarquardt(problem.model.parameters(), form=form)
    for _ in range(40):
        optimizer.step(problem.objective())
    assert float(problem.objective().value()) < 1e-24


@pytest.mark.parametrize(
    "options", [{}, {"acceleration": True}, {"rule": "marquardt"}, {"scaling": "identity"}]
)
def test_the_loss_never_rises_on_one_batch(options: dict[str, Any]) -> None:
    for name in ("mlp_mse", "conv", "multihead", "rosenbrock"):
        problem = CASES[name]()
        optimizer = LevenbergMarquardt(problem.model.parameters(), **options)
        losses = [float(optimizer.step(problem.objective())) for _ in range(20)]
        rises = [
            after - before - 1e-14 * before**0.5 for before, after in pairwise(losses)
        ]  # residuals have 16 digits
        assert max(rises) <= 0, name
        assert losses[-1] < 0.7 * losses[0], name


def test_mini_batches_of_a_network() -> None:
    """A network that can fit its teacher does, from mini-batches with fewer residuals than
    parameters."""
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double() for _ in range(2)
    )
    inputs = torch.randn(200, 3, dtype=torch.float64)
    targets = teacher(inputs).detach()
    optimizer = LevenbergMarquardt(
        student.parameters(), rule="marquardt", increase=2.0, decrease=0.5, tau=1.0
    )
    objective = Objective(student, nn.MSELoss(), inputs, targets)
    before = float(objective.value())
    for step in range(150):
        chosen = torch.randperm(200, generator=torch.Generator().manual_seed(step))[:15]
        optimizer.step(objective.on(inputs[chosen], targets[chosen]))
    assert float(objective.on(inputs, targets).value()) < 1e-3 * before


def test_too_large_a_jacobian_is_refused_with_its_size() -> None:
    model = nn.Linear(40, 30)
    objective = Objective(model, nn.MSELoss(), torch.randn(1000, 40), torch.randn(1000, 30))
    with pytest.raises(
        UnsupportedError, match=r"30,000 residuals by 1,230 parameters are 0\.27 GiB.*max_gib=0\.25"
    ):
        LevenbergMarquardt(model.parameters(), max_gib=0.25).step(objective)
    optimizer = LevenbergMarquardt(model.parameters())
    small = Objective(model, nn.MSELoss(), torch.randn(10, 40), torch.randn(10, 30))
    optimizer.step(small)
    assert small.counts == {"value": 3, "jac": 1}
    optimizer.step(small.on(small.inputs, torch.randn(10, 30)))
    assert small.counts == {"value": 5, "jac": 2}  # the size is looked at once


# -- other people's numbers ------------------------------------------------------------------------

EASY = (
    "BoxBOD",
    "Chwirut2",
    "DanWood",
    "Gauss1",
    "Hahn1",
    "Lanczos3",
    "Misra1a",
    "Nelson",
    "Rat43",
    "Thurber",
)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("name", EASY)
def test_certified_values(name: str, start: int) -> None:
    regression = datasets()[name]
    result = least_squares(regression.residuals, regression.starts[start - 1], tol=0.0)
    assert regression.digits(result.x) >= 10, result.message
    assert "float64 cannot resolve" in result.message
    if name != "Lanczos3":  # whose certified sum of squares, 1.6e-8, has lost digits of its own
        assert 2 * result.fun == pytest.approx(regression.residual_sum, rel=1e-9)


@pytest.mark.slow
def test_all_certified_values() -> None:
    """One setting for all; the first start of MGH10 takes 7,600 steps."""
    failed = [
        (name, start)
        for name, regression in datasets().items()
        for start in (1, 2)
        if regression.digits(
            least_squares(
                regression.residuals, regression.starts[start - 1], tol=0.0, max_steps=10_000
            ).x
        )
        < 9
    ]
    assert failed == []


def minpack(residuals: Callable[[Tensor], Tensor], x0: Tensor, tol: float) -> tuple[bool, int]:
    """Whether scipy's MINPACK got the gradient below the tolerance, and its calls of residuals and
    Jacobian."""
    calls = 0

    class SolvedError(Exception):
        pass

    def fun(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return residuals(torch.from_numpy(x)).numpy()

    def jac(x: Any) -> Any:
        nonlocal calls
        calls += 1
        point = torch.from_numpy(x)
        jacobian = jacrev(residuals)(point)
        if float((jacobian.T @ residuals(point)).norm()) <= tol:
            raise SolvedError
        return jacobian.numpy()

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            scipy.optimize.least_squares(
                fun, x0.numpy(), jac, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=4000
            )
        except SolvedError:
            return True, calls
    return False, calls


def compared(names: Sequence[str]) -> tuple[list[Result], list[tuple[bool, int]]]:
    ours, theirs = [], []
    for name in names:
        problem = PROBLEMS[name]
        assert problem.residuals is not None
        x0 = problem.start(problem.dimension).double()
        gradient = jacrev(problem.residuals)(x0).T @ problem.residuals(x0)
        tol = 1e-8 * max(1.0, float(gradient.norm()))
        ours.append(least_squares(problem.residuals, x0, tol=tol))
        theirs.append(minpack(problem.residuals, x0, tol))
    return ours, theirs


def assert_as_cheap(names: Sequence[str], median: float) -> None:
    """At least as many solved, and the median ratio of the calls on those that both solve."""
    ours, theirs = compared(names)
    assert sum(result.success for result in ours) >= sum(solved for solved, _ in theirs)
    ratios = [
        result.counts["value"]
        / calls  # each Jacobian counts as a value too, so this is residuals plus Jacobians
        for result, (solved, calls) in zip(ours, theirs, strict=True)
        if solved and result.success
    ]
    assert statistics.median(ratios) <= median


def test_counts_beside_minpack() -> None:
    names = (
        "beale bard kowalik_osborne meyer wood osborne2 trigonometric brown_almost_linear "
        "broyden_banded chebyquad"
    )
    assert_as_cheap(names.split(), 1.25)


@pytest.mark.slow
def test_counts_beside_minpack_on_the_whole_collection() -> None:
    assert_as_cheap(MORE_GARBOW_HILLSTROM, 1.1)
