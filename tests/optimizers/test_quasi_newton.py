"""BFGS, DFP and SR1: the updates against scipy's, the exact-search theory, restarts, round-off,
counts."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.method import Method
from optimizers.minimize import minimize
from optimizers.quasi_newton import BFGS, DFP, LBFGS, SR1
from optimizers.quasi_newton.line_searched import LineSearched
from tasks.functions.problems import PROBLEMS
from tests.optimizers.cases import CASES, Problem, Reference, Scalar, close
from tests.optimizers.quasi_newton_cases import ZERO, flat, normal, scalar, spd

PEERS = {
    "BFGS": {"gtol": 0.0},
    "L-BFGS-B": {"gtol": 0.0, "ftol": 0.0},
}  # the gradient alone ends a run
NAMES = ["bfgs", "dfp", "lbfgs", "sr1", "bfgs_armijo"]


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


# -- behaviour -------------------------------------------------------------------------------------


def test_bfgs_is_invariant_under_linear_maps() -> None:
    """x = A z with H_z = A^-1 H_x A^-T: the same losses at every step."""
    change, inverse = normal(2, 2) + 2 * torch.eye(2).double(), spd(2)
    losses = []
    for matrix in (torch.eye(2).double(), change):
        start = torch.linalg.solve(matrix, torch.tensor([-1.2, 1.0]).double()).tolist()
        problem = scalar(start, lambda z, matrix=matrix: rosenbrock(matrix @ z))
        optimizer = BFGS(problem.model.parameters())
        back = torch.linalg.inv(matrix)
        optimizer.state[problem.params[0]]["inverse"] = back @ inverse @ back.T
        optimizer.param_groups[0]["pairs"] = 1
        losses.append(torch.stack([optimizer.step(problem.objective()) for _ in range(25)]))
    assert float(losses[0][-1]) < 0.1
    close(losses[1], losses[0], 1e-9)


def test_the_matrix_of_the_first_update() -> None:
    problem = CASES["rosenbrock"]()
    reference = [Reference(problem)]
    optimizer = BFGS(problem.model.parameters())
    optimizer.step(problem.objective())
    reference.append(Reference(problem))
    s = reference[1].theta - reference[0].theta
    y = reference[1].gradient() - reference[0].gradient()
    rho, identity = 1 / (s @ y), torch.eye(2).double()
    left = identity - rho * torch.outer(s, y)
    expected = left @ ((s @ y) / (y @ y) * identity) @ left.T + rho * torch.outer(s, s)
    close(optimizer.state[problem.params[0]]["inverse"], expected, 1e-8)


@pytest.mark.parametrize("kind", [BFGS, DFP, SR1])
@pytest.mark.parametrize("line_search", ["strong_wolfe", "armijo", "none"])
def test_a_pair_belongs_to_one_mini_batch(kind: type[Method], line_search: str) -> None:
    """The newest pair satisfies the secant equation with both gradients from the batch of its
    step."""
    problem = CASES["mlp_mse"]()
    options = {} if kind is SR1 else {"line_search": line_search, "lr": 0.5}
    optimizer = kind(problem.model.parameters(), **options)  # type: ignore[arg-type]
    objective = problem.objective()
    for first in (0, 2, 4, 0, 2):
        batch = Problem(
            problem.model, problem.loss_fn, problem.inputs[first:][:2], problem.targets[first:][:2]
        )
        before = Reference(batch)
        optimizer.step(objective.on(batch.inputs, batch.targets))
        after = Reference(batch)
    s, y = after.theta - before.theta, after.gradient() - before.gradient()
    state = optimizer.state[problem.params[0]]
    close(state["inverse"] @ y, s, 1e-8) if "inverse" in state else close(
        state["hessian"] @ s, y, 1e-8
    )


@pytest.mark.parametrize("kind", [BFGS, DFP])
def test_a_matrix_that_gives_no_descent_is_forgotten(kind: type[LineSearched]) -> None:
    problem = scalar([-1.2, 1.0], rosenbrock)
    optimizer = kind(problem.model.parameters())
    optimizer.step(problem.objective())
    optimizer.state[problem.params[0]]["inverse"].neg_()
    before = problem.objective().value()
    twin = scalar(flat(problem).tolist(), rosenbrock)
    optimizer.step(problem.objective())
    assert optimizer.param_groups[0]["pairs"] == 1
    assert not optimizer.stuck
    assert problem.objective().value() < before
    kind(twin.model.parameters()).step(twin.objective())
    assert torch.equal(flat(problem), flat(twin))  # as a first step is


class Cliff(nn.Module):
    """|x|^2 at |x|^2 = 5 and infinite elsewhere."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        square = outputs.square().sum()
        return torch.where(square.detach() == 5.0, square, square + float("inf"))


