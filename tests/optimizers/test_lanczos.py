"""The Lanczos process.

Scipy's extreme eigenvalues, the defining relation, invariant subspaces, odd input.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from optimizers.linalg.lanczos import lanczos
from tests.optimizers.cases import close


def symmetric(spectrum: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(
        torch.randn(len(spectrum), len(spectrum), dtype=torch.float64, generator=generator)
    )
    return (basis * spectrum) @ basis.T


def vector(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_extreme_eigenpairs_equal_scipys() -> None:
    spectrum = torch.cat(
        [torch.linspace(-1, 1, 196), torch.tensor([-9.0, -4.0, 6.0, 12.0])]
    ).double()
    matrix = symmetric(spectrum)
    process = lanczos(lambda v: matrix @ v, vector(200), 60)
    values, vectors = process.eigen()
    ends = [0, 1, -2, -1]
    theirs, their_vectors = eigsh(
        matrix.numpy(), k=4, which="BE", v0=vector(200).numpy(), tol=1e-14
    )
    close(values[ends], torch.from_numpy(np.sort(theirs)), 1e-12)
    ritz = vectors.T[ends] @ process.basis
    overlap = (ritz * torch.from_numpy(their_vectors.T[np.argsort(theirs)])).sum(1).abs()
    assert float((overlap - 1).abs().max()) < 1e-10


@pytest.mark.parametrize("iterations", [1, 2, 17, 40, 90])
def test_the_defining_relation_and_orthogonality(iterations: int) -> None:
    """Also far beyond the convergence of the outer eigenvalues, where the plain recurrence loses
    orthogonality."""
    matrix = symmetric(torch.logspace(-8, 2, 100, dtype=torch.float64))
    process = lanczos(lambda v: matrix @ v, vector(100), iterations, tolerance=0.0)
    basis = process.basis
    assert basis.shape == (iterations, 100)
    assert float((basis @ basis.T - torch.eye(iterations)).abs().max()) < 1e-13
    close(basis @ matrix @ basis.T, process.matrix(), 1e-12)
    rest = matrix @ basis.T - basis.T @ process.matrix()
    assert float(rest[:, :-1].norm()) < 1e-11
    assert float(rest[:, -1].norm()) == pytest.approx(process.residual, abs=1e-11)
    close(basis[0], vector(100) / vector(100).norm(), 1e-14)


def test_plain_recurrence_would_fail_here() -> None:
    """The reason for the re-orthogonalisation.

    Without it the same run loses every digit of orthogonality.
    """
    matrix = symmetric(torch.logspace(-8, 2, 100, dtype=torch.float64))
    rows = [vector(100) / vector(100).norm()]
    before, residual = torch.zeros(100, dtype=torch.float64), 0.0
    for _ in range(60):
        image = matrix @ rows[-1] - residual * before
        image = image - (rows[-1] @ image) * rows[-1]
        before, residual = rows[-1], float(image.norm())
        rows.append(image / residual)
    basis = torch.stack(rows)
    assert float((basis @ basis.T - torch.eye(61)).abs().max()) > 0.1


def test_it_stops_at_an_invariant_subspace() -> None:
    spectrum = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0, 5.0], dtype=torch.float64)
    matrix = symmetric(spectrum)
    process = lanczos(lambda v: matrix @ v, vector(6), 50)
    assert len(process.diagonal) == 3  # as many as there are different eigenvalues
    close(process.eigen()[0], torch.tensor([-2.0, 1.0, 5.0], dtype=torch.float64), 1e-12)
    assert process.residual < 1e-12
    zero = lanczos(torch.zeros_like, vector(6), 50)
    assert zero.diagonal.tolist() == [0.0]
    assert zero.residual == 0
    single = lanczos(lambda v: 3 * v, torch.tensor([2.0], dtype=torch.float64), 5)
    assert (single.diagonal.tolist(), single.basis.tolist()) == ([3.0], [[1.0]])


def test_the_whole_space_gives_the_whole_spectrum() -> None:
    spectrum = torch.linspace(-3, 4, 12, dtype=torch.float64)
    matrix = symmetric(spectrum)
    process = lanczos(lambda v: matrix @ v, vector(12), 100)
    assert process.basis.shape == (12, 12)
    close(process.eigen()[0], spectrum, 1e-12)
    close(process.lift(process.basis @ vector(12, 3)), vector(12, 3), 1e-12)


def test_the_rule_of_the_caller_stops_it() -> None:
    matrix, calls = symmetric(torch.linspace(1, 2, 30, dtype=torch.float64)), []
    process = lanczos(
        lambda v: calls.append(1) or matrix @ v,
        vector(30),
        30,
        stop=lambda lz: len(lz.diagonal) == 7,
    )
    assert (len(process.diagonal), len(process.off_diagonal), len(calls)) == (7, 6, 7)


def test_single_precision() -> None:
    matrix = symmetric(torch.linspace(-1, 3, 40, dtype=torch.float64)).float()
    process = lanczos(lambda v: matrix @ v, vector(40).float(), 40)
    assert process.basis.dtype == torch.float32
    assert process.diagonal.dtype == torch.float64
    assert (
        float((process.basis @ process.basis.T - torch.eye(len(process.basis))).abs().max()) < 1e-5
    )
    assert float(process.eigen()[0][-1]) == pytest.approx(3, abs=1e-5)


def test_products_that_are_not_finite_end_it() -> None:
    products = iter([vector(5), vector(5, 2), torch.full((5,), float("nan"), dtype=torch.float64)])
    process = lanczos(lambda v: next(products), vector(5, 3), 5)
    assert (process.basis.shape, len(process.diagonal), len(process.off_diagonal)) == ((2, 5), 2, 1)
    assert process.residual != process.residual
    assert bool(process.matrix().isfinite().all())
    assert len(lanczos(lambda v: v / 0, vector(5), 3).diagonal) == 0


@pytest.mark.parametrize(
    "start", [torch.zeros(3), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])]
)
def test_a_start_without_a_direction_is_refused(start: Tensor) -> None:
    with pytest.raises(ValueError, match="start of finite, positive length"):
        lanczos(lambda v: v, start, 2)


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        lanczos(lambda v: v, torch.ones(3), 0)
