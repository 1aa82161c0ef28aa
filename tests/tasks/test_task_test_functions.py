"""The classical test functions against the values their authors, and others, have published."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from optimizers.objective import Objective
from tasks.functions.problem import Problem, repeated
from tasks.functions.problems import MORE_GARBOW_HILLSTROM, PROBLEMS
from tasks.functions.test_function import TestFunction
from tests.tasks.function_values import ENDS, MINIMA, SIZES, START_DERIVATIVES, START_NORMS

torch.set_num_threads(1)
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
every_numbered = pytest.mark.parametrize("name", MORE_GARBOW_HILLSTROM)


def point(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near_start(problem: Problem, seed: int = 0) -> Tensor:
    """A point that no coordinate of which is special."""
    start = problem.start(problem.dimension)
    draw = torch.randn(
        len(start), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return start + 0.01 * (start.abs() if bool(start.any()) else torch.ones_like(start)) * draw


def differences(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs' Jacobian by central differences, and its round-off and truncation error."""
    step = 1e-6 * x.abs().clamp(min=0.1)
    moved = torch.diag(step)
    ahead, behind = (
        torch.stack([problem.outputs(x + sign * row) for row in moved], -1) for sign in (1, -1)
    )
    size = torch.maximum(ahead.abs(), behind.abs()).max()
    return (ahead - behind) / (2 * step), 1e-15 * size / step


def packed_by_columns_read_by_rows(matrix: Tensor) -> Tensor:
    """The entries of a symmetric matrix in the places where the Julia interface puts them.

    Algorithm 566 packs the strict upper triangle by columns, the interface unpacks it by rows. Both
    orders agree up to n = 3; beyond, the printed condition numbers are those of a shuffled matrix
    with the Hessian's entries.
    """
    rows, columns = torch.triu_indices(*matrix.shape, 1)
    packed = matrix[columns, rows].clone()
    order = torch.argsort(columns * len(matrix) + rows)
    shuffled = torch.diag(matrix.diagonal())
    shuffled[rows, columns] = packed[order]
    shuffled[columns, rows] = packed[order]
    return shuffled


# -- published values ------------------------------------------------------------------------------


@every_numbered
def test_dimensions_are_those_of_the_papers_table(name: str) -> None:
    problem = PROBLEMS[name]
    assert problem.number is not None
    assert (problem.dimension, len(problem.outputs(problem.start(problem.dimension)))) == SIZES[
        problem.number
    ]
    assert MORE_GARBOW_HILLSTROM.index(name) == problem.number - 1


def test_every_numbered_problem_has_a_published_start_value() -> None:
    assert {row[0] for row in START_NORMS} | {row[0] for row in START_DERIVATIVES} == set(
        MORE_GARBOW_HILLSTROM
    )


@pytest.mark.parametrize(("name", "dimension", "norm"), START_NORMS)
def test_residual_norm_at_the_start(name: str, dimension: int, norm: float) -> None:
    problem = PROBLEMS[name]
    value = problem.outputs(problem.start(problem.resolve(dimension))).norm()
    assert float(value) == pytest.approx(norm, rel=6e-8)


@pytest.mark.parametrize(("name", "dimension", "value", "slope", "condition"), START_DERIVATIVES)
def test_value_gradient_and_hessian_at_the_start(
    name: str, dimension: int, value: float, slope: float, condition: float
) -> None:
    problem = PROBLEMS[name]
    start = problem.start(problem.resolve(dimension))
    assert float(problem(start)) == pytest.approx(value, rel=6e-3)
    assert float(grad(problem)(start).norm()) == pytest.approx(slope, rel=6e-3)
    matrix = packed_by_columns_read_by_rows(hessian(problem)(start))
    assert float(torch.linalg.cond(matrix)) == pytest.approx(condition, rel=6e-3)


@pytest.mark.parametrize(("name", "dimension", "minimum"), MINIMA)
def test_minimum_agrees_with_the_published_digits(
    name: str, dimension: int, minimum: float
) -> None:
    assert PROBLEMS[name].lowest(dimension) == pytest.approx(minimum, rel=6e-6)


