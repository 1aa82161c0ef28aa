"""NIST's regressions.

Certified sums and parameters, and scipy's Levenberg-Marquardt from both starts.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from optimizers import Objective
from tasks.regression.nist import Nist, Regression, datasets
from tasks.regression.nist_models import MODELS

torch.set_num_threads(1)
REGRESSIONS = datasets()
every_regression = pytest.mark.parametrize("name", REGRESSIONS)
OBSERVATIONS = {  # of NIST's own table of the data sets
    **{
        "Misra1a": 14,
        "Misra1b": 14,
        "Misra1c": 14,
        "Misra1d": 14,
        "Chwirut1": 214,
        "Chwirut2": 54,
        "Lanczos1": 24,
    },
    **{
        "Lanczos2": 24,
        "Lanczos3": 24,
        "Gauss1": 250,
        "Gauss2": 250,
        "Gauss3": 250,
        "DanWood": 6,
        "Kirby2": 151,
    },
    **{
        "Hahn1": 236,
        "Nelson": 128,
        "MGH17": 33,
        "Roszman1": 25,
        "ENSO": 168,
        "MGH09": 11,
        "Thurber": 37,
        "BoxBOD": 6,
    },
    **{"Rat42": 9, "MGH10": 16, "Eckerle4": 35, "Rat43": 15, "Bennett5": 154},
}


def scaled_jacobian(regression: Regression, b: Tensor) -> Tensor:
    """By the logarithms of the parameters, so that their sizes do not matter."""
    jacobian: Tensor = jacfwd(regression.residuals)(b) * b
    return jacobian


def solved_by_scipy(regression: Regression, start: int) -> float:
    """The digits that MINPACK's lmder reaches with an exact Jacobian, scaled by its columns."""

    def residuals(b: NDArray[np.float64]) -> NDArray[np.float64]:
        return regression.residuals(torch.from_numpy(b)).numpy()

    def jacobian(b: NDArray[np.float64]) -> NDArray[np.float64]:
        return jacfwd(regression.residuals)(torch.from_numpy(b)).numpy()

    options = {
        "method": "lm",
        "x_scale": "jac",
        "xtol": 1e-15,
        "ftol": 1e-15,
        "gtol": 1e-15,
        "max_nfev": 2000,
    }
    result = least_squares(residuals, regression.starts[start - 1].numpy(), jac=jacobian, **options)
    return regression.digits(torch.from_numpy(result.x))


def test_all_are_there_with_their_sizes() -> None:
    assert {name: len(regression.y) for name, regression in REGRESSIONS.items()} == OBSERVATIONS
    assert set(MODELS) == set(OBSERVATIONS)
    levels = [regression.level for regression in REGRESSIONS.values()]
    assert {level: levels.count(level) for level in levels} == {
        "lower": 8,
        "average": 11,
        "higher": 8,
    }


@every_regression
def test_residual_sum_at_the_certified_parameters(name: str) -> None:
    regression = REGRESSIONS[name]
    value = float(regression.residuals(regression.certified).square().sum())
    if (
        name == "Lanczos1"
    ):  # 1.4e-25 is the rounding error of 13-digit data; eleven digits of b leave 4e-21
        assert value < 1e-20
    else:
        assert value == pytest.approx(regression.residual_sum, rel=1e-9)


@every_regression
def test_gradient_vanishes_at_the_certified_parameters(name: str) -> None:
    """The residuals are orthogonal to the Jacobian's columns, as far as eleven digits of b
    allow."""
    regression = REGRESSIONS[name]
    residuals, jacobian = (
        regression.residuals(regression.certified),
        scaled_jacobian(regression, regression.certified),
    )
    # of the parameters, relative, carried to the residuals
    rounding = 1e-10 * jacobian.norm(dim=0).max()
    projection = (jacobian.T @ residuals).abs() / jacobian.norm(dim=0)
    assert float(projection.max()) <= float(rounding)


