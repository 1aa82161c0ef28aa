"""Trust regions: the subproblem's two solvers, scipy's trajectories and counts, saddles, refused
steps."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import isnan, nan, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor, nn

from optimizers import UnsupportedError, minimize
from optimizers.linalg.steihaug import crossings, everything, steihaug
from optimizers.linalg.trust_region import RadiusRule, boundary_crossings, exact_subproblem
from optimizers.trust_region import TrustRegion
from tasks.functions.problems import PROBLEMS
from tests.optimizers.cases import Identity, Problem, Scalar, close, mlp

ZERO = torch.zeros(1, 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def symmetric(size: int, seed: int) -> Tensor:
    matrix = normal(size, size, seed=seed)
    return matrix + matrix.T


def model(matrix: Tensor, gradient: Tensor, step: Tensor) -> float:
    return float(gradient @ step + step @ matrix @ step / 2)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def saddle(x: Tensor) -> Tensor:
    return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4


def scalar(start: list[float], function) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(Scalar(start, function), Identity(), ZERO, ZERO)


# -- the exact subproblem --------------------------------------------------------------------------


def is_global_minimiser(matrix: Tensor, gradient: Tensor, radius: float, found) -> None:  # type: ignore[no-untyped-def]
    """The conditions of Nocedal and Wright, Theorem 4.1, which are necessary and sufficient."""
    shifted = matrix + found.multiplier * torch.eye(len(matrix), dtype=torch.float64)
    size = float(gradient.norm()) + float(matrix.norm()) * found.norm
    assert float((shifted @ found.step + gradient).norm()) <= 1e-12 * size
    assert found.multiplier >= 0
    assert float(torch.linalg.eigvalsh(shifted)[0]) >= -1e-12 * float(matrix.norm())
    assert float(found.step.norm()) == pytest.approx(found.norm, rel=1e-12, abs=1e-300)
    if found.boundary:
        assert found.norm == pytest.approx(radius, rel=1e-12)
    else:
        assert found.norm <= radius
        assert found.multiplier == 0
    assert found.change == pytest.approx(
        model(matrix, gradient, found.step), rel=1e-9, abs=1e-12 * size * found.norm
    )
    assert found.slope == pytest.approx(
        float(gradient @ found.step), rel=1e-9, abs=1e-12 * size * found.norm
    )


@pytest.mark.parametrize("seed", range(60))
def test_exact_steps_meet_the_optimality_conditions(seed: int) -> None:
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
    for radius in (1e-6, 0.1, 1.0, 30.0, 1e6):
        is_global_minimiser(
            matrix, gradient, radius, exact_subproblem(*torch.linalg.eigh(matrix), gradient, radius)
        )


def test_the_secular_equation_takes_few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimizers.linalg.secular import Spectrum

    calls: list[int] = []
    along = Spectrum.along
    monkeypatch.setattr(
        Spectrum, "along", lambda self, shift: calls.append(1) or along(self, shift)
    )
    for seed in range(100):
        matrix, gradient = symmetric(8, seed), normal(8, seed=seed + 1) * 10.0 ** (seed % 7 - 3)
        exact_subproblem(*torch.linalg.eigh(matrix), gradient, 10.0 ** (seed % 5 - 2))
    assert len(calls) < 1000


def test_the_hard_case_in_closed_form() -> None:
    """B = diag(-2, 1), g = (0, 1): lambda = 2, s = (+-(9 - 1/9)^(1/2), -1/3) for the radius 3."""
    matrix, gradient = (
        torch.diag(torch.tensor([-2.0, 1.0])).double(),
        torch.tensor([0.0, 1.0]).double(),
    )
    found = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 3.0)
    assert (found.hard, found.boundary, found.multiplier) == (True, True, 2.0)
    close(found.step.abs(), torch.tensor([sqrt(9 - 1 / 9), 1 / 3], dtype=torch.float64), 1e-14)
    is_global_minimiser(matrix, gradient, 3.0, found)
    easy = exact_subproblem(
        *torch.linalg.eigh(matrix), gradient, 0.25
    )  # the ball ends before the hard case begins
    assert not easy.hard
    is_global_minimiser(matrix, gradient, 0.25, easy)


@pytest.mark.parametrize("part", [1e-300, 1e-17, 1e-9])
def test_nearly_hard_cases(part: float) -> None:
    matrix = torch.diag(torch.tensor([-2.0, 1.0], dtype=torch.float64))
    gradient = torch.tensor([part, 1.0], dtype=torch.float64)
    found = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 3.0)
    is_global_minimiser(matrix, gradient, 3.0, found)
    assert float(found.step[0]) < -2.9  # downhill, however little


def test_without_a_gradient() -> None:
    nothing = torch.zeros(2, dtype=torch.float64)
    found = exact_subproblem(
        *torch.linalg.eigh(torch.diag(torch.tensor([-2.0, 1.0])).double()), nothing, 0.5
    )
    close(found.step.abs(), torch.tensor([0.5, 0.0]).double(), 1e-15)
    assert found.change == pytest.approx(-0.25, rel=1e-14)
    flat = exact_subproblem(
        *torch.linalg.eigh(torch.diag(torch.tensor([0.0, 1.0])).double()), nothing, 0.5
    )
    assert (flat.norm, flat.change, flat.boundary) == (0, 0, False)


def test_a_singular_matrix_does_not_send_the_step_to_the_boundary() -> None:
    """The gradient lies in the range of a matrix of rank 2, up to round-off.

    The shortest minimiser.
    """
    factor = normal(2, 5, seed=3)
    matrix, gradient = factor.T @ factor, factor.T @ normal(2, seed=4)
    found = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 1e3)
    close(found.step, -torch.linalg.pinv(matrix) @ gradient, 1e-9)
    assert not found.boundary


@pytest.mark.parametrize("radius", [0.0, -1.0, nan, float("inf")])
def test_a_radius_that_is_none_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be a positive number"):
        exact_subproblem(torch.ones(1), torch.ones(1, 1), torch.ones(1), radius)


# -- Steihaug's path -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "cross", "outer"), [(0.81, 1e6, 1.0), (0.81, -1e6, 1.0), (0, 0, 2), (1 - 2e-16, 1, 3)]
)
def test_crossings_of_the_sphere_without_cancellation(
    inner: float, cross: float, outer: float
) -> None:
    """Against exact rational arithmetic.

    The quadratic's value at each root, relative to its slope there.
    """
    for t in boundary_crossings(inner, cross, outer, 1.0):
        a, b, c, x = Fraction(outer), Fraction(cross), Fraction(inner) - 1, Fraction(t)
        error = (a * x * x + 2 * b * x + c) / (2 * (a * x + b)) if a * x + b else Fraction(0)
        assert abs(float(error)) <= 1e-14 * max(abs(t), 1e-16)
    back, ahead = boundary_crossings(inner, cross, outer, 1.0)
    assert back <= 0 <= ahead


def conjugate_path(matrix: Tensor, gradient: Tensor, radius: float) -> Tensor:
    """Conjugate gradients in the plane by hand.

    Down the slope, then along the one conjugate direction.
    """

    def ends(point: Tensor, along: Tensor) -> list[Tensor]:
        roots = np.roots(
            [float(along @ along), 2 * float(point @ along), float(point @ point) - radius**2]
        )
        return [point + float(root) * along for root in roots]

    bend = float(gradient @ matrix @ gradient)
    if bend <= 0:
        return min(
            ends(torch.zeros_like(gradient), gradient), key=lambda s: model(matrix, gradient, s)
        )
    first = -gradient * float(gradient @ gradient) / bend
    if float(first.norm()) >= radius:
        return -gradient / gradient.norm() * radius
    image = matrix @ gradient
    along = torch.stack([-image[1], image[0]])
    bend = float(along @ matrix @ along)
    if bend <= 0:
        return min(ends(first, along), key=lambda s: model(matrix, gradient, s))
    newton = -torch.linalg.solve(matrix, gradient)
    if float(newton.norm()) <= radius:
        return newton
    return min(ends(first, along), key=lambda s: float((s - newton).norm()))


def test_steihaug_in_the_plane_takes_every_branch() -> None:
    reasons: Counter[tuple[str, int]] = Counter()
    for seed in range(300):
        matrix, gradient = symmetric(2, seed), normal(2, seed=seed + 500)
        if seed % 2:
            matrix = matrix @ matrix
        radius = 10.0 ** (seed % 5 - 2)
        path = steihaug(
            lambda v, m=matrix: m @ v, gradient, radius, tolerance=1e-9, max_iterations=9
        )
        reasons[path.reason, path.products] += 1
        close(path.last.step, conjugate_path(matrix, gradient, radius), 1e-7)
        assert path.last.change == pytest.approx(model(matrix, gradient, path.last.step), rel=1e-7)
        assert path.last.slope == pytest.approx(float(gradient @ path.last.step), rel=1e-9)
        best = exact_subproblem(*torch.linalg.eigh(matrix), gradient, radius)
        assert best.change <= path.last.change + 1e-9 * abs(best.change)
    assert {
        ("boundary", 1),
        ("boundary", 2),
        ("curvature", 1),
        ("curvature", 2),
        ("converged", 2),
    } <= set(reasons)


@pytest.mark.parametrize("keep", [everything, crossings([0.5**k for k in range(1, 30)])])
def test_a_smaller_radius_needs_no_product(keep) -> None:  # type: ignore[no-untyped-def]
    for seed in range(20):
        matrix, gradient = symmetric(8, seed), normal(8, seed=seed + 1)
        if seed % 2:
            matrix = matrix @ matrix
        calls: list[int] = []

        def product(vector: Tensor, matrix: Tensor = matrix, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return matrix @ vector

        path = steihaug(product, gradient, 1.0, tolerance=1e-10, max_iterations=50, keep=keep)
        made = len(calls)
        assert made == path.products
        for power in range(30):
            radius = 0.5**power
            found = path.at(radius)
            again = steihaug(
                lambda v, m=matrix: m @ v, gradient, radius, tolerance=1e-10, max_iterations=50
            ).last
            close(found.step, again.step, 1e-12)
            assert found.change == pytest.approx(again.change, rel=1e-10)
            assert (found.boundary, found.norm) == (
                again.boundary,
                pytest.approx(again.norm, rel=1e-12),
            )
        assert len(calls) == made


def test_a_path_that_was_not_kept_says_so() -> None:
    path = steihaug(lambda v: 2 * v, torch.ones(3), 0.1, tolerance=0.0, max_iterations=3)
    assert path.at(0.1) is path.last
    with pytest.raises(LookupError, match=r"crosses the radius 0.05"):
        path.at(0.05)


def test_the_metric_is_a_change_of_variables() -> None:
    metric = torch.logspace(-1, 1, 8, dtype=torch.float64)
    for seed in range(10):
        matrix, gradient, root = symmetric(8, seed), normal(8, seed=seed + 1), metric.sqrt()
        options = {"tolerance": 1e-8, "max_iterations": 20}
        one = steihaug(lambda v, m=matrix: m @ v, gradient, 2.0, metric=metric, **options)
        scaled = matrix / root / root[:, None]
        two = steihaug(lambda v, m=scaled: m @ v, gradient / root, 2.0, **options)
        close(one.last.step * root, two.last.step, 1e-9)
        assert (one.reason, one.products) == (two.reason, two.products)
        assert one.last.norm == pytest.approx(two.last.norm, rel=1e-12)


def test_products_that_are_not_finite_end_the_path() -> None:
    products = iter([torch.tensor([-1.0, -0.5]), torch.full((2,), nan)])
    path = steihaug(lambda v: next(products), torch.ones(2), 1e3, tolerance=0.0, max_iterations=5)
    assert path.reason == "not finite"
    assert bool(path.last.step.isfinite().all())


def test_the_radius_rule() -> None:
    rule = RadiusRule(largest=3.0)
    assert [rule(1.0, ratio, True) for ratio in (nan, -1.0, 0.24, 0.25, 0.75, 0.76)] == [
        0.25,
        0.25,
        0.25,
        1,
        1,
        2,
    ]
    assert (rule(1.0, 0.9, False), rule(2.0, 0.9, True)) == (1, 3)


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
    found = scipy_minimize(
        counted("value", problem),
        start,
        jac=counted("grad", torch.func.grad(problem)),
        method=method,
        options={"gtol": 1e-5, "maxiter": 300},
        **second,
    )
    counts["value"] += counts["grad"]  # every gradient is an evaluation too
    return float(np.linalg.norm(found.jac)), counts


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
