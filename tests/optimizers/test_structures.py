"""Structured matrices: the forms of the singd package, closed under products."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from optimizers.natural_gradient.structures import STRUCTURES, structure_of
from tests.optimizers.cases import close

SIZES = (1, 7, 15, 22, 30, 31, 64)


def symmetric(size: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    rows = torch.randn(size, size, dtype=torch.float64)
    return rows @ rows.T


def package(name: str) -> type:
    structures = pytest.importorskip("singd.structures")
    assert structures
    from singd.optim.optimizer import SINGD

    names = {
        "block": "block30diagonal",
        "hierarchical": "hierarchical15_15",
        "lower_toeplitz": "triltoeplitz",
        "upper_toeplitz": "triutoeplitz",
    }
    return SINGD.SUPPORTED_STRUCTURES[names.get(name, name)]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("size", SIZES)
def test_the_forms_of_the_package(name: str, size: int) -> None:
    structure, theirs = structure_of(name, 30), package(name)
    first, second = symmetric(size, 0), symmetric(size, 1)
    a, b = structure.project(first), structure.project(second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slow fall-backs
        x, y = theirs.from_dense(first), theirs.from_dense(second)
        close(structure.unpack(a, size), x.to_dense())
        close(structure.unpack(structure.times(a, b, size), size), (x @ y).to_dense())
        close(
            structure.unpack(structure.inner(a, second, size), size),
            x.from_inner2(second).to_dense(),
        )
        close(structure.unpack(structure.inner(a, None, size), size), x.from_inner().to_dense())
        close(structure.mean_diagonal(a, size), x.average_trace())


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("size", SIZES)
def test_stored_entries_stand_for_a_matrix(name: str, size: int) -> None:
    structure = structure_of(name, 5)
    stack = torch.stack([symmetric(size, 0), symmetric(size, 1)])
    packed = structure.project(stack)
    assert packed.ndim == 1 + structure.axes
    assert packed[0].numel() == structure.numbers(size)
    dense = structure.unpack(packed, size)
    close(structure.pack(dense), packed)
    close(structure.unpack(structure.project(stack[1]), size), dense[1])
    columns = torch.randn(2, size, 3, dtype=torch.float64)
    close(structure.square_times(packed, columns), dense @ dense.mT @ columns)
    close(
        structure.unpack(structure.identity(size, stack), size),
        torch.eye(size).double().expand(2, -1, -1),
    )
    weights = torch.tensor([2.0, 3.0]).double()
    close(
        structure.unpack(structure.spread(weights) * packed, size), weights[:, None, None] * dense
    )
    close(structure.mean_diagonal(packed, size), dense.diagonal(dim1=1, dim2=2).mean(1))


@pytest.mark.parametrize("name", STRUCTURES)
def test_products_keep_the_form(name: str) -> None:
    structure = structure_of(name, 4)
    a, b = (structure.unpack(structure.project(symmetric(11, seed)), 11) for seed in (0, 1))
    close(structure.unpack(structure.pack(a @ b), 11), a @ b)


def test_a_diagonal_factor_is_enough_for_a_diagonal() -> None:
    structure, factor = structure_of("diagonal", 1), symmetric(6, 0)
    packed = structure.project(symmetric(6, 1))
    close(structure.inner(packed, factor.diagonal(), 6), structure.inner(packed, factor, 6))


def test_a_block_has_a_size() -> None:
    with pytest.raises(ValueError, match="block_size must be an integer"):
        structure_of("block", 0)