@every_regression
def test_certified_deviations_are_those_of_the_linearised_fit(name: str) -> None:
    """`sqrt(diag((J^T J)^-1) RSS / (N - p))`, which checks every column of the Jacobian."""
    regression = REGRESSIONS[name]
    jacobian = jacfwd(regression.residuals)(regression.certified)
    scale = jacobian.norm(dim=0)
    inverse = torch.linalg.inv(torch.linalg.qr(jacobian / scale).R)
    variance = regression.residual_sum / (len(regression.y) - len(scale))
    deviations = inverse.norm(dim=1) / scale * variance**0.5
    torch.testing.assert_close(deviations, regression.deviations, rtol=1e-6, atol=0)


def test_scipy_finds_the_certified_parameters_of_all_from_the_second_start() -> None:
    digits = {name: solved_by_scipy(regression, 2) for name, regression in REGRESSIONS.items()}
    assert {name for name, right in digits.items() if right < 6} == set()


@pytest.mark.slow
def test_scipy_finds_all_but_one_from_the_first_start() -> None:
    digits = {name: solved_by_scipy(regression, 1) for name, regression in REGRESSIONS.items()}
    assert {name for name, right in digits.items() if right < 6} == {"BoxBOD"}


@every_regression
@pytest.mark.parametrize("start", [1, 2])
def test_task_starts_where_nist_does_and_its_oracles_are_those_of_the_residuals(
    name: str, start: int
) -> None:
    task, regression = Nist(name, start), REGRESSIONS[name]
    model = task.model(seed=5)
    b = regression.starts[start - 1]
    assert torch.equal(next(model.parameters()).detach(), b)
    objective = Objective(model, task.loss_fn, *next(task.batches("train", 0)))
    factor = (2 / len(regression.y)) ** 0.5
    residuals, jacobian = objective.jacobian()
    torch.testing.assert_close(residuals, factor * regression.residuals(b))
    torch.testing.assert_close(jacobian, factor * jacrev(regression.residuals)(b))
    torch.testing.assert_close(objective.ggn().dense(), jacobian.T @ jacobian)
    torch.testing.assert_close(objective.per_example_grads().mean(0), jacobian.T @ residuals)


def test_metrics_at_the_solution_and_at_the_start() -> None:
    task = Nist("Misra1a", start=1)
    model = task.model(0)
    assert 0 <= task.evaluate(model, "val")["digits"] < 1
    with torch.no_grad():
        next(model.parameters()).copy_(task.regression.certified)
    metrics = task.evaluate(model, "test")
    assert metrics["digits"] == 11
    assert metrics["residual_sum"] == pytest.approx(1.2455138894e-01, rel=1e-9)
    assert metrics["loss"] == pytest.approx(metrics["residual_sum"] / 14)


@pytest.mark.parametrize(
    ("error", "expected"), [(0.0, 11), (1e-13, 11), (1e-5, 5), (0.5, 0.30103), (3.0, 0)]
)
def test_digits_are_those_of_the_worst_parameter(error: float, expected: float) -> None:
    regression = REGRESSIONS["MGH09"]
    b = regression.certified.clone()
    b[2] *= 1 + error
    b[0] *= 1 - error / 10
    assert regression.digits(b) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_parameter_that_is_not_finite_has_no_correct_digit(value: float) -> None:
    regression = REGRESSIONS["MGH10"]
    b = regression.certified.clone()
    b[1] = value
    assert regression.digits(b) == 0


def test_model_functions_take_many_parameter_vectors_at_once() -> None:
    for regression in REGRESSIONS.values():
        starts = torch.stack(regression.starts)
        expected = torch.stack([regression.residuals(start) for start in starts])
        torch.testing.assert_close(vmap(regression.residuals)(starts), expected)


def test_spread_moves_the_start_by_a_relative_amount() -> None:
    task = Nist("Nelson", spread=0.1)
    b, other = (next(task.model(seed).parameters()).detach() for seed in (0, 1))
    relative = (b / task.start - 1).abs()
    assert 0 < float(relative.max()) < 0.5
    assert not torch.equal(b, other)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of Bennett5, .*, got 'misra1a'"):
        Nist("misra1a")
    with pytest.raises(ValueError, match="start must be 1 or 2, got 3"):
        Nist(start=3)
    with pytest.raises(ValueError, match="spread must be at least 0, got -1"):
        Nist(spread=-1)