@pytest.mark.parametrize(("name", "end", "value", "atol"), ENDS)
def test_value_where_the_authors_programs_ended(
    name: str, end: tuple[float, ...], value: float | None, atol: float
) -> None:
    expected = PROBLEMS[name].lowest(len(end)) if value is None else value
    assert float(PROBLEMS[name](point(end))) == pytest.approx(expected, abs=atol, rel=0)


@every_problem
def test_minimizers_attain_the_minimum_and_are_stationary(problem: Problem) -> None:
    for minimizer in problem.minimizers:
        x = minimizer(problem.dimension)
        lowest = problem.lowest(problem.dimension)
        assert float(problem(x)) == pytest.approx(lowest, rel=1e-11, abs=1e-14)
        if problem is PROBLEMS["ackley"]:  # a kink
            continue
        scaled = grad(problem)(x) * x.abs().clamp(min=1e-6)
        assert float(scaled.abs().max()) <= 1e-8 * max(
            1.0, float(problem(problem.start(problem.dimension)))
        )


@every_numbered
def test_minpack_ends_at_the_minimum_or_at_a_known_other_one(name: str) -> None:
    """scipy's MINPACK, from the standard start, with the Jacobian of autograd."""
    problem = PROBLEMS[name]
    assert problem.residuals is not None

    def residuals(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
        return problem.outputs(torch.from_numpy(x)).numpy()

    def jacobian(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, Any]:
        return jacrev(problem.outputs)(torch.from_numpy(x)).numpy()

    start = problem.start(problem.dimension).numpy()
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    computed = 2 * float(
        least_squares(residuals, start, jacobian, method="lm", max_nfev=2000, **tight).cost
    )
    attracted = {"freudenstein_roth", "trigonometric"}  # where everybody's solvers end elsewhere
    expected = problem.local_minima[0] if name in attracted else problem.lowest(problem.dimension)
    assert computed == pytest.approx(expected, rel=1e-10, abs=1e-20)


# -- derivatives and transforms --------------------------------------------------------------------


@every_problem
def test_jacobian_and_hessian_are_those_of_finite_differences(problem: Problem) -> None:
    x = near_start(problem)
    expected, noise = differences(problem, x)
    matrix = jacrev(problem.outputs)(x)
    assert bool(((matrix - expected).abs() <= noise + 1e-6 * matrix.abs().max(0).values).all())
    slope = Problem("slope", dimension=len(x), start=repeated(0.0), residuals=grad(problem))
    expected, noise = differences(slope, x)
    matrix = hessian(problem)(x)
    assert bool(((matrix - expected).abs() <= 10 * noise + 1e-6 * matrix.abs().max()).all())
    torch.testing.assert_close(matrix, matrix.T)


@every_problem
def test_one_call_of_vmap_is_many_calls(problem: Problem) -> None:
    points = torch.stack([near_start(problem, seed) for seed in range(3)])
    points[0] = problem.start(problem.dimension)
    torch.testing.assert_close(vmap(problem)(points), torch.stack([problem(x) for x in points]))
    torch.testing.assert_close(
        vmap(grad(problem))(points), torch.stack([grad(problem)(x) for x in points])
    )
    torch.testing.assert_close(
        vmap(hessian(problem))(points), torch.stack([hessian(problem)(x) for x in points])
    )


@every_problem
@pytest.mark.parametrize("size", [0.0, 1e3, -1e3, 1e200, -1e200, math.inf, math.nan])
def test_wild_points_give_a_number_or_nan(problem: Problem, size: float) -> None:
    x = torch.full((problem.dimension,), size, dtype=torch.float64)
    assert problem(x).shape == grad(problem)(x).sum().shape == ()


@every_problem
def test_type_of_the_point_is_kept(problem: Problem) -> None:
    start = problem.start(problem.dimension)
    assert start.dtype == torch.float64
    assert problem.outputs(start.float()).dtype == torch.float32
    assert float(problem(start.float())) == pytest.approx(float(problem(start)), rel=1e-2)


@settings(deadline=None)
@given(size=st.integers(1, 40), pick=st.sampled_from([p for p in PROBLEMS.values() if p.sizes]))
def test_any_allowed_dimension_works_and_any_other_is_refused(size: int, pick: Problem) -> None:
    if size != pick.dimension and size not in (pick.sizes or ()):
        with pytest.raises(ValueError, match=f"dimension must be .* for {pick.name}, got {size}"):
            pick.resolve(size)
        return
    x = pick.start(pick.resolve(size))
    assert x.shape == (size,)
    assert bool(torch.isfinite(pick(x)))
    for minimizer in pick.minimizers:
        assert float(pick(minimizer(size))) == pytest.approx(pick.lowest(size), abs=1e-12 * size)


# -- naive twins of what is vectorised -------------------------------------------------------------


def test_banded_and_integral_equations_are_their_double_sums() -> None:
    x = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    n, h = len(x), 1 / (len(x) + 1)
    banded, integral = [], []
    for i in range(1, n + 1):
        band = [j for j in range(max(1, i - 5), min(n, i + 1) + 1) if j != i]
        banded.append(
            x[i - 1] * (2 + 5 * x[i - 1] ** 2) + 1 - sum(x[j - 1] * (1 + x[j - 1]) for j in band)
        )
        cubes = [(x[j - 1] + j * h + 1) ** 3 for j in range(1, n + 1)]
        left = (1 - i * h) * sum(j * h * cubes[j - 1] for j in range(1, i + 1))
        right = i * h * sum((1 - j * h) * cubes[j - 1] for j in range(i + 1, n + 1))
        integral.append(x[i - 1] + h / 2 * (left + right))
    torch.testing.assert_close(
        PROBLEMS["broyden_banded"].outputs(point(tuple(x))), point(tuple(banded))
    )
    torch.testing.assert_close(
        PROBLEMS["discrete_integral_equation"].outputs(point(tuple(x))), point(tuple(integral))
    )


def test_chebyquad_is_made_of_chebyshevs_cosines() -> None:
    x = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    angles = torch.arccos(2 * x - 1)
    integrals = [0.0, -1 / 3, 0.0, -1 / 15, 0.0, -1 / 35]
    expected = torch.stack(
        [(i * angles).cos().mean() - integral for i, integral in enumerate(integrals, 1)]
    )
    torch.testing.assert_close(PROBLEMS["chebyquad"].outputs(x), expected)


def test_helical_valleys_angle_has_its_cut_below() -> None:
    theta = [
        -PROBLEMS["helical_valley"].outputs(point((*xy, 0.0)))[0] / 100
        for xy in ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (1, -1))
    ]
    torch.testing.assert_close(
        torch.stack(theta), point((0, 0.125, 0.25, 0.375, 0.5, 0.625, -0.125))
    )


