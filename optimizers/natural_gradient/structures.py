r"""Square matrices of a sparse form that products keep: multiplications alone can learn them.

A structure says which entries of a matrix K (d, d) are free, how they are stored, and how a
symmetric matrix is brought into it. The forms are Lie subalgebras: sums and products of such
matrices have the form again (Lin et al., 2023, arXiv 2312.05705). All tensors may have leading
axes, one matrix for each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from optimizers.method import require_range


class Structure(ABC):
    """A form of square matrices; the operations here go through the dense matrix.

    Attributes:
        axes: how many axes the stored entries of a matrix have.
    """

    axes: int = 1

    @abstractmethod
    def pack(self, dense: Tensor) -> Tensor:
        """The free entries of a matrix (..., d, d) that has the form."""

    @abstractmethod
    def unpack(self, packed: Tensor, size: int) -> Tensor:
        """The matrix (..., d, d) with these entries, d the size."""

    def project(self, symmetric: Tensor) -> Tensor:
        """The entries of a symmetric matrix brought into the form.

        What is left out on one side of the diagonal counts twice on the other.
        """
        return self.pack(symmetric)

    def identity(self, size: int, like: Tensor) -> Tensor:
        """The identity, in the precision of `like` and with its axes before the last two."""
        one = torch.eye(size, dtype=like.dtype, device=like.device)
        return self.pack(one.repeat(*like.shape[:-2], 1, 1))

    def inner(self, packed: Tensor, factor: Tensor | None, size: int) -> Tensor:
        """K' A K in the form, for a symmetric matrix A (..., d, d), or the identity."""
        dense = self.unpack(packed, size)
        return self.project(dense.mT @ (dense if factor is None else factor @ dense))

    def times(self, packed: Tensor, other: Tensor, size: int) -> Tensor:
        """The product of two matrices of the form."""
        return self.pack(self.unpack(packed, size) @ self.unpack(other, size))

    def mean_diagonal(self, packed: Tensor, size: int) -> Tensor:
        """Trace / d, (...)."""
        return self.unpack(packed, size).diagonal(dim1=-2, dim2=-1).mean(-1)

    def square_times(self, packed: Tensor, matrix: Tensor) -> Tensor:
        """K K' times a matrix (..., d, n)."""
        dense = self.unpack(packed, matrix.shape[-2])
        return dense @ (dense.mT @ matrix)

    def numbers(self, size: int) -> int:
        """How many numbers are stored for a matrix."""
        return self.identity(size, torch.empty(size, size)).numel()

    def spread(self, values: Tensor) -> Tensor:
        """One number for each matrix (...), shaped so that it multiplies their entries."""
        return values.reshape(values.shape + (1,) * self.axes)


class Dense(Structure):
    """All entries; (..., d, d)."""

    axes = 2

    def pack(self, dense: Tensor) -> Tensor:
        """The matrix itself."""
        return dense

    def unpack(self, packed: Tensor, size: int) -> Tensor:
        """The matrix itself."""
        return packed

    def numbers(self, size: int) -> int:
        """d^2."""
        return size**2


class Diagonal(Structure):
    """The diagonal; (..., d). Factors may be given as their diagonals."""

    def pack(self, dense: Tensor) -> Tensor:
        """The diagonal."""
        return dense.diagonal(dim1=-2, dim2=-1).clone()

    def unpack(self, packed: Tensor, size: int) -> Tensor:
        """The matrix with this diagonal."""
        return torch.diag_embed(packed)

    def identity(self, size: int, like: Tensor) -> Tensor:
        """Ones."""
        return like.new_ones(*like.shape[:-2], size)

    def inner(self, packed: Tensor, factor: Tensor | None, size: int) -> Tensor:
        """K^2 times the diagonal of A, element by element."""
        square = packed.square()
        if factor is None:
            return square
        diagonal = factor if factor.ndim == packed.ndim else factor.diagonal(dim1=-2, dim2=-1)
        return square * diagonal

    def times(self, packed: Tensor, other: Tensor, size: int) -> Tensor:
        """Element by element."""
        return packed * other

    def mean_diagonal(self, packed: Tensor, size: int) -> Tensor:
        """The mean of the entries."""
        return packed.mean(-1)

    def square_times(self, packed: Tensor, matrix: Tensor) -> Tensor:
        """The rows times the squared entries."""
        return packed.square().unsqueeze(-1) * matrix

    def numbers(self, size: int) -> int:
        """One number for each row."""
        return size


