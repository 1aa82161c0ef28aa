"""The subproblems of a trust region: the exact minimiser and Steihaug's path."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import nan, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from optimizers.linalg.steihaug import crossings, everything, steihaug
from optimizers.linalg.trust_region import RadiusRule, boundary_crossings, exact_subproblem
from tests.optimizers.cases import close
from tests.optimizers.trust_region_cases import normal, symmetric


def model(matrix: Tensor, gradient: Tensor, step: Tensor) -> float:
    return float(gradient @ step + step @ matrix @ step / 2)


# -- the exact subproblem --------------------------------------------------------------------------


def is_global_minimiser(matrix: Tensor, gradient: Tensor, radius: float, solution) -> None:  # type: ignore[no-untyped-def]
    """The conditions of Nocedal and Wright, Theorem 4.1, which are necessary and sufficient."""
    shifted = matrix + solution.multiplier * torch.eye(len(matrix), dtype=torch.float64)
    size = float(gradient.norm()) + float(matrix.norm()) * solution.norm
    assert float((shifted @ solution.step + gradient).norm()) <= 1e-12 * size
    assert solution.multiplier >= 0
    assert float(torch.linalg.eigvalsh(shifted)[0]) >= -1e-12 * float(matrix.norm())
    assert float(solution.step.norm()) == pytest.approx(solution.norm, rel=1e-12, abs=1e-300)
    if solution.boundary:
        assert solution.norm == pytest.approx(radius, rel=1e-12)
    else:
        assert solution.norm <= radius
        assert solution.multiplier == 0
    assert solution.change == pytest.approx(
        model(matrix, gradient, solution.step), rel=1e-9, abs=1e-12 * size * solution.norm
    )
    assert solution.slope == pytest.approx(
        float(gradient @ solution.step), rel=1e-9, abs=1e-12 * size * solution.norm
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
    solution = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 3.0)
    assert (solution.hard, solution.boundary, solution.multiplier) == (True, True, 2.0)
    close(solution.step.abs(), torch.tensor([sqrt(9 - 1 / 9), 1 / 3], dtype=torch.float64), 1e-14)
    is_global_minimiser(matrix, gradient, 3.0, solution)
    # the ball ends before the hard case begins
    easy = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 0.25)
    assert not easy.hard
    is_global_minimiser(matrix, gradient, 0.25, easy)


@pytest.mark.parametrize("part", [1e-300, 1e-17, 1e-9])
def test_nearly_hard_cases(part: float) -> None:
    matrix = torch.diag(torch.tensor([-2.0, 1.0], dtype=torch.float64))
    gradient = torch.tensor([part, 1.0], dtype=torch.float64)
    solution = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 3.0)
    is_global_minimiser(matrix, gradient, 3.0, solution)
    assert float(solution.step[0]) < -2.9  # downhill, however little


def test_without_a_gradient() -> None:
    nothing = torch.zeros(2, dtype=torch.float64)
    solution = exact_subproblem(
        *torch.linalg.eigh(torch.diag(torch.tensor([-2.0, 1.0])).double()), nothing, 0.5
    )
    close(solution.step.abs(), torch.tensor([0.5, 0.0]).double(), 1e-15)
    assert solution.change == pytest.approx(-0.25, rel=1e-14)
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
    solution = exact_subproblem(*torch.linalg.eigh(matrix), gradient, 1e3)
    close(solution.step, -torch.linalg.pinv(matrix) @ gradient, 1e-9)
    assert not solution.boundary


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
        calls_before = len(calls)
        assert calls_before == path.products
        for power in range(30):
            radius = 0.5**power
            step = path.at(radius)
            again = steihaug(
                lambda v, m=matrix: m @ v, gradient, radius, tolerance=1e-10, max_iterations=50
            ).last
            close(step.step, again.step, 1e-12)
            assert step.change == pytest.approx(again.change, rel=1e-10)
            assert (step.boundary, step.norm) == (
                again.boundary,
                pytest.approx(again.norm, rel=1e-12),
            )
        assert len(calls) == calls_before


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
