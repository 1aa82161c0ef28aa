"""Conjugate gradients: solutions, model values, starts and the four reasons to stop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import cg as scipy_cg
from torch import Tensor

from optimizers.linalg.cg import conjugate_gradients, relative_progress
from tests.optimizers.cases import close


def positive(size: int, seed: int = 0, condition: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return (
        basis * torch.logspace(0, torch.tensor(condition).log10().item(), size, dtype=torch.float64)
    ) @ basis.T


def vector(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 25), seed=st.integers(0, 1000), condition=st.floats(1, 1e3))
def test_solves_positive_definite_systems(size: int, seed: int, condition: float) -> None:
    matrix, b = positive(size, seed, condition), vector(size, seed + 1)
    result = conjugate_gradients(lambda v: matrix @ v, b, max_iterations=10 * size, tolerance=1e-13)
    close(result.x, torch.linalg.solve(matrix, b))
    close(result.residual + matrix @ result.x, b, 1e-9)
    assert result.reason == "converged"


def test_model_values_are_the_quadratics() -> None:
    matrix, b = positive(8), vector(8)
    start = vector(8, 2)
    for x0 in (None, start):
        values = []
        for iterations in range(6):
            result = conjugate_gradients(lambda v: matrix @ v, b, x0=x0, max_iterations=iterations)
            x = result.x
            values.append(float(x @ matrix @ x / 2 - b @ x))
            assert result.values == pytest.approx(values, rel=1e-10)
            assert result.iterations == iterations
            assert result.reason == "iterations"
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 6


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_iterates_equal_scipys(iterations: int) -> None:
    matrix, b, start = positive(9), vector(9), vector(9, 3)
    ours = conjugate_gradients(lambda v: matrix @ v, b, x0=start, max_iterations=iterations)
    theirs, _ = scipy_cg(
        matrix.numpy(), b.numpy(), x0=start.numpy(), rtol=0, atol=0, maxiter=iterations
    )
    close(ours.x, torch.from_numpy(theirs))


def test_warm_start_at_the_solution_needs_no_iteration_and_is_not_written() -> None:
    matrix, b = positive(6), vector(6)
    solution = torch.linalg.solve(matrix, b)
    saved = solution.clone()
    result = conjugate_gradients(
        lambda v: matrix @ v, b, x0=solution, max_iterations=50, tolerance=1e-12
    )
    assert result.iterations == 0
    assert result.reason == "converged"
    conjugate_gradients(lambda v: matrix @ v, b, x0=solution, max_iterations=3)
    assert torch.equal(solution, saved)
    assert torch.equal(b, vector(6))


def test_zero_right_hand_side() -> None:
    result = conjugate_gradients(lambda v: v, torch.zeros(3), max_iterations=5)
    assert torch.equal(result.x, torch.zeros(3))
    assert result.reason == "converged"


def test_exact_preconditioner_solves_at_once() -> None:
    matrix, b = positive(12, condition=1e4), vector(12)
    inverse = torch.linalg.inv(matrix)
    result = conjugate_gradients(
        lambda v: matrix @ v,
        b,
        max_iterations=50,
        tolerance=1e-9,
        preconditioner=lambda r: inverse @ r,
    )
    assert result.iterations == 1
    close(result.x, inverse @ b, 1e-9)


def test_diagonal_preconditioner_is_plain_cg_on_the_scaled_system() -> None:
    matrix, b = positive(7), vector(7)
    root = torch.linspace(1, 3, 7, dtype=torch.float64)
    ours = conjugate_gradients(
        lambda v: matrix @ v, b, max_iterations=4, preconditioner=lambda r: r / root**2
    )
    scaled = conjugate_gradients(lambda v: (matrix @ (v / root)) / root, b / root, max_iterations=4)
    close(ours.x, scaled.x / root)


@pytest.mark.parametrize("spectrum", [[-1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [float("nan")] * 3])
def test_stops_where_the_curvature_is_not_positive(spectrum: list[float]) -> None:
    diagonal = torch.tensor(spectrum, dtype=torch.float64)
    b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    result = conjugate_gradients(lambda v: diagonal * v, b, max_iterations=10)
    assert result.reason == "curvature"
    assert result.iterations == 1
    assert torch.equal(result.x, torch.zeros(3, dtype=torch.float64))


def test_negative_curvature_in_mid_run_keeps_the_iterate_so_far() -> None:
    diagonal = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    result = conjugate_gradients(lambda v: diagonal * v, b, max_iterations=10)
    assert result.reason == "curvature"
    assert result.iterations > 1
    assert result.values[-1] < 0
    assert bool(result.x.isfinite().all())


def test_relative_progress_rule() -> None:
    rule = relative_progress(epsilon=0.1, shortest=2, share=0.0)
    assert not rule([0.0, -1.0, -1.0])  # no more than `shortest` iterations yet
    assert not rule([0.0, -1.0, -2.0, -4.0])  # gained (4 - 1) / 4, more than 2 * 0.1
    assert rule([0.0, -1.0, -1.05, -1.1])  # gained 0.1 / 1.1
    assert not rule([3.0, 2.0, 1.99, 1.98])  # above the start of the model
    longer = relative_progress(epsilon=0.1, shortest=1, share=0.5)
    values = [0.0, -1.0, -2.0, -3.0, -3.3, -3.4, -3.5]  # six iterations look three back
    assert longer(values) is ((3.5 - 3.0) / 3.5 < 3 * 0.1)


def test_progress_stops_the_iteration() -> None:
    matrix, b = positive(40, condition=1e5), vector(40)
    rule = relative_progress(epsilon=5e-3, shortest=3)
    result = conjugate_gradients(lambda v: matrix @ v, b, max_iterations=200, stop=rule)
    assert result.reason == "progress"
    assert rule(result.values)
    assert not any(rule(result.values[:i]) for i in range(1, len(result.values)))