# -- the task --------------------------------------------------------------------------------------


@every_problem
def test_task_gives_the_functions_value_gap_and_pictures(problem: Problem) -> None:
    task = TestFunction(problem.name, spread=0)
    start, (inputs, targets) = problem.start(problem.dimension), next(task.batches("train", 0))
    model = task.model(0)
    value = float(problem(start))
    assert float(task.loss_fn(model(inputs), targets).detach()) == pytest.approx(value, rel=1e-14)
    assert task.evaluate(model, "val") == {
        "gap": pytest.approx(value - task.minimum),
        "loss": pytest.approx(value),
    }
    points = torch.cat([start[None], task.minimizers])
    torch.testing.assert_close(task.values(points), torch.stack([problem(x) for x in points]))
    assert task.minimizers.shape == (len(problem.minimizers), problem.dimension)
    assert (task.domain is None) == (problem.dimension != 2)
    if task.domain is not None:
        low, high = (
            torch.tensor(ends, dtype=torch.float64) for ends in zip(*task.domain, strict=True)
        )
        assert bool(((low <= points) & (points <= high)).all())


@pytest.mark.parametrize("name", ["rastrigin", "styblinski_tang", "ackley", "saddle"])
def test_values_offer_a_hessian_and_no_gauss_newton_matrix(name: str) -> None:
    task = TestFunction(name)
    assert task.offers == {"hessian", "per_example"}
    assert TestFunction.offers == TestFunction("rosenbrock").offers > task.offers
    model = task.model(0)
    objective = Objective(model, task.loss_fn, *next(task.batches("train", 0)))
    expected = hessian(task.problem)(next(model.parameters()).detach())
    torch.testing.assert_close(objective.hessian().dense(), expected)
    torch.testing.assert_close(objective.per_example_grads().mean(0), objective.hessian().gradient)


