"""Trust regions: the subproblem's two solvers, scipy's trajectories and counts, saddles, refused
steps."""

from __future__ import annotations

from collections import Counter
from math import isnan, nan

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor, nn

from optimizers import UnsupportedError, minimize
from optimizers.trust_region import TrustRegion
from tasks.functions.problems import PROBLEMS
from tests.optimizers.cases import Identity, Problem, Scalar, close, mlp
from tests.optimizers.trust_region_cases import normal, symmetric

ZERO = torch.zeros(1, 1)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def saddle(x: Tensor) -> Tensor:
    return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


# -- the method against scipy ----------------------------------------------------------------------


def classic(size: int) -> Tensor:
    start = torch.ones(size, dtype=torch.float64)
    start[::2] = -1.2
    return start


def test_step_for_step_as_scipys_trust_ncg() -> None:
    """One trial a step is scipy's iteration: 85 of them, the same points to the end."""
    points: list[Tensor] = []

    def gradient(x: np.ndarray) -> np.ndarray:
        return torch.func.grad(rosenbrock)(torch.from_numpy(x)).numpy()

    theirs = scipy_minimize(
        lambda x: float(rosenbrock(torch.from_numpy(x))),
        classic(10).numpy(),
        jac=gradient,
        hess=lambda x: torch.func.hessian(rosenbrock)(torch.from_numpy(x)).numpy(),
        method="trust-ncg",
        callback=lambda x: points.append(torch.from_numpy(x.copy())),
    )
    ours: list[Tensor] = []
    result = minimize(
        rosenbrock,
        classic(10),
        method="trust_region",
        subproblem="steihaug",
        max_trials=1,
        tol=1e-4,
        callback=lambda iterate: ours.append(iterate.x),
    )
    assert (result.steps, theirs.nit) == (85, 85)
    for mine, other in zip(ours[1:], points, strict=True):
        close(mine, other, 1e-7)
    assert result.fun == pytest.approx(theirs.fun, rel=1e-4)
    assert result.fun == pytest.approx(3.006e-16, rel=1e-3)


def test_a_refused_step_costs_one_evaluation() -> None:
    """With many trials the same accepted points as with one, and fewer products.

    85 iterations, 10 of them refused.
    """
    runs = {}
    for trials in (1, 30):
        options = {
            "method": "trust_region",
            "subproblem": "steihaug",
            "max_trials": trials,
            "tol": 1e-4,
        }
        runs[trials] = minimize(rosenbrock, classic(10), **options)
    close(runs[30].x, runs[1].x, 1e-12)
    assert runs[30].steps < runs[1].steps
    assert runs[30].counts["hvp"] < runs[1].counts["hvp"]
    assert runs[30].counts["grad"] == runs[30].steps + 1


@pytest.mark.parametrize("subproblem", ["exact", "steihaug"])
def test_a_refused_step_needs_no_product(subproblem: str) -> None:
    problem = scalar([1.0, 2.0, -1.0], lambda x: (x**2 + 1).sqrt().sum())
    optimizer = TrustRegion(problem.model.parameters(), subproblem=subproblem, radius=100.0)
    objective = problem.objective()
    with torch.no_grad():
        problem.params[0].mul_(5)
    optimizer.step(objective)
    assert objective.counts["hvp"] <= 3
    assert objective.counts["grad"] == 1
    assert objective.counts["value"] > 3  # the first, and several trials
    assert optimizer.param_groups[0]["radius"] < 25


