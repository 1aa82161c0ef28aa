"""The updates of BFGS, DFP and SR1, and exact searches on quadratics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from optimizers import Objective
from optimizers.linalg.cg import conjugate_gradients
from optimizers.quasi_newton import BFGS, DFP, LBFGS, SR1
from optimizers.quasi_newton.dense import bfgs_update_, dfp_update_
from optimizers.quasi_newton.line_searched import LineSearched, SearchResult, powell_damped
from optimizers.quasi_newton.sr1 import sr1_update_
from tests.optimizers.cases import close
from tests.optimizers.quasi_newton_cases import flat, normal, scalar, spd

# -- the updates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("update", [bfgs_update_, dfp_update_])
def test_updates_are_symmetric_positive_definite_and_satisfy_the_secant_equation(
    update: Callable[[Tensor, Tensor, Tensor], None],
) -> None:
    inverse, matrix = spd(6), spd(6, seed=1)
    for seed in range(10):
        s = normal(6, seed=seed)
        y = matrix @ s
        update(inverse, s, y)
        close(inverse @ y, s, 1e-12)
        close(inverse, inverse.T)
        assert float(torch.linalg.eigvalsh(inverse)[0]) > 0


@pytest.mark.parametrize(("strategy", "kind"), [("BFGS", "inv_hess"), ("SR1", "hess")])
def test_updates_are_those_of_scipy(strategy: str, kind: str) -> None:
    theirs = getattr(scipy.optimize, strategy)(init_scale=1.0)
    theirs.initialize(5, kind)
    ours, matrix = torch.eye(5, dtype=torch.float64), spd(5)
    for seed in range(8):
        s = normal(5, seed=seed)
        y = matrix @ s + 0.1 * s**3
        theirs.update(s.numpy(), y.numpy())
        if strategy == "BFGS":
            bfgs_update_(ours, s, y)
        else:
            sr1_update_(ours, s, y)
        # scipy writes one triangle only
        triangle = np.triu(theirs.H if kind == "inv_hess" else theirs.B)
        close(torch.triu(ours), torch.from_numpy(triangle), 1e-9)


def test_dfp_is_bfgs_with_the_roles_of_the_matrix_and_its_inverse_exchanged() -> None:
    inverse, s = spd(5), normal(5)
    y = spd(5, seed=3) @ s
    matrix = torch.linalg.inv(inverse)
    dfp_update_(inverse, s, y)
    bfgs_update_(matrix, y, s)
    close(torch.linalg.inv(inverse), matrix, 1e-10)


@pytest.mark.parametrize("share", [0.01, 0.2])
@pytest.mark.parametrize("along", [-3.0, 0.0])
def test_powells_damping_keeps_its_share_of_the_curvature(share: float, along: float) -> None:
    s = normal(4)
    matrix = spd(4)
    y = normal(4, seed=1)
    y += (along - s @ y) / (s @ s) * s
    bs = matrix @ s
    damped = powell_damped(y, bs, float(s @ y), float(s @ bs), share)
    assert float(s @ damped) == pytest.approx(share * float(s @ bs), rel=1e-12)
    # on the segment from y to Bs
    assert float(torch.linalg.matrix_rank(torch.stack([damped - bs, y - bs]))) == 1


def test_symmetric_rank_one_finds_an_indefinite_hessian_in_n_independent_steps() -> None:
    basis, _ = torch.linalg.qr(normal(6, 6))
    hessian = (
        basis * torch.tensor([-3.0, -0.5, 0.1, 1.0, 2.0, 5.0], dtype=torch.float64)
    ) @ basis.T
    estimate = torch.eye(6, dtype=torch.float64)
    steps = normal(6, 6, seed=5)
    assert all(sr1_update_(estimate, s, hessian @ s) for s in steps)
    close(estimate, hessian, 1e-9)
    # nothing to learn: left out
    assert not sr1_update_(estimate.copy_(hessian), steps[0], hessian @ steps[0])


# -- exact searches on quadratics ------------------------------------------------------------------


def exact(kind: type[LineSearched], matrix: Tensor) -> type[LineSearched]:
    """The method with the exact minimiser along every direction of a quadratic."""

    class Exact(kind):  # type: ignore[misc,valid-type]
        def search(
            self,
            objective: Objective,
            loss: Tensor,
            gradient: Tensor,
            direction: Tensor,
            first: float,
        ):
            alpha = float(-gradient @ direction / (direction @ matrix @ direction))
            value, ahead = objective.value_and_gradient(alpha * direction)
            return SearchResult(alpha, alpha * direction, value, ahead)

    return Exact


@pytest.mark.parametrize("kind", [BFGS, DFP, LBFGS])
def test_with_exact_searches_the_iterates_are_those_of_conjugate_gradients(
    kind: type[LineSearched],
) -> None:
    matrix, b = spd(8), normal(8, seed=1)
    problem = scalar([0.0] * 8, lambda x: x @ matrix @ x / 2 - b @ x)
    optimizer = exact(kind, matrix)(problem.model.parameters())
    objective = problem.objective()
    for k in range(1, 8):
        optimizer.step(objective.on(problem.inputs, problem.targets))
        close(flat(problem), conjugate_gradients(lambda v: matrix @ v, b, max_iterations=k).x, 1e-9)
    optimizer.step(objective)
    close(flat(problem), torch.linalg.solve(matrix, b), 1e-9)
    if kind is not LBFGS:
        close(optimizer.state[problem.params[0]]["inverse"], torch.linalg.inv(matrix), 1e-8)


def test_sr1_needs_no_exact_search_to_learn_a_quadratic() -> None:
    matrix = spd(6)
    problem = scalar([1.0] * 6, lambda x: x @ matrix @ x / 2)
    optimizer = SR1(problem.model.parameters())
    for _ in range(12):
        optimizer.step(problem.objective())
    assert float(flat(problem).norm()) < 1e-9
