"""Newton-CG: truncation, negative curvature, Gauss-Newton products, regularised logistic
regression, counts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from optimizers import Objective, minimize
from optimizers.newton import NewtonCG
from tests.optimizers.cases import CASES, Identity, Problem, Reference, Residuals, Scalar, close

ZERO = torch.zeros(1, 1)

searches = pytest.mark.parametrize("line_search", ["armijo", "strong_wolfe"])
curvatures = pytest.mark.parametrize("negative_curvature", ["stop", "follow"])


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def point(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def textbook(
    matrix: np.ndarray, gradient: np.ndarray, eta: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """The inner loop of Nocedal and Wright's Algorithm 7.1, and the direction of negative curvature
    that ended it."""
    z, r = np.zeros_like(gradient), gradient.copy()
    d = -r
    for _ in range(200):
        if d @ matrix @ d <= 0:
            return z, d
        alpha = r @ r / (d @ matrix @ d)
        z, after = z + alpha * d, r + alpha * matrix @ d
        if np.linalg.norm(after) <= eta * np.linalg.norm(gradient):
            return z, None
        d, r = -after + (after @ after) / (r @ r) * d, after
    raise AssertionError("no end")


# -- the direction ---------------------------------------------------------------------------------


@searches
def test_on_a_quadratic_every_step_meets_the_forcing_term_and_the_end_is_superlinear(
    line_search: str,
) -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64, generator=generator))
    matrix = (basis * torch.logspace(-2, 2, 30, dtype=torch.float64)) @ basis.T
    norms: list[float] = []
    result = minimize(
        lambda x: x @ matrix @ x / 2 - x.sum(),
        torch.zeros(30, dtype=torch.float64),
        "newton_cg",
        tol=1e-11,
        line_search=line_search,
        callback=lambda iterate: norms.append(iterate.grad_norm),
    )
    assert result.success
    close(result.x, torch.linalg.solve(matrix, torch.ones(30, dtype=torch.float64)), 1e-8)
    for before, after in itertools.pairwise(norms):
        # round-off of A x - b
        assert after <= min(0.5, math.sqrt(before / norms[0])) * before * (1 + 1e-6) + 1e-12
    assert norms[-1] < 1e-3 * norms[-2]


@pytest.mark.parametrize("seed", range(8))
@curvatures
def test_a_step_is_the_textbooks(seed: int, negative_curvature: str) -> None:
    """Indefinite quadratics; where CG meets negative curvature depends on the seed."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = matrix + matrix.T + 2 * torch.eye(6, dtype=torch.float64)
    start = torch.randn(6, dtype=torch.float64, generator=generator)
    problem = scalar(start.tolist(), lambda x: x @ matrix @ x / 2)
    optimizer = NewtonCG(
        problem.model.parameters(), negative_curvature=negative_curvature, line_search="none"
    )
    optimizer.step(problem.objective())
    gradient, dense = (matrix @ start).numpy(), matrix.numpy()
    expected, bent = textbook(dense, gradient, 0.5)
    if bent is not None and (negative_curvature == "follow" or not expected.any()):
        expected = expected - (gradient @ bent) / abs(bent @ dense @ bent) * bent
    close(flat(problem) - start, torch.from_numpy(expected), 1e-8)


def test_the_seeds_above_cover_all_ends() -> None:
    ends = set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(6, 6, dtype=torch.float64, generator=generator)
        matrix = matrix + matrix.T + 2 * torch.eye(6, dtype=torch.float64)
        start = torch.randn(6, dtype=torch.float64, generator=generator)
        z, bent = textbook(matrix.numpy(), (matrix @ start).numpy(), 0.5)
        ends.add("converged" if bent is None else "later" if z.any() else "first")
    assert ends == {"converged", "later", "first"}


@curvatures
@searches
def test_the_saddle_function_is_left(negative_curvature: str, line_search: str) -> None:
    result = minimize(
        lambda x: 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4,
        point(1.0, 1e-3),
        "newton_cg",
        tol=1e-10,
        negative_curvature=negative_curvature,
        line_search=line_search,
    )
    assert result.success
    assert result.fun == pytest.approx(-1, abs=1e-12)
    close(result.x.abs(), point(0.0, 2**0.5), 1e-8)


def test_a_direction_without_curvature_is_followed_downhill() -> None:
    result = minimize(lambda x: x[0] + 0 * x[1] ** 2, point(0.0, 0.0), "newton_cg", max_steps=3)
    assert result.x.tolist() == [-3.0, 0.0]


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_mse_sum"])
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_a_step_on_a_network_solves_with_the_curvature_that_was_asked_for(
    name: str, curvature: str
) -> None:
    problem = CASES[name]()
    reference = Reference(problem, 0.1)
    matrix = (
        torch.func.hessian(reference.loss)(reference.theta)
        if curvature == "hessian"
        else reference.ggn()
    )
    expected, bent = textbook(matrix.numpy(), reference.gradient().numpy(), 0.5)
    if bent is not None:
        gradient = reference.gradient().numpy()
        expected = expected - (gradient @ bent) / abs(bent @ matrix.numpy() @ bent) * bent
    objective = problem.objective(0.1)
    NewtonCG(problem.model.parameters(), lr=0.25, curvature=curvature, line_search="none").step(
        objective
    )
    close(flat(problem) - reference.theta, 0.25 * torch.from_numpy(expected), 1e-8)
    assert objective.counts["ggnvp" if curvature == "ggn" else "hvp"] > 0
    assert objective.counts["hvp" if curvature == "ggn" else "ggnvp"] == 0