def peer(name: str, method: str) -> tuple[float, Counter[str]]:
    problem, counts = PROBLEMS[name], Counter[str]()
    start = problem.start(problem.dimension).double().numpy()

    def counted(kind: str, function, size: int = 1):  # type: ignore[no-untyped-def]
        def call(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
            counts[kind] += size
            return function(torch.from_numpy(x.copy()), *map(torch.from_numpy, rest)).numpy()

        return call

    if method == "trust-exact":
        second = {"hess": counted("hvp", lambda x: torch.func.hessian(problem)(x), len(start))}
    else:
        second = {
            "hessp": counted("hvp", lambda x, v: torch.autograd.functional.hvp(problem, x, v)[1])
        }
    solution = scipy_minimize(
        counted("value", problem),
        start,
        jac=counted("grad", torch.func.grad(problem)),
        method=method,
        options={"gtol": 1e-5, "maxiter": 300},
        **second,
    )
    counts["value"] += counts["grad"]  # every gradient is an evaluation too
    return float(np.linalg.norm(solution.jac)), counts


@pytest.mark.parametrize(
    ("subproblem", "method"), [("exact", "trust-exact"), ("steihaug", "trust-ncg")]
)
def test_as_few_calls_as_scipy(subproblem: str, method: str) -> None:
    names = [
        "rosenbrock",
        "freudenstein_roth",
        "beale",
        "helical_valley",
        "wood",
        "watson",
        "brown_dennis",
    ]
    ratios: dict[str, list[float]] = {"value": [], "grad": [], "hvp": []}
    for name in names:
        problem = PROBLEMS[name]
        start = problem.start(problem.dimension).double()
        ours = minimize(problem, start, method="trust_region", subproblem=subproblem, tol=1e-5)
        norm, counts = peer(name, method)
        assert ours.success
        if norm <= 1e-5:
            for kind, values in ratios.items():
                values.append(ours.counts[kind] / counts[kind])
    assert all(float(np.median(values)) <= 1.1 for values in ratios.values()), ratios


# -- saddles, limits, refusals ---------------------------------------------------------------------


@pytest.mark.parametrize("start", [[1.0, 0.0], [0.0, 0.0]])
def test_the_exact_form_leaves_the_saddle_as_trust_exact_does(start: list[float]) -> None:
    """From (1, 0) the second coordinate of every gradient is exactly zero.

    From (0, 0) the first too.
    """
    result = minimize(saddle, torch.tensor(start, dtype=torch.float64), method="trust_region")
    assert result.success
    assert result.fun == pytest.approx(-1, abs=1e-12)
    theirs = scipy_minimize(
        lambda x: float(saddle(torch.from_numpy(x))),
        np.array([1.0, 0.0]),
        jac=lambda x: torch.func.grad(saddle)(torch.from_numpy(x)).numpy(),
        hess=lambda x: torch.func.hessian(saddle)(torch.from_numpy(x)).numpy(),
        method="trust-exact",
    )
    assert theirs.fun == pytest.approx(-1, abs=1e-9)


def test_steihaug_cannot_see_what_the_gradient_does_not_show() -> None:
    options = {"method": "trust_region", "subproblem": "steihaug"}
    assert abs(minimize(saddle, torch.tensor([1.0, 0.0]).double(), **options).fun) < 1e-12
    assert abs(minimize(saddle, torch.tensor([1.0, 1e-3]).double(), **options).fun + 1) < 1e-9


@pytest.mark.parametrize("subproblem", ["exact", "steihaug"])
def test_one_step_on_a_convex_quadratic(subproblem: str) -> None:
    matrix, target = symmetric(8, 0) @ symmetric(8, 0), normal(8, seed=1)
    problem = scalar([1.0] * 8, lambda x: (x - target) @ matrix @ (x - target) / 2 + 3)
    optimizer = TrustRegion(
        problem.model.parameters(), subproblem=subproblem, radius=1000.0, tolerance=1e-12
    )
    before = problem.objective().value()
    assert torch.equal(optimizer.step(problem.objective()), before)
    close(problem.params[0].detach(), target, 1e-8)


@pytest.mark.parametrize("subproblem", ["exact", "steihaug"])
def test_trial_points_outside_the_domain(subproblem: str) -> None:
    """-log x - log(1 - x): NaN outside of (0, 1)."""
    result = minimize(
        lambda x: (-x.log() - (1 - x).log()).sum() + x[0] / 3,
        torch.tensor([0.9, 0.01, 1e-5], dtype=torch.float64),
        method="trust_region",
        subproblem=subproblem,
        radius=100.0,
    )
    assert result.success
    close(result.x[1:], torch.tensor([0.5, 0.5]).double(), 1e-8)


@pytest.mark.parametrize("subproblem", ["exact", "steihaug"])
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_the_loss_of_a_network_never_rises(subproblem: str, curvature: str) -> None:
    torch.manual_seed(0)
    problem = Problem(
        mlp((4, 8, 3)).double(), nn.CrossEntropyLoss(), normal(40, 4), torch.randint(3, (40,))
    )
    optimizer = TrustRegion(problem.model.parameters(), subproblem=subproblem, curvature=curvature)
    losses = [float(optimizer.step(problem.objective())) for _ in range(25)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]
    assert optimizer.needs == {curvature}


def test_a_gradient_of_zero_is_said() -> None:
    bowl = scalar([0.0, 0.0], lambda x: x @ x)
    for subproblem in ("exact", "steihaug"):
        optimizer = TrustRegion(bowl.model.parameters(), subproblem=subproblem)
        optimizer.step(bowl.objective())
        assert "the gradient is zero" in optimizer.stuck
        with torch.no_grad():
            bowl.params[0].fill_(1.0)
        optimizer.step(bowl.objective())
        assert optimizer.stuck == ""
        with torch.no_grad():
            bowl.params[0].zero_()


def test_no_step_that_agrees_is_said_and_the_radius_begins_anew() -> None:
    """A loss that is not finite anywhere but at the start."""

    class Needle(Scalar):
        def forward(self, inputs: Tensor) -> Tensor:
            away = (self.x.detach() != 1).any()
            return super().forward(inputs) + (nan if away else 0.0)

    problem = Problem(Needle([1.0, 1.0], lambda x: x @ x), Identity(), ZERO, ZERO)
    optimizer = TrustRegion(problem.model.parameters(), max_trials=100)
    loss = optimizer.step(problem.objective())
    assert not isnan(float(loss))
    assert optimizer.stuck.startswith("no step that changes a parameter")
    assert problem.params[0].tolist() == [1, 1]
    assert optimizer.param_groups[0]["radius"] == 1


def test_sizes() -> None:
    params = [nn.Parameter(torch.zeros(301))]
    assert not TrustRegion(params).exact
    assert TrustRegion(params, subproblem="exact").exact
    assert TrustRegion(params, dense_limit=301).exact
    with pytest.raises(
        UnsupportedError, match=r"6,000 parameters need 0\.3 GiB .* subproblem=steihaug and tron"
    ):
        TrustRegion([nn.Parameter(torch.zeros(6000))], subproblem="exact")


def test_single_precision_converges_to_its_resolution() -> None:
    result = minimize(rosenbrock, classic(4).float(), method="trust_region", tol=1e-3)
    assert result.status in ("converged", "stalled")
    assert result.fun < 1e-6 or result.fun == pytest.approx(3.7, abs=0.1)
