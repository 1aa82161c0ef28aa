"""Cubic regularisation: the model's global minimum, Krylov spaces, sub-samples."""

from __future__ import annotations

import copy
from itertools import pairwise
from math import nan

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor, nn

from optimizers import UnsupportedError, minimize
from optimizers.linalg.cubic import cubic_change, cubic_process, cubic_subproblem, krylov_cubic
from optimizers.linalg.secular import ModelStep
from optimizers.trust_region import ARC
from tests.optimizers.cases import CASES, Identity, Problem, Scalar, close, mlp
from tests.optimizers.trust_region_cases import normal

ZERO = torch.zeros(1, 1)


def symmetric(size: int, seed: int) -> Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.T


def cubic(matrix: Tensor, gradient: Tensor, sigma: float, step: Tensor) -> float:
    return float(gradient @ step + step @ matrix @ step / 2 + sigma / 3 * step.norm() ** 3)


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def saddle(x: Tensor) -> Tensor:
    return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def classic(size: int) -> Tensor:
    start = torch.ones(size, dtype=torch.float64)
    start[::2] = -1.2
    return start


# -- the subproblem --------------------------------------------------------------------------------


def is_global_minimiser(
    matrix: Tensor, gradient: Tensor, sigma: float, solution: ModelStep
) -> None:
    """The conditions of Cartis, Gould and Toint, Theorem 3.1, which are necessary and
    sufficient."""
    shifted = matrix + solution.multiplier * torch.eye(len(matrix), dtype=torch.float64)
    size = float(gradient.norm()) + float(matrix.norm()) * solution.norm
    assert float((shifted @ solution.step + gradient).norm()) <= 1e-12 * size
    assert solution.multiplier == pytest.approx(sigma * float(solution.step.norm()), rel=1e-9)
    assert float(torch.linalg.eigvalsh(shifted)[0]) >= -1e-12 * float(matrix.norm())
    value = cubic(matrix, gradient, sigma, solution.step)
    assert cubic_change(solution, sigma) == pytest.approx(
        value, rel=1e-9, abs=1e-12 * size * solution.norm
    )


def best_of_many_starts(matrix: Tensor, gradient: Tensor, sigma: float, starts: int = 6) -> float:
    a, g = matrix.numpy(), gradient.numpy()

    def value(s: np.ndarray) -> float:
        return float(g @ s + s @ a @ s / 2 + sigma / 3 * np.linalg.norm(s) ** 3)

    def slope(s: np.ndarray) -> np.ndarray:
        return g + a @ s + sigma * np.linalg.norm(s) * s

    rng = np.random.default_rng(0)
    origins = rng.standard_normal((starts, len(g))) * 10 / sigma
    runs = [
        scipy_minimize(value, origin, jac=slope, method="BFGS", options={"gtol": 1e-9})
        for origin in origins
    ]
    return min(float(run.fun) for run in runs)


def by_bisection(matrix: Tensor, gradient: Tensor, sigma: float) -> Tensor:
    """lambda from scipy's root finder on |s(lambda)| = lambda / sigma (there is no hard case in
    random models)."""
    size, lowest = np.eye(len(gradient)), max(0.0, -float(torch.linalg.eigvalsh(matrix)[0]))

    def step(multiplier: float) -> np.ndarray:
        return -np.linalg.solve(matrix.numpy() + multiplier * size, gradient.numpy())

    def excess(multiplier: float) -> float:
        return float(np.linalg.norm(step(multiplier))) - multiplier / sigma

    low, high = lowest + 1e-12 * (1 + lowest), lowest + 1.0
    while excess(high) > 0:
        high *= 2
    return torch.from_numpy(step(brentq(excess, low, high, xtol=1e-14, rtol=1e-14)))


def test_it_is_never_beaten_on_random_indefinite_models() -> None:
    for seed in range(200):
        matrix, gradient = symmetric(6, seed), normal(6, seed=seed + 1000)
        sigma = 10.0 ** (seed % 3 - 1)
        solution = cubic_subproblem(*torch.linalg.eigh(matrix), gradient, sigma)
        value = cubic(matrix, gradient, sigma, solution.step)
        reference = cubic(matrix, gradient, sigma, by_bisection(matrix, gradient, sigma))
        assert value <= reference + 1e-12 * abs(reference)
        assert reference == pytest.approx(value, rel=1e-9)
        if seed < 60:  # the slower judge
            many = best_of_many_starts(matrix, gradient, sigma)
            assert value <= many + 1e-9 * abs(many)