def test_the_unit_of_the_loss_does_not_matter() -> None:
    """A factor that is a power of two changes no bit of the path."""
    ends = []
    for factor in (1.0, 2.0**20, 2.0**-20):
        result = minimize(
            lambda x, factor=factor: factor * (100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2),  # type: ignore[misc]
            point(-1.2, 1.0),
            "newton_cg",
            max_steps=12,
            tol=0.0,
        )
        ends.append((result.x.tolist(), result.counts))
    assert ends[0] == ends[1] == ends[2]


# -- logistic regression ---------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_logistic_regression_to_scikit_learns_optimum(curvature: str) -> None:
    inputs, targets = load_breast_cancer(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    peer = LogisticRegression(C=1.0, fit_intercept=False, solver="newton-cholesky", tol=1e-14).fit(
        inputs, targets
    )
    best = torch.from_numpy(peer.coef_)
    model = nn.Linear(30, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets).double()[:, None]
    objective = Objective(model, nn.BCEWithLogitsLoss(reduction="sum"), x, y, l2=1.0)
    optimizer = NewtonCG(model.parameters(), curvature=curvature)
    for _ in range(30):
        optimizer.step(objective.on(x, y))
        if float(objective.on(x, y).value_and_gradient()[1].norm()) < 1e-9:
            break
    assert float((model.weight.detach() - best).abs().max()) < 1e-8
    loss = float(objective.value())
    with torch.no_grad():
        model.weight.copy_(best)
    assert loss == pytest.approx(float(objective.value()), rel=1e-12)


# -- line searches, refusals, counts ---------------------------------------------------------------


@searches
def test_the_gradient_vanishes_also_where_the_loss_no_longer_shows_it(line_search: str) -> None:
    result = minimize(
        lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + 1e6,
        point(-1.2, 1.0),
        "newton_cg",
        tol=1e-11,
        line_search=line_search,
        max_steps=100,
    )
    assert result.success, result.message


class Cliff(nn.Module):
    """Infinite everywhere but at the start."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        square = outputs.square().sum()
        return torch.where(square.detach() == 5.0, square, square + float("inf"))


@searches
def test_a_search_that_finds_nothing_leaves_the_parameters_and_says_so(line_search: str) -> None:
    problem = Problem(Residuals([1.0, 2.0], lambda x: x), Cliff(), ZERO, ZERO)
    optimizer = NewtonCG(problem.model.parameters(), max_trials=6, line_search=line_search)
    objective = problem.objective()
    assert float(optimizer.step(objective)) == 5.0
    assert torch.equal(flat(problem), point(1.0, 2.0))
    assert objective.counts["value"] == 1 + 6
    assert optimizer.stuck == "no step along the Newton direction lowers the loss"


def test_stationary_points_and_products_that_are_not_finite() -> None:
    still = scalar([0.0, 0.0], lambda x: (x**2).sum())
    optimizer = NewtonCG(still.model.parameters())
    optimizer.step(still.objective())
    assert optimizer.stuck == "the gradient is zero"
    broken = scalar([0.0, 1.0], lambda x: x.abs().pow(1.5).sum())
    optimizer = NewtonCG(broken.model.parameters())
    optimizer.step(broken.objective())
    assert optimizer.stuck == ""  # without products there is still the gradient
    assert float(broken.objective().value()) < 1


def test_all_parameters_of_the_model_in_its_order() -> None:
    problem = CASES["mlp_ce"]()
    for wrong in (problem.params[:-1], problem.params[::-1]):
        with pytest.raises(ValueError, match="NewtonCG needs all trainable parameters"):
            NewtonCG(wrong).step(problem.objective())


def test_counts_of_a_step() -> None:
    problem = scalar([1.0, 2.0, 3.0], lambda x: (x**2 / 2).sum())
    objective = problem.objective()
    NewtonCG(problem.model.parameters()).step(objective)
    assert objective.counts == {"value": 2, "grad": 1, "hvp": 1}
    assert NewtonCG.needs == {"hessian"}
    assert NewtonCG(problem.model.parameters(), curvature="ggn").needs == {"ggn"}
    limited = CASES["mlp_ce"]()
    objective = limited.objective(1.0)
    optimizer = NewtonCG(limited.model.parameters(), max_iterations=2)
    for _ in range(4):
        optimizer.step(objective)
    assert objective.counts["hvp"] <= 8


def test_single_precision() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    inputs = torch.randn(20, 3)
    targets = inputs @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.5
    optimizer = NewtonCG(model.parameters())
    for _ in range(8):
        optimizer.step(Objective(model, nn.MSELoss(), inputs, targets))
    close(model.weight.detach(), torch.tensor([[1.0, 2.0, -1.0]]), 1e-5)
