"""Decompositions report failure; flat vectors round-trip; a curvature counts and falls back."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.decompositions import (
    inverse_positive,
    inverses_positive,
    symmetric_eigen,
    symmetric_eigens,
)
from optimizers.linalg.flat import add_, flatten, unflatten
from tests.optimizers.cases import close


def symmetric(spectrum: list[float]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(
        torch.randn(len(spectrum), len(spectrum), dtype=torch.float64, generator=generator)
    )
    return (basis * torch.tensor(spectrum, dtype=torch.float64)) @ basis.T


def test_eigen_decomposition_in_double_precision() -> None:
    matrix = symmetric([-2.0, 0.0, 3.0])
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        pairs = symmetric_eigen(matrix.to(dtype))
        assert pairs is not None
        values, vectors = pairs
        assert values.dtype == vectors.dtype == torch.float64
        close(values, torch.tensor([-2.0, 0.0, 3.0]).double(), tolerance)
        close((vectors * values) @ vectors.T, matrix, tolerance)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_matrices_that_are_not_finite(bad: float) -> None:
    matrix = torch.eye(3)
    matrix[1, 1] = bad
    assert symmetric_eigen(matrix) is None
    assert inverse_positive(matrix) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inverse_of_a_positive_matrix(dtype: torch.dtype) -> None:
    matrix = symmetric([0.5, 1.0, 4.0, 9.0]).to(dtype)
    inverse = inverse_positive(matrix)
    assert inverse is not None
    assert inverse.dtype == dtype
    close(inverse @ matrix, torch.eye(4, dtype=dtype), 1e-12 if dtype == torch.float64 else 1e-5)


def test_a_singular_matrix_gets_the_smallest_jitter_that_works() -> None:
    matrix = symmetric([0.0, 1.0, 2.0])
    matrix -= 1e-12 * torch.eye(3)
    inverse = inverse_positive(matrix)
    assert inverse is not None
    close(
        inverse,
        torch.linalg.inv(matrix + 1e-8 * float(matrix.diagonal().mean()) * torch.eye(3)),
        1e-6,
    )


def test_an_indefinite_matrix_and_a_zero_matrix_have_no_inverse() -> None:
    assert inverse_positive(symmetric([-1.0, 1.0, 2.0])) is None
    assert inverse_positive(torch.zeros(3, 3)) is None


def mixed(dtype: torch.dtype) -> list[Tensor]:
    """Positive definite matrices of several sizes, a stack among them."""
    spectra = [[1.0, 2.0, 3.0], [0.5, 4.0], [2.0, 5.0, 9.0], [1.0, 1.0]]
    return [
        *(symmetric(spectrum).to(dtype) for spectrum in spectra),
        torch.stack([symmetric([3.0, k]) for k in (1, 2)]).to(dtype),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_inverses_of_many_are_those_of_each(dtype: torch.dtype) -> None:
    matrices = mixed(dtype)
    for matrix, inverse in zip(matrices, inverses_positive(matrices), strict=True):
        assert inverse is not None
        assert inverse.dtype == dtype
        assert inverse.is_contiguous()
        expected = [inverse_positive(single) for single in matrix.reshape(-1, *matrix.shape[-2:])]
        close(
            inverse.reshape(-1, *matrix.shape[-2:]),
            torch.stack(expected),
            1e-12 if dtype == torch.float64 else 1e-5,
        )
    assert inverses_positive([]) == []


def test_inverses_of_many_of_which_some_have_none() -> None:
    good, stack = symmetric([1.0, 2.0, 3.0]), torch.stack([symmetric([1.0, 2.0, 3.0])] * 2)
    singular = symmetric([0.0, 1.0, 2.0]) - 1e-12 * torch.eye(3)
    broken = good.clone()
    broken[0, 0] = float("nan")
    half = stack.clone()
    half[1] = -half[1]
    inverses = inverses_positive([good, broken, -good, singular, half, stack, good * float("inf")])
    assert [inverse is None for inverse in inverses] == [
        False,
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    close(inverses[0], torch.linalg.inv(good))
    close(inverses[3], inverse_positive(singular))
    close(inverses[5], torch.linalg.inv(stack))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eigen_decompositions_of_many_are_those_of_each(dtype: torch.dtype) -> None:
    matrices = [*mixed(dtype), symmetric([-2.0, 0.0, 1.0]).to(dtype)]
    for matrix, pair in zip(matrices, symmetric_eigens(matrices), strict=True):
        assert pair is not None
        values, vectors = pair
        assert values.dtype == vectors.dtype == dtype
        assert values.shape == matrix.shape[:-1]
        assert vectors.is_contiguous()
        assert bool((values.diff(dim=-1) >= 0).all())
        close(
            (vectors * values.unsqueeze(-2)) @ vectors.mT,
            matrix,
            1e-12 if dtype == torch.float64 else 1e-6,
        )
    assert symmetric_eigens([]) == []


def test_eigen_decompositions_of_many_of_which_some_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, other = symmetric([1.0, 2.0, 3.0]), symmetric([2.0, 3.0, 4.0])
    broken = torch.stack([good, good * float("nan")])
    pairs = symmetric_eigens([good, broken, other])
    assert [pair is None for pair in pairs] == [False, True, False]
    original = torch.linalg.eigh

    def failing(matrix: Tensor) -> object:
        """A solver that does not converge for one of them."""
        if bool((matrix.diagonal(dim1=-2, dim2=-1).sum(-1) > 8).any()):
            raise torch.linalg.LinAlgError("did not converge")
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    pair, none, stacked = symmetric_eigens([good, other, torch.stack([good, 1.1 * good])])
    assert none is None
    assert pair is not None
    assert stacked is not None
    close(pair[0], torch.tensor([1.0, 2.0, 3.0]).double())
    close(
        stacked[0],
        torch.tensor([[1.0], [1.1]], dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0]),
    )


def test_flat_vectors() -> None:
    tensors = [torch.randn(2, 3), torch.randn(()), torch.randn(2, 1, 2), torch.randn(0)]
    vector = flatten(tensors)
    assert vector.shape == (11,)
    assert torch.equal(vector[6], tensors[1])
    for back, tensor in zip(unflatten(vector, tensors), tensors, strict=True):
        assert torch.equal(back, tensor)
    rows = torch.stack([vector, 2 * vector])
    for back, tensor in zip(unflatten(rows, tensors), tensors, strict=True):
        assert torch.equal(back, torch.stack([tensor, 2 * tensor]))
    add_(tensors, vector, alpha=-1.0)
    assert not any(t.any() for t in tensors)
    with pytest.raises(RuntimeError):
        unflatten(vector[:-1], tensors)


def test_flat_vectors_of_tensors_that_are_not_contiguous() -> None:
    tensor = torch.arange(6.0).view(2, 3).T
    assert torch.equal(flatten([tensor]), torch.tensor([0.0, 3.0, 1.0, 4.0, 2.0, 5.0]))
    add_([tensor], torch.arange(6.0))
    assert torch.equal(tensor, torch.tensor([[0.0, 4.0], [3.0, 7.0], [6.0, 10.0]]))


@pytest.mark.parametrize("vectorised", [True, False])
def test_dense_falls_back_to_single_products(vectorised: bool) -> None:
    matrix = symmetric([1.0, 2.0, 3.0, 4.0, 5.0])

    def rows(vectors: Tensor) -> Tensor:
        if not vectorised:
            raise RuntimeError("no batching rule")
        return vectors @ matrix

    counts: Counter[str] = Counter()
    curvature = Curvature(
        torch.zeros(()),
        torch.zeros(5).double(),
        lambda v: matrix @ v,
        rows,
        lambda calls: counts.update(hvp=calls),
    )
    close(curvature.dense(chunk=2), matrix)
    assert counts == {"hvp": 5}