@pytest.mark.parametrize("seed", range(40))
def test_optimality_conditions(seed: int) -> None:
    size = seed % 7 + 1
    matrix, gradient = (
        symmetric(size, seed),
        normal(size, seed=seed + 1000) * 10.0 ** (seed % 5 - 2),
    )
    if seed % 3 == 1:
        matrix = matrix @ matrix
    if seed % 4 == 1:  # orthogonal to the lowest eigenvector up to round-off
        lowest = torch.linalg.eigh(matrix)[1][:, 0]
        gradient = gradient - (gradient @ lowest) * lowest
    for sigma in (1e-8, 0.1, 1.0, 1e6):
        is_global_minimiser(
            matrix, gradient, sigma, cubic_subproblem(*torch.linalg.eigh(matrix), gradient, sigma)
        )


def test_the_hard_case_in_closed_form() -> None:
    """B = diag(-2, 1), g = (0, 1), sigma = 1: lambda = |s| = 2, s = (+-(4 - 1/9)^(1/2), -1/3)."""
    matrix, gradient = (
        torch.diag(torch.tensor([-2.0, 1.0])).double(),
        torch.tensor([0.0, 1.0]).double(),
    )
    solution = cubic_subproblem(*torch.linalg.eigh(matrix), gradient, 1.0)
    assert solution.hard
    close(
        solution.step.abs(), torch.tensor([(4 - 1 / 9) ** 0.5, 1 / 3], dtype=torch.float64), 1e-14
    )
    is_global_minimiser(matrix, gradient, 1.0, solution)
    easy = cubic_subproblem(*torch.linalg.eigh(matrix), gradient, 100.0)
    assert not easy.hard
    is_global_minimiser(matrix, gradient, 100.0, easy)


def test_without_a_gradient() -> None:
    nothing = torch.zeros(2, dtype=torch.float64)
    along = cubic_subproblem(
        *torch.linalg.eigh(torch.diag(torch.tensor([-2.0, 1.0])).double()), nothing, 0.5
    )
    close(along.step.abs(), torch.tensor([4.0, 0.0]).double(), 1e-15)
    for lowest in (0.0, 2.0):
        still = cubic_subproblem(
            *torch.linalg.eigh(torch.diag(torch.tensor([lowest, 3.0])).double()), nothing, 0.5
        )
        assert (still.norm, still.change, still.hard) == (0, 0, False)
    with pytest.raises(ValueError, match="sigma must be a positive number, got 0"):
        cubic_subproblem(torch.ones(1), torch.ones(1, 1), torch.ones(1), 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_krylov_spaces_minimiser_is_the_whole_ones_in_the_end(seed: int) -> None:
    matrix, gradient, sigma = symmetric(20, seed), normal(20, seed=seed + 1), 10.0 ** (seed % 3 - 1)
    exact = cubic_subproblem(*torch.linalg.eigh(matrix), gradient, sigma)
    values = []
    for iterations in range(1, 21):
        process = cubic_process(
            lambda v, m=matrix: m @ v, gradient, sigma, iterations, lambda slope, norm: False
        )
        coefficients, solution, slope = krylov_cubic(process, float(gradient.norm()), sigma)
        step = process.lift(coefficients)
        values.append(cubic(matrix, gradient, sigma, step))
        assert cubic_change(solution, sigma) == pytest.approx(values[-1], rel=1e-9)
        model_gradient = gradient + matrix @ step + sigma * step.norm() * step
        assert slope == pytest.approx(float(model_gradient.norm()), rel=1e-6, abs=1e-9)
    assert all(later <= earlier + 1e-12 * abs(earlier) for earlier, later in pairwise(values))
    close(step, exact.step, 1e-8)


# -- the method ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [[1.0, 0.0], [0.0, 0.0]])
def test_the_exact_form_leaves_the_saddle(start: list[float]) -> None:
    result = minimize(saddle, torch.tensor(start, dtype=torch.float64), method="arc")
    assert result.success
    assert result.fun == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"subproblem": "lanczos"}, {"increase": 10.0, "decrease": 3.0}], ids=str
)
def test_rosenbrock_in_two_dimensions(options: dict[str, object]) -> None:
    result = minimize(rosenbrock, classic(2), method="arc", tol=1e-10, **options)
    assert result.success
    close(result.x, torch.ones(2).double(), 1e-10)
    assert result.steps < 50


