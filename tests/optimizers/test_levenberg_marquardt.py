"""Levenberg-Marquardt.

Damped equations, damping rules, geodesic acceleration, NIST's values, MINPACK's counts.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, jvp

from optimizers import least_squares
from optimizers.least_squares import GaussNewton, LevenbergMarquardt
from optimizers.least_squares.rules import (
    MarquardtRule,
    NielsenRule,
    diagonal,
    floored,
    identity,
    running_maximum,
)
from tasks.regression.nist import datasets
from tests.optimizers.cases import CASES, Reference, close
from tests.optimizers.levenberg_marquardt_cases import (
    FORMS,
    SCALINGS,
    flat,
    nonlinear,
    vector,
    walled,
)

SQUARES = ("mlp_mse", "mlp_mse_sum", "mlp_mse_example", "conv", "multihead")


def valley(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


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
    # so much that the loss falls, and lr = 1 is taken
    damping = 10 * float((matrix.diagonal() / squares).max())
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
    result = least_squares(regression.residuals, regression.starts[0], tol=0.0)
    assert regression.digits(lost.x) == 0
    assert regression.digits(result.x) > 10


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
    # goes on where the last step gave up
    optimizer.step(objective.on(problem.inputs, problem.targets))
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
