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

torch.set_num_threads(1)
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
every_numbered = pytest.mark.parametrize("name", MORE_GARBOW_HILLSTROM)

# The authors' table: number -> (n, m), at the dimensions used here where they are free.
SIZES = {
    **{
        1: (2, 2),
        2: (2, 2),
        3: (2, 2),
        4: (2, 3),
        5: (2, 3),
        6: (2, 10),
        7: (3, 3),
        8: (3, 15),
        9: (3, 15),
    },
    **{
        10: (3, 16),
        11: (3, 99),
        12: (3, 10),
        13: (4, 4),
        14: (4, 6),
        15: (4, 11),
        16: (4, 20),
        17: (5, 33),
    },
    **{
        18: (6, 13),
        19: (11, 65),
        20: (6, 31),
        21: (10, 10),
        22: (12, 12),
        23: (10, 11),
        24: (10, 20),
    },
    **{
        25: (10, 12),
        26: (10, 10),
        27: (10, 10),
        28: (10, 10),
        29: (10, 10),
        30: (10, 10),
        31: (10, 10),
    },
    **{32: (10, 20), 33: (10, 20), 34: (10, 20), 35: (8, 8)},
}

# |r| at the standard start, printed by MINPACK's own test programs (least squares: lmder; systems:
# hybrj).
START_NORMS = [
    ("linear_full_rank", 5, 5.0),
    ("linear_rank1", 5, 291.52187),
    ("linear_rank1_zero", 5, 126.03968),
    ("rosenbrock", 2, 4.9193496),
    ("helical_valley", 3, 50.0),
    ("powell_singular", 4, 14.662878),
    ("freudenstein_roth", 2, 20.012496),
    ("bard", 3, 6.4561363),
    ("kowalik_osborne", 4, 7.2891510e-2),
    ("meyer", 3, 4.1153467e4),
    ("watson", 6, 5.4772256),
    ("watson", 9, 5.4772256),
    ("watson", 12, 5.4772256),
    ("box3d", 3, 32.111584),
    ("jennrich_sampson", 2, 64.585650),
    ("brown_dennis", 4, 2815.4384),
    ("chebyquad", 5, 0.22570657),
    ("chebyquad", 6, 0.21547198),
    ("chebyquad", 7, 0.18376789),
    ("chebyquad", 8, 0.19651386),
    ("chebyquad", 9, 0.16994993),
    ("chebyquad", 10, 0.18374783),
    ("brown_almost_linear", 10, 16.530216),
    ("brown_almost_linear", 30, 83.476044),
    ("brown_almost_linear", 40, 128.02636),
    ("osborne1", 5, 0.93756402),
    ("osborne2", 11, 1.4468654),
    ("powell_badly_scaled", 2, 1.0654866),
    ("discrete_boundary_value", 10, 2.8080582e-2),
    ("discrete_integral_equation", 1, 0.12792969),
    ("discrete_integral_equation", 10, 0.25182701),
    ("trigonometric", 10, 8.4117534e-2),
    ("broyden_tridiagonal", 10, 4.5825757),
    ("broyden_banded", 10, 18.973666),
]

# f, |grad f| and a condition number at the standard start, printed by a Julia interface to the
# authors' Algorithm 566 (github.com/mpf/Toms566.jl, README). Its matrix is the Hessian for n <= 3
# only, see `packed_by_columns_read_by_rows`.
START_DERIVATIVES = [
    ("helical_valley", 3, 2.50e3, 1.88e3, 9.82),
    ("biggs_exp6", 6, 7.79e-1, 2.55, 1.30e1),
    ("gaussian", 3, 3.89e-6, 7.45e-3, 5.10e1),
    ("powell_badly_scaled", 2, 1.14, 2.00e4, 1.37e8),
    ("box3d", 3, 1.03e3, 1.49e2, 1.19e2),
    ("variably_dimensioned", 40, 9.39e10, 1.01e11, 1.65e4),
    ("watson", 9, 3.00e1, 1.78e2, 1.63e2),
    ("penalty1", 60, 5.45e9, 8.02e7, 4.24),
    ("penalty2", 65, 2.87e5, 3.28e5, 9.84e1),
    ("brown_badly_scaled", 2, 1.00e12, 2.00e6, 1.00),
    ("brown_dennis", 4, 7.93e6, 2.14e6, 6.93e2),
    ("gulf", 3, 1.21e1, 3.97e1, 4.65e4),
    ("trigonometric", 40, 2.01e-3, 5.30e-2, 1.57e2),
    ("extended_rosenbrock", 40, 4.84e2, 1.04e3, 9.90e1),
    ("extended_powell_singular", 60, 3.23e3, 1.78e3, 2.27e1),
    ("beale", 2, 1.42e1, 2.78e1, 7.97),
    ("wood", 4, 1.92e4, 1.64e4, 1.69e2),
    ("chebyquad", 50, 1.39e-2, 2.65, 6.30e2),
]