@pytest.mark.parametrize("kind", [BFGS, DFP, LBFGS, SR1])
def test_stuck_where_no_step_can_be_taken(kind: type[Method]) -> None:
    problem = Problem(Scalar([1.0, 2.0], lambda x: x), Cliff(), ZERO, ZERO)
    problem.model.forward = lambda inputs: problem.model.x  # type: ignore[method-assign]
    optimizer = kind(problem.model.parameters(), max_trials=6)  # type: ignore[call-arg]
    objective = problem.objective()
    assert float(optimizer.step(objective)) == 5.0
    assert "6 trials" in optimizer.stuck
    assert flat(problem).tolist() == [1.0, 2.0]
    assert objective.counts["value"] == 1 + 6


@pytest.mark.parametrize("kind", [BFGS, DFP, LBFGS, SR1])
def test_at_a_stationary_point(kind: type[Method]) -> None:
    problem = scalar([0.0, 0.0], lambda x: x @ x)
    optimizer = kind(problem.model.parameters())  # type: ignore[arg-type]
    optimizer.step(problem.objective())
    assert optimizer.stuck == "the gradient is zero"
    assert flat(problem).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", [BFGS, DFP, LBFGS, SR1])
def test_a_logarithmic_barrier(kind: type[Method]) -> None:
    """Trials beyond the wall are not a number; the solution is within a thousandth of it."""
    cost = torch.tensor([1.0, -2.0, 0.3]).double()

    def barrier(x: Tensor) -> Tensor:
        return cost @ x - 1e-3 * torch.log(1 - x**2).sum()

    result = minimize(barrier, torch.tensor([0.9, 0.5, 0.0]).double(), kind, tol=1e-9)
    assert result.success
    half = 1e-3 / cost
    # c (1 - x^2) + 2 mu x = 0
    close(result.x, half - torch.sign(cost) * torch.sqrt(half**2 + 1), 1e-8)


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
@pytest.mark.parametrize(
    "method",
    [BFGS, DFP, LBFGS, SR1, partial(BFGS, line_search="armijo")],
    ids=["bfgs", "dfp", "lbfgs", "sr1", "armijo"],
)
def test_convergence_far_below_the_round_off_of_the_loss(method: Any, offset: float) -> None:
    """At |gradient| = 1e-9 the loss differs from its minimum by 1e-18, from 1e6 by 1e-24 of it."""
    matrix = spd(5)

    def function(x: Tensor) -> Tensor:
        return offset + x @ matrix @ x / 2 + (x**4).sum() / 4

    result = minimize(function, torch.full((5,), 1.5).double(), method, tol=1e-9, max_steps=200)
    assert result.success, result.message


def test_counts_of_a_step() -> None:
    """A full batch: the gradient at the end of the search is the one at the beginning of the next
    step."""
    problem = scalar([-1.2, 1.0], rosenbrock)
    objective = problem.objective()
    optimizer = BFGS(problem.model.parameters())
    for _ in range(30):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    assert objective.counts["value"] == objective.counts["grad"] <= 1 + 1.3 * 30
    assert BFGS.needs == frozenset()