@pytest.mark.parametrize("subproblem", ["exact", "lanczos"])
def test_a_refused_step_needs_no_product(subproblem: str) -> None:
    problem = scalar([5.0, 10.0, -5.0], lambda x: (x**2 + 1).sqrt().sum())
    optimizer = ARC(problem.model.parameters(), subproblem=subproblem, sigma=1e-12)
    objective = problem.objective()
    optimizer.step(objective)
    assert objective.counts["hvp"] <= 3
    assert objective.counts["grad"] == 1
    assert objective.counts["value"] > 10
    assert optimizer.param_groups[0]["sigma"] > 1e-9


@pytest.mark.parametrize("subproblem", ["exact", "lanczos"])
def test_the_forms_agree_when_the_krylov_space_is_the_whole_one(subproblem: str) -> None:
    torch.manual_seed(0)
    problem = Problem(
        mlp((3, 4, 2)).double(), nn.CrossEntropyLoss(), normal(20, 3), torch.randint(2, (20,))
    )
    twin = copy.deepcopy(problem)
    exact = ARC(problem.model.parameters(), subproblem="exact")
    krylov = ARC(twin.model.parameters(), subproblem="lanczos", tolerance=0.0)
    for _ in range(5):
        losses = [opt.step(p.objective()) for opt, p in ((exact, problem), (krylov, twin))]
        close(losses[1], losses[0], 1e-8)
    for one, two in zip(problem.params, twin.params, strict=True):
        close(two.detach(), one.detach(), 1e-6)


@pytest.mark.parametrize("options", [{}, {"subproblem": "lanczos"}, {"curvature": "ggn"}], ids=str)
def test_the_loss_of_a_network_never_rises(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    problem = Problem(
        mlp((4, 8, 3)).double(), nn.CrossEntropyLoss(), normal(40, 4), torch.randint(3, (40,))
    )
    optimizer = ARC(problem.model.parameters(), **options)  # type: ignore[arg-type]
    losses = [float(optimizer.step(problem.objective())) for _ in range(25)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


def test_sigma_means_the_same_for_sums_and_means() -> None:
    steps = {}
    for name in ("mlp_ce", "mlp_ce_sum"):
        problem = CASES[name]()
        optimizer = ARC(problem.model.parameters(), sigma=3.0)
        for _ in range(3):
            optimizer.step(problem.objective())
        steps[name] = torch.cat([p.detach().flatten() for p in problem.params])
    close(steps["mlp_ce_sum"], steps["mlp_ce"], 1e-9)


def test_sigma_follows_the_ratio() -> None:
    optimizer = ARC([nn.Parameter(torch.zeros(2))], increase=3.0, decrease=5.0)
    assert [optimizer._adapted(1.0, ratio) for ratio in (nan, -1.0, 0.09, 0.1, 0.89, 0.9)] == [
        3,
        3,
        3,
        1,
        1,
        0.2,
    ]


def test_trial_points_outside_the_domain() -> None:
    for subproblem in ("exact", "lanczos"):
        result = minimize(
            lambda x: (-x.log() - (1 - x).log()).sum() + x[0] / 3,
            torch.tensor([0.9, 0.01, 1e-5], dtype=torch.float64),
            method="arc",
            subproblem=subproblem,
            sigma=1e-6,
        )
        assert result.success
        close(result.x[1:], torch.tensor([0.5, 0.5]).double(), 1e-8)


def test_what_it_cannot_do_is_said() -> None:
    bowl = scalar([0.0, 0.0], lambda x: x @ x)
    for subproblem in ("exact", "lanczos"):
        optimizer = ARC(bowl.model.parameters(), subproblem=subproblem)
        optimizer.step(bowl.objective())
        assert "the gradient is zero" in optimizer.stuck
    with pytest.raises(
        UnsupportedError,
        match=r"ARC works with dense matrices: 6,000 parameters .* subproblem=lanczos",
    ):
        ARC([nn.Parameter(torch.zeros(6000))], subproblem="exact")
