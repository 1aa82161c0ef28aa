"""Levenberg-Marquardt beside NIST's certified values and MINPACK."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor
from torch.func import jacrev

from optimizers import Result, least_squares
from tasks.functions.problems import MORE_GARBOW_HILLSTROM, PROBLEMS
from tasks.regression.nist import datasets

# -- other people's numbers ------------------------------------------------------------------------

EASY = (
    "BoxBOD",
    "Chwirut2",
    "DanWood",
    "Gauss1",
    "Hahn1",
    "Lanczos3",
    "Misra1a",
    "Nelson",
    "Rat43",
    "Thurber",
)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("name", EASY)
def test_certified_values(name: str, start: int) -> None:
    regression = datasets()[name]
    result = least_squares(regression.residuals, regression.starts[start - 1], tol=0.0)
    assert regression.digits(result.x) >= 10, result.message
    assert "float64 cannot resolve" in result.message
    if name != "Lanczos3":  # whose certified sum of squares, 1.6e-8, has lost digits of its own
        assert 2 * result.fun == pytest.approx(regression.residual_sum, rel=1e-9)


@pytest.mark.slow
def test_all_certified_values() -> None:
    """One setting for all; the first start of MGH10 takes 7,600 steps."""
    failed = [
        (name, start)
        for name, regression in datasets().items()
        for start in (1, 2)
        if regression.digits(
            least_squares(
                regression.residuals, regression.starts[start - 1], tol=0.0, max_steps=10_000
            ).x
        )
        < 9
    ]
    assert failed == []


def minpack(residuals: Callable[[Tensor], Tensor], x0: Tensor, tol: float) -> tuple[bool, int]:
    """Whether scipy's MINPACK got the gradient below the tolerance, and its calls of residuals and
    Jacobian."""
    calls = 0

    class SolvedError(Exception):
        pass

    def fun(x: Any) -> Any:
        nonlocal calls
        calls += 1
        return residuals(torch.from_numpy(x)).numpy()

    def jac(x: Any) -> Any:
        nonlocal calls
        calls += 1
        point = torch.from_numpy(x)
        jacobian = jacrev(residuals)(point)
        if float((jacobian.T @ residuals(point)).norm()) <= tol:
            raise SolvedError
        return jacobian.numpy()

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            scipy.optimize.least_squares(
                fun, x0.numpy(), jac, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=4000
            )
        except SolvedError:
            return True, calls
    return False, calls


def compared(names: Sequence[str]) -> tuple[list[Result], list[tuple[bool, int]]]:
    ours, theirs = [], []
    for name in names:
        problem = PROBLEMS[name]
        assert problem.residuals is not None
        x0 = problem.start(problem.dimension).double()
        gradient = jacrev(problem.residuals)(x0).T @ problem.residuals(x0)
        tol = 1e-8 * max(1.0, float(gradient.norm()))
        ours.append(least_squares(problem.residuals, x0, tol=tol))
        theirs.append(minpack(problem.residuals, x0, tol))
    return ours, theirs


def assert_as_cheap(names: Sequence[str], median: float) -> None:
    """At least as many solved, and the median ratio of the calls on those that both solve."""
    ours, theirs = compared(names)
    assert sum(result.success for result in ours) >= sum(solved for solved, _ in theirs)
    ratios = [
        result.counts["value"]
        / calls  # each Jacobian counts as a value too, so this is residuals plus Jacobians
        for result, (solved, calls) in zip(ours, theirs, strict=True)
        if solved and result.success
    ]
    assert statistics.median(ratios) <= median


def test_counts_beside_minpack() -> None:
    names = (
        "beale bard kowalik_osborne meyer wood osborne2 trigonometric brown_almost_linear "
        "broyden_banded chebyquad"
    )
    assert_as_cheap(names.split(), 1.25)


@pytest.mark.slow
def test_counts_beside_minpack_on_the_whole_collection() -> None:
    assert_as_cheap(MORE_GARBOW_HILLSTROM, 1.1)