@pytest.mark.parametrize("kind", [BFGS, SR1])
def test_too_many_parameters(kind: type[Method]) -> None:
    with pytest.raises(
        UnsupportedError, match=r"10 parameters need 0\.0 GiB.*max_parameters=9; lbfgs"
    ):
        kind(nn.Linear(4, 2).parameters(), max_parameters=9)  # type: ignore[call-arg]
    kind(nn.Linear(4, 2).parameters(), max_parameters=10)  # type: ignore[call-arg]
    with pytest.raises(UnsupportedError, match=r"10,000,000 parameters need 372,529"):
        kind([nn.Parameter(torch.empty(10_000_000, device="meta"))])  # type: ignore[arg-type]


# -- against scipy ---------------------------------------------------------------------------------

SAMPLE = [
    "rosenbrock",
    "beale",
    "helical_valley",
    "bard",
    "powell_singular",
    "kowalik_osborne",
    "brown_dennis",
    "extended_rosenbrock",
    "penalty1",
    "broyden_tridiagonal",
    "broyden_banded",
]


@cache
def scipys(name: str, method: str, tol: float) -> tuple[int, np.ndarray]:
    """Evaluations until the gradient is small, and the point."""
    problem = PROBLEMS[name]

    class DoneError(Exception):
        pass

    evaluations, point = [0], [np.empty(0)]

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.from_numpy(x.copy()).requires_grad_()
        value = problem(variable)
        (gradient,) = torch.autograd.grad(value, variable)
        evaluations[0] += 1
        point[0] = x.copy()
        if float(gradient.norm()) <= tol:
            raise DoneError
        return value.item(), gradient.numpy()

    start = problem.start(problem.dimension).numpy().copy()
    with pytest.raises(DoneError):
        scipy.optimize.minimize(function, start, jac=True, method=method, options=PEERS[method])
    return evaluations[0], point[0]


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        (BFGS, "BFGS"),
        (SR1, "BFGS"),
        (LBFGS, "L-BFGS-B"),
        (partial(LBFGS, line_search="armijo"), "L-BFGS-B"),
    ],
    ids=["bfgs", "sr1", "lbfgs", "lbfgs_armijo"],
)
def test_evaluations_against_scipy(method: Any, peer: str) -> None:
    ratios = []
    for name in SAMPLE:
        start = PROBLEMS[name].start(PROBLEMS[name].dimension)
        result = minimize(PROBLEMS[name], start, method, tol=1e-5)
        assert result.success, (name, result.message)
        evaluations, _ = scipys(name, peer, 1e-5)
        ratios.append(result.counts["grad"] / evaluations)
    assert np.median(ratios) <= 1.2
    assert np.exp(np.mean(np.log(ratios))) <= 1.3


@pytest.mark.parametrize("name", ["rosenbrock", "bard", "broyden_tridiagonal", "trigonometric"])
def test_the_point_is_scipys(name: str) -> None:
    _, point = scipys(name, "BFGS", 1e-7)
    for method in (BFGS, SR1, DFP):
        start = PROBLEMS[name].start(PROBLEMS[name].dimension)
        result = minimize(PROBLEMS[name], start, method, tol=1e-7, max_steps=3000)
        assert result.success
        close(result.x, torch.from_numpy(point), 1e-5)


@pytest.mark.parametrize("kind", [BFGS, DFP, LBFGS, SR1])
def test_single_precision(kind: type[Method]) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 1), torch.randn(20, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.5
    optimizer = kind(model.parameters())  # type: ignore[arg-type]
    for _ in range(15):
        optimizer.step(Objective(model, nn.MSELoss(), inputs, targets))
    close(model.weight.detach(), torch.tensor([[1.0, 2.0, -1.0]]), 1e-4)
    assert all(
        t.dtype == torch.float32 for state in optimizer.state.values() for t in state.values()
    )
