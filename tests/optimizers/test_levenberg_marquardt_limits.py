"""Levenberg-Marquardt where it ends, and on awkward problems."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.least_squares import LevenbergMarquardt
from tasks.regression.nist import datasets
from tests.optimizers.cases import CASES, close
from tests.optimizers.levenberg_marquardt_cases import (
    FORMS,
    SCALINGS,
    flat,
    nonlinear,
    vector,
    walled,
)

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
        # residuals have 16 digits
        rises = [after - before - 1e-14 * before**0.5 for before, after in pairwise(losses)]
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