class BlockDiagonal(Structure):
    """Dense blocks on the diagonal, the last one padded by zeros; (..., count, block, block)."""

    axes = 3

    def __init__(self, block: int) -> None:
        self.block = block

    def pack(self, dense: Tensor) -> Tensor:
        """The blocks on the diagonal."""
        missing = -dense.shape[-1] % self.block
        tiles = (
            F.pad(dense, (0, missing, 0, missing))
            .unflatten(-1, (-1, self.block))
            .unflatten(-3, (-1, self.block))
        )
        blocks: Tensor = tiles.diagonal(dim1=-4, dim2=-2).movedim(-1, -3).clone()
        return blocks

    def unpack(self, packed: Tensor, size: int) -> Tensor:
        """The blocks in a matrix of zeros."""
        count = packed.shape[-3]
        tiles = torch.diag_embed(packed.movedim(-3, -1))  # (..., block, block, count, count)
        whole = (
            tiles.movedim(-2, -4)
            .movedim(-1, -2)
            .reshape(*packed.shape[:-3], count * self.block, -1)
        )
        return whole[..., :size, :size]

    def inner(self, packed: Tensor, factor: Tensor | None, size: int) -> Tensor:
        """Block by block."""
        return packed.mT @ (packed if factor is None else self.pack(factor) @ packed)

    def times(self, packed: Tensor, other: Tensor, size: int) -> Tensor:
        """Block by block."""
        return packed @ other

    def mean_diagonal(self, packed: Tensor, size: int) -> Tensor:
        """The sum of the blocks' traces, over d."""
        return packed.diagonal(dim1=-2, dim2=-1).sum((-2, -1)) / size

    def square_times(self, packed: Tensor, matrix: Tensor) -> Tensor:
        """Block by block, on the rows that a block meets."""
        size = matrix.shape[-2]
        rows: Tensor = F.pad(matrix, (0, 0, 0, -size % self.block)).unflatten(-2, (-1, self.block))
        return (packed @ (packed.mT @ rows)).flatten(-3, -2)[..., :size, :]

    def numbers(self, size: int) -> int:
        """Those of all blocks, the last one padded."""
        return -(-size // self.block) * self.block**2


class TriangularToeplitz(Structure):
    """One number for each diagonal on one side, the main one included; (..., d)."""

    def __init__(self, lower: bool) -> None:
        self.lower = lower

    def pack(self, dense: Tensor) -> Tensor:
        """The first column, or row."""
        return (dense[..., 0] if self.lower else dense[..., 0, :]).clone()

    def unpack(self, packed: Tensor, size: int) -> Tensor:
        """Each entry along its diagonal, zeros on the other side."""
        steps = torch.arange(size, device=packed.device)
        offset = steps[:, None] - steps if self.lower else steps - steps[:, None]
        return torch.where(offset >= 0, packed[..., offset.clamp(min=0)], packed.new_zeros(()))

    def project(self, symmetric: Tensor) -> Tensor:
        """The means along the diagonals, both sides together."""
        size = symmetric.shape[-1]
        steps = torch.arange(size, device=symmetric.device)
        offset = (steps[:, None] - steps).abs().flatten()
        sums = symmetric.new_zeros(*symmetric.shape[:-2], size).index_add_(
            -1, offset, symmetric.flatten(-2)
        )
        return sums / (size - steps)

    def mean_diagonal(self, packed: Tensor, size: int) -> Tensor:
        """The first entry."""
        return packed[..., 0]

    def numbers(self, size: int) -> int:
        """One number for each row."""
        return size


class Hierarchical(Structure):
    """Dense rows at the top, a diagonal in the middle, dense rows at the bottom.

    The last rows leave the first columns out. The free entries in the order of the rows; (...,
    count). `first` and `last` are the numbers of these rows.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def mask(self, size: int) -> Tensor:
        """Which entries are free, (d, d)."""
        first = min(self.first, size)
        middle = size - first - min(self.last, size - first)
        free = torch.eye(size, dtype=torch.bool)
        free[:first] = True
        free[first + middle :, first:] = True
        return free

    def pack(self, dense: Tensor) -> Tensor:
        """The free entries, row by row."""
        return dense[..., self.mask(dense.shape[-1]).to(dense.device)]

    def unpack(self, packed: Tensor, size: int) -> Tensor:
        """The free entries in a matrix of zeros."""
        dense = packed.new_zeros(*packed.shape[:-1], size, size)
        dense[..., self.mask(size).to(packed.device)] = packed
        return dense

    def project(self, symmetric: Tensor) -> Tensor:
        """A free entry whose mirror image is not free counts twice."""
        free = self.mask(symmetric.shape[-1]).to(symmetric.device)
        return self.pack(symmetric * (1 + (free & ~free.mT)))

    def numbers(self, size: int) -> int:
        """The number of free entries."""
        return int(self.mask(size).sum())


STRUCTURES = ("dense", "diagonal", "block", "lower_toeplitz", "upper_toeplitz", "hierarchical")


def structure_of(name: str, block: int) -> Structure:
    """The structure that a word stands for.

    `block` is the size of its dense part, or of both of them together.

    Raises:
        ValueError: `block` is not a positive integer.
    """
    require_range("block_size", block, low=1, whole=True)
    structures: dict[str, Structure] = {
        "dense": Dense(),
        "diagonal": Diagonal(),
        "block": BlockDiagonal(block),
        "lower_toeplitz": TriangularToeplitz(lower=True),
        "upper_toeplitz": TriangularToeplitz(lower=False),
        "hierarchical": Hierarchical((block + 1) // 2, block // 2),
    }
    return structures[name]
