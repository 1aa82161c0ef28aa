"""TRON: LIBLINEAR's radius rule, its optimum of logistic regression, preconditioning, refused
steps, memory."""

from __future__ import annotations

from itertools import pairwise
from math import nan

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError, minimize
from optimizers.linalg.curvature import Curvature
from optimizers.trust_region import TRON
from optimizers.trust_region.tron import TronRule
from suite.training.measures.memory import peak_bytes
from tests.optimizers.cases import Identity, Problem, Scalar, close, mlp

ZERO = torch.zeros(1, 1)
C = 0.5


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def classic(size: int) -> Tensor:
    start = torch.ones(size, dtype=torch.float64)
    start[::2] = -1.2
    return start


# -- the rule --------------------------------------------------------------------------------------


def liblinear_radius(
    delta: float, norm: float, actual: float, predicted: float, alpha: float, reached: bool
) -> float:
    """The update of LIBLINEAR's trust-region solver, case by case."""
    if actual < 1e-4 * predicted:
        return min(alpha * norm, 0.5 * delta)
    if actual < 0.25 * predicted:
        return max(0.25 * delta, min(alpha * norm, 0.5 * delta))
    if actual < 0.75 * predicted:
        return max(0.25 * delta, min(alpha * norm, 4 * delta))
    if reached:
        return 4 * delta
    return max(delta, min(alpha * norm, 4 * delta))


def test_the_radius_rule() -> None:
    rule = TronRule()
    for actual in (-2.0, 0.0, 5e-5, 0.1, 0.3, 0.7, 0.8, 1.5):
        for norm in (0.3, 1.0):
            for alpha in (0.25, 0.8, 4.0):
                for reached in (True, False):
                    expected = liblinear_radius(1.0, norm, actual, 1.0, alpha, reached)
                    assert rule(1.0, norm, actual, alpha, reached) == expected
    assert rule(1.0, 1.0, nan, rule.alpha(-1.0, nan), True) == 0.25


def test_the_interpolated_length_is_the_parabolas_lowest_point() -> None:
    """f(t) = -2t + 3t^2 along a step: slope -2, change 1, lowest at 1/3."""
    rule = TronRule()
    assert rule.alpha(-2.0, 1.0) == pytest.approx(1 / 3)
    assert rule.alpha(-2.0, 100.0) == 0.25
    assert rule.alpha(-2.0, -3.0) == 4.0
    assert rule.alpha(-2.0, float("inf")) == 0.25


# -- logistic regression ---------------------------------------------------------------------------


def cancer() -> tuple[Tensor, Tensor]:
    data = load_breast_cancer()
    features = StandardScaler().fit_transform(data.data)
    return torch.from_numpy(features), torch.from_numpy(data.target).double()[:, None]


def logistic() -> Problem:
    """C times the sum of the losses, plus |w|^2 / 2, as LIBLINEAR writes it, divided by C."""
    features, targets = cancer()
    model = nn.Linear(30, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return Problem(model, nn.BCEWithLogitsLoss(reduction="sum"), features, targets)


@pytest.fixture(scope="module")
def optimum() -> Tensor:
    """Of scikit-learn's liblinear, which is of the age that has TRON, polished by its Newton
    solver."""
    features, targets = (part.numpy() for part in cancer())
    rough = LogisticRegression(
        C=C, solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=1000
    )
    fine = LogisticRegression(
        C=C, solver="newton-cholesky", fit_intercept=False, tol=1e-13, max_iter=1000
    )
    coefficients = [solver.fit(features, targets[:, 0]).coef_ for solver in (rough, fine)]
    assert np.abs(coefficients[0] - coefficients[1]).max() < 1e-6
    return torch.from_numpy(coefficients[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"curvature": "ggn"},
        {"preconditioner": "diagonal"},
        {"preconditioner": "diagonal", "exact_diagonal": 0},
    ],
    ids=str,
)
def test_logistic_regression_to_sklearns_optimum(
    optimum: Tensor, options: dict[str, object]
) -> None:
    problem = logistic()
    optimizer = TRON(problem.model.parameters(), **options)  # type: ignore[arg-type]
    objective = problem.objective(l2=1 / C)
    losses = [
        float(optimizer.step(objective.on(problem.inputs, problem.targets))) for _ in range(25)
    ]
    assert all(b <= a * (1 + 1e-14) for a, b in pairwise(losses))
    close(problem.params[0].detach(), optimum, 1e-8)
    gradient = problem.objective(l2=1 / C).value_and_gradient()[1]
    assert float(gradient.norm()) < 1e-8


def test_the_preconditioner_saves_products() -> None:
    """On features whose scales spread over four orders of magnitude, the products for the diagonal
    left out."""
    products, steps = {}, {}
    for preconditioner in ("none", "diagonal"):
        problem = logistic()
        problem.inputs = problem.inputs * torch.logspace(-2, 2, 30, dtype=torch.float64)
        optimizer = TRON(problem.model.parameters(), preconditioner=preconditioner)
        objective = problem.objective(l2=1 / C)
        for steps[preconditioner] in range(1, 100):
            optimizer.step(objective.on(problem.inputs, problem.targets))
            if float(problem.objective(l2=1 / C).value_and_gradient()[1].norm()) < 1e-6:
                break
        products[preconditioner] = objective.counts["hvp"]
    assert max(steps.values()) < 99
    assert products["diagonal"] - 30 * steps["diagonal"] < 0.7 * products["none"], (products, steps)