def test_gap_is_measured_from_the_best_known_level() -> None:
    assert TestFunction("brown_dennis").minimum == 85822.20162635627
    assert TestFunction("watson", dimension=7).minimum == 0
    assert TestFunction("saddle").minimum == TestFunction("monkey_saddle").minimum == -1
    task = TestFunction("saddle", spread=0)
    model = task.model(0)
    for position, gap in (((0.0, 0.0), 1.0), ((0.0, 1.0), 0.0), ((0.0, 2.0), -3.0)):
        with torch.no_grad():
            next(model.parameters()).copy_(point(position))
        assert task.evaluate(model, "val")["gap"] == gap


@pytest.mark.parametrize("name", ["saddle", "monkey_saddle", "quartic_saddle"])
def test_origin_is_a_saddle(name: str) -> None:
    problem, origin = PROBLEMS[name], torch.zeros(2, dtype=torch.float64)
    assert float(grad(problem)(origin).norm()) == 0
    curvatures = torch.linalg.eigvalsh(hessian(problem)(origin))
    expected = {"saddle": (-2, 2), "monkey_saddle": (0, 0), "quartic_saddle": (-2, 10)}[name]
    assert tuple(curvatures.tolist()) == expected
    around = torch.tensor(
        [[math.cos(a), math.sin(a)] for a in np.linspace(0, 2 * math.pi, 12)], dtype=torch.float64
    )
    values = vmap(problem)(0.1 * around)
    assert float(values.min()) < 0 < float(values.max())


@pytest.mark.parametrize(("curvature", "value"), [(torch.abs, -1.0), (torch.clone, 0.0)])
def test_newton_runs_into_the_saddle_unless_it_minds_the_sign(
    curvature: Callable[[Tensor], Tensor], value: float
) -> None:
    task = TestFunction("quartic_saddle", spread=0)
    model = task.model(0)
    x = next(model.parameters())
    for _ in range(40):
        exact = Objective(model, task.loss_fn, *next(task.batches("train", 0))).hessian()
        values, vectors = torch.linalg.eigh(exact.dense())
        with torch.no_grad():
            x.sub_(vectors @ (vectors.T @ exact.gradient / curvature(values)))
    assert task.evaluate(model, "val")["loss"] == pytest.approx(value, abs=1e-12)


def test_spread_is_relative_to_the_start() -> None:
    moved = next(TestFunction("powell_badly_scaled", spread=0.1).model(0).parameters()).detach()
    assert float(moved[0]) == 0
    assert 0 < abs(float(moved[1]) - 1) < 0.5
    assert bool(next(TestFunction("watson", spread=0.1).model(0).parameters()).detach().all())
    exact = next(TestFunction("meyer", spread=0).model(5).parameters()).detach()
    torch.testing.assert_close(exact, point((0.02, 4000.0, 250.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "rosenbrok"},
            "name must be one of rosenbrock, freudenstein_roth, .*, got 'rosenbrok'",
        ),
        ({"name": "meyer", "dimension": 4}, "dimension must be 3 for meyer, got 4"),
        ({"name": "watson", "dimension": 32}, "dimension must be from 2 to 31 for watson, got 32"),
        (
            {"name": "chebyquad", "dimension": 0},
            "dimension must be at least 1 for chebyquad, got 0",
        ),
        (
            {"name": "extended_powell_singular", "dimension": 6},
            "dimension must be at least 4 and a multiple of 4 for extended_powell_singular, got 6",
        ),
        ({"spread": -0.1}, "spread must be at least 0, got -0.1"),
        ({"spread": math.nan}, "spread must be at least 0, got nan"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TestFunction(**arguments)


def test_points_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points must have the shape \(k, 2\), got \(5, 3\)"):
        TestFunction().values(torch.zeros(5, 3))


def test_problem_is_either_residuals_or_a_value() -> None:
    with pytest.raises(ValueError, match="both needs either residuals or a value"):
        Problem("both", dimension=1, start=repeated(0.0))