# The paper's f*, cut to six digits there, and the final |r|^2 of MINPACK's test programs for the
# linear problems.
MINIMA = [
    ("jennrich_sampson", 2, 124.362),
    ("bard", 3, 8.21487e-3),
    ("gaussian", 3, 1.12793e-8),
    ("meyer", 3, 87.9458),
    ("kowalik_osborne", 4, 3.07505e-4),
    ("brown_dennis", 4, 85822.2),
    ("osborne1", 5, 5.46489e-5),
    ("osborne2", 11, 4.01377e-2),
    ("watson", 6, 2.28767e-3),
    ("watson", 9, 1.39976e-6),
    ("watson", 12, 4.72238e-10),
    ("penalty1", 4, 2.24997e-5),
    ("penalty1", 10, 7.08765e-5),
    ("penalty2", 4, 9.37629e-6),
    ("penalty2", 10, 2.93660e-4),
    ("chebyquad", 8, 3.51687e-3),
    ("chebyquad", 10, 6.50395e-3),
    ("linear_full_rank", 5, 2.2360680**2),
    ("linear_rank1", 5, 1.4638501**2),
    ("linear_rank1_zero", 5, 1.9097274**2),
]

# Where MINPACK's test programs ended: the point, its value (None: f*), and what the printed digits
# allow. fmt: off
ENDS: list[tuple[str, tuple[float, ...], float | None, float]] = [
    ("powell_badly_scaled", (1.0981593e-5, 9.1061467), None, 1e-13),
    ("freudenstein_roth", (11.412782, -0.89680511), 6.9988752**2, 1e-5),
    ("bard", (8.2410577e-2, 1.1330367, 2.3436946), None, 1e-9),
    ("bard", (0.84066667, -1.5884803e8, -1.6437867e8), 17.4286, 1e-4),
    ("kowalik_osborne", (0.19280781, 0.19126265, 0.12305280, 0.13605322), None, 1e-10),
    ("kowalik_osborne", (7.2867547e5, -14.075880, -3.2977798e7, -2.0571594e7), 1.02734e-3, 1e-8),
    ("osborne1", (0.37541005, 1.9358465, -1.4646868, 1.2867534e-2, 2.2122701e-2), None, 1e-10),
    (
        "osborne2",
        (
            1.3099766,
            0.43155248,
            0.63366126,
            0.59942856,
            0.75417977,
            0.90430008,
            1.3657995,
            4.8237320,
            2.3986848,
            4.5688755,
            5.6753421,
        ),
        None,
        1e-9,
    ),
    (
        "watson",
        (-1.5725086e-2, 1.0124349, -0.23299163, 1.2604301, -1.5137289, 0.99299643),
        None,
        1e-12,
    ),
    (
        "watson",
        (
            -1.5307039e-5,
            0.99978970,
            1.4763964e-2,
            0.14634233,
            1.0008211,
            -2.6177311,
            4.1044032,
            -3.1436123,
            1.0526264,
        ),
        None,
        1e-12,
    ),
    ("brown_almost_linear", (0.97943030,) * 9 + (1.2056970,), None, 1e-11),
    ("brown_almost_linear", (0.0,) * 9 + (11.0,), 1.0, 1e-15),
    (
        "trigonometric",
        (
            3.4396289e-2,
            3.5032316e-2,
            3.5719196e-2,
            3.6465224e-2,
            3.7280912e-2,
            3.8179863e-2,
            3.9180141e-2,
            4.0306503e-2,
            0.17972019,
            0.15624088,
        ),
        None,
        1e-14,
    ),
    (
        "trigonometric",
        (
            5.5261544e-2,
            5.6957555e-2,
            5.8890667e-2,
            6.1136063e-2,
            6.3778558e-2,
            6.7004825e-2,
            0.20794103,
            0.16426711,
            8.6439479e-2,
            9.1335063e-2,
        ),
        5.2963921e-3**2,
        1e-11,
    ),
    (
        "discrete_boundary_value",
        (
            -4.3164983e-2,
            -8.1577157e-2,
            -0.11448571,
            -0.14097358,
            -0.15990870,
            -0.16987720,
            -0.16908998,
            -0.15524954,
            -0.12535589,
            -7.5416534e-2,
        ),
        None,
        1e-15,
    ),
    (
        "discrete_integral_equation",
        (
            -4.3164983e-2,
            -8.1577157e-2,
            -0.11448571,
            -0.14097358,
            -0.15990870,
            -0.16987720,
            -0.16908998,
            -0.15524954,
            -0.12535589,
            -7.5416534e-2,
        ),
        None,
        1e-15,
    ),
    (
        "broyden_tridiagonal",
        (
            -0.57072213,
            -0.68180695,
            -0.70221008,
            -0.70551063,
            -0.70490616,
            -0.70149661,
            -0.69188932,
            -0.66579651,
            -0.59603511,
            -0.41641226,
        ),
        None,
        1e-14,
    ),
    (
        "broyden_banded",
        (
            -0.42830286,
            -0.47659642,
            -0.51965246,
            -0.55809932,
            -0.59250616,
            -0.62450368,
            -0.62323947,
            -0.62139384,
            -0.62045360,
            -0.58646927,
        ),
        None,
        1e-13,
    ),
    ("chebyquad", (8.3751256e-2, 0.31272930, 0.5, 0.68727070, 0.91624874), None, 1e-14),
    (
        "chebyquad",
        (
            4.3153665e-2,
            0.19309164,
            0.26632859,
            0.49999933,
            0.50000067,
            0.73367141,
            0.80690836,
            0.95684634,
        ),
        None,
        1e-9,
    ),
    (
        "chebyquad",
        (
            4.4205346e-2,
            0.19949067,
            0.23561911,
            0.41604691,
            0.5,
            0.58395309,
            0.76438089,
            0.80050933,
            0.95579465,
        ),
        None,
        1e-14,
    ),
]
# fmt: on


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
    found = problem.outputs(problem.start(problem.resolve(dimension))).norm()
    assert float(found) == pytest.approx(norm, rel=6e-8)


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
    found = 2 * float(
        least_squares(residuals, start, jacobian, method="lm", max_nfev=2000, **tight).cost
    )
    attracted = {"freudenstein_roth", "trigonometric"}  # where everybody's solvers end elsewhere
    expected = problem.local_minima[0] if name in attracted else problem.lowest(problem.dimension)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-20)


# -- derivatives and transforms --------------------------------------------------------------------


@every_problem
def test_jacobian_and_hessian_are_those_of_finite_differences(problem: Problem) -> None:
    x = near_start(problem)
    expected, noise = differences(problem, x)
    found = jacrev(problem.outputs)(x)
    assert bool(((found - expected).abs() <= noise + 1e-6 * found.abs().max(0).values).all())
    slope = Problem("slope", dimension=len(x), start=repeated(0.0), residuals=grad(problem))
    expected, noise = differences(slope, x)
    found = hessian(problem)(x)
    assert bool(((found - expected).abs() <= 10 * noise + 1e-6 * found.abs().max()).all())
    torch.testing.assert_close(found, found.T)


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