# -- the region ------------------------------------------------------------------------------------


def test_the_first_radius_is_the_gradients_length_cut_to_the_first_step() -> None:
    # g = (100, 1): a Newton step of 2^(1/2)
    problem = scalar([1.0, 1.0], lambda x: 50 * x[0] ** 2 + 0.5 * x[1] ** 2)
    optimizer = TRON(problem.model.parameters(), tolerance=1e-8)
    optimizer.step(problem.objective())
    assert float(problem.params[0].detach().abs().max()) < 1e-12
    # rho = 1 and alpha = 1: the radius stays at the step's length
    assert optimizer.param_groups[0]["radius"] == pytest.approx(2**0.5, rel=1e-9)


def test_the_diagonal_is_exact_for_few_parameters_and_unbiased_for_many() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = matrix + matrix.T
    problem = scalar([1.0] * 6, lambda x: x @ matrix @ x / 2)
    exact = 0.99 + 0.01 * matrix.diagonal().abs()
    few = TRON(problem.model.parameters(), preconditioner="diagonal")
    close(few._metric(problem.objective().hessian()), exact, 1e-12)
    many = TRON(
        problem.model.parameters(), preconditioner="diagonal", exact_diagonal=0, probes=4000
    )
    hessian: Curvature = problem.objective().hessian()
    deviation = 0.01 * (matrix.square().sum(1) - matrix.diagonal().square()).sqrt() / 4000**0.5
    assert bool(((many._metric(hessian) - exact).abs() < 5 * deviation).all())


@pytest.mark.parametrize(
    "options", [{}, {"keep_path": True}, {"preconditioner": "diagonal"}], ids=str
)
def test_it_leaves_a_saddle_and_meets_indefinite_curvature(options: dict[str, object]) -> None:
    result = minimize(
        lambda x: 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4,
        torch.tensor([1.0, 1e-3], dtype=torch.float64),
        method="tron",
        **options,
    )
    assert result.success
    assert result.fun == pytest.approx(-1, abs=1e-10)


def test_a_kept_path_changes_nothing_but_the_products() -> None:
    runs = [
        minimize(rosenbrock, classic(10), method="tron", keep_path=keep) for keep in (False, True)
    ]
    assert all(run.success for run in runs)
    close(runs[1].x, runs[0].x, 1e-9)
    assert runs[0].steps == runs[1].steps
    assert runs[0].counts["value"] == runs[1].counts["value"] > 2 * runs[0].steps
    assert runs[1].counts["hvp"] < runs[0].counts["hvp"]


def test_trial_points_outside_the_domain() -> None:
    result = minimize(
        lambda x: (-x.log() - (1 - x).log()).sum() + x[0] / 3,
        torch.tensor([0.9, 0.01, 1e-5], dtype=torch.float64),
        method="tron",
    )
    assert result.success
    close(result.x[1:], torch.tensor([0.5, 0.5]).double(), 1e-8)


def test_a_gradient_of_zero_is_said() -> None:
    bowl = scalar([0.0, 0.0], lambda x: x @ x)
    optimizer = TRON(bowl.model.parameters())
    optimizer.step(bowl.objective())
    assert optimizer.stuck == "the gradient is zero"
    assert optimizer.param_groups[0]["radius"] is None
    with torch.no_grad():
        bowl.params[0].fill_(1.0)
    optimizer.step(bowl.objective())
    assert optimizer.stuck == ""
    assert float(bowl.params[0].detach().norm()) < 1e-12


def test_curvature_from_the_ggn_needs_residuals() -> None:
    assert TRON([nn.Parameter(torch.zeros(2))], curvature="ggn").needs == {"ggn"}
    with pytest.raises(UnsupportedError, match="ggn"):
        minimize(rosenbrock, classic(4), method="tron", curvature="ggn")


@pytest.mark.parametrize("options", [{}, {"preconditioner": "diagonal"}], ids=str)
def test_at_most_eight_vectors_beyond_the_graph(options: dict[str, object]) -> None:
    """The high-water mark of a step, less that of one product.

    What the method itself holds, in n floats.

    The product's vector, the gradient and the product are in both; they are counted as three.
    """
    size = sum(p.numel() for p in mlp((200, 100, 10)).parameters())

    def build() -> tuple[TRON, Objective, Problem]:
        torch.manual_seed(0)
        problem = Problem(
            mlp((200, 100, 10)), nn.CrossEntropyLoss(), torch.randn(8, 200), torch.randint(10, (8,))
        )
        optimizer = TRON(
            problem.model.parameters(), tolerance=1e-3, max_iterations=6, probes=2, **options
        )  # type: ignore[arg-type]
        return optimizer, problem.objective(), problem

    def product():  # type: ignore[no-untyped-def]
        _, objective, problem = build()

        def act() -> None:
            hessian = objective.on(problem.inputs, problem.targets).hessian()
            hessian(hessian.gradient.clone())

        act()
        return act

    def step():  # type: ignore[no-untyped-def]
        optimizer, objective, problem = build()

        def act() -> None:
            optimizer.step(objective.on(problem.inputs, problem.targets))

        act()
        return act

    more = peak_bytes(step, 0, torch.device("cpu")) - peak_bytes(product, 0, torch.device("cpu"))
    assert more / (4 * size) + 3 <= 8.01
