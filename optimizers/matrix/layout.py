"""The layout of parameters as tensors for a matrix method: by role, shape and block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from optimizers.layers.roles import Role
from optimizers.method import require_range

MATRICES = (Role.HIDDEN, Role.EMBEDDING, Role.HEAD)


@dataclass(frozen=True, eq=False)
class Piece:
    """A parameter under its rule's shape, or a block of it."""

    parameter: nn.Parameter
    view: tuple[int, ...]
    shape: tuple[int, ...]
    where: tuple[slice, ...] | None
    suffix: str

    def gradient(self) -> Tensor:
        """The piece's part of the gradient."""
        assert self.parameter.grad is not None
        whole = self.parameter.grad.reshape(self.view)
        return whole if self.where is None else whole[self.where]

    def target(self) -> Tensor:
        """The piece's part of the parameter, as a view; the whole parameter without blocks."""
        return self.parameter if self.where is None else self.parameter.view(self.view)[self.where]


@dataclass(frozen=True)
class Layout:
    """The parameters that a method takes, and their shapes.

    Attributes:
        roles: the roles of the matrices that the method takes.
        flatten: a kernel (out, in, height, width) is a matrix (out, in height width), else a tensor
            with four modes.
        vectors: the method takes vectors of any role too, each as a tensor with one mode.
        block_size: the largest side of a block; longer sides are cut. None cuts nothing.
        max_dimension: the largest side with a matrix of its own.
        identity: the method also takes a tensor without such a side.
    """

    roles: tuple[Role, ...] = MATRICES
    flatten: bool = False
    vectors: bool = False
    block_size: int | None = None
    max_dimension: int = 8192
    identity: bool = False

    def pieces(self, parameter: nn.Parameter, role: Role) -> list[Piece]:
        """The tensors of a parameter with this role; none if the method does not take it.

        A head with a single output counts as a vector.
        """
        view = self._view(parameter)
        if not (self.vectors if len(view) < 2 else role in self.roles):
            return []
        pieces = self._blocks(parameter, view)
        return pieces if self.identity or all(self.sides(piece.shape) for piece in pieces) else []

    def _blocks(self, parameter: nn.Parameter, view: tuple[int, ...]) -> list[Piece]:
        """The whole parameter as one piece, or its blocks; none if it cannot be cut."""
        cuts = [self._cuts(size) for size in view]
        if all(len(cut) == 1 for cut in cuts):
            return [Piece(parameter, view, view, None, "")]
        if not parameter.is_contiguous():
            return []
        blocks = []
        for number, where in enumerate(itertools.product(*cuts)):
            shape = tuple(part.stop - part.start for part in where)
            blocks.append(Piece(parameter, view, shape, where, f"@{number}"))
        return blocks

    def sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The modes with a matrix of their own."""
        return tuple(mode for mode, size in enumerate(shape) if size <= self.max_dimension)

    def _view(self, parameter: nn.Parameter) -> tuple[int, ...]:
        sizes = [size for size in parameter.shape if size > 1]
        if len(sizes) < 2:
            return (parameter.numel(),)
        return (sizes[0], math.prod(sizes[1:])) if self.flatten else tuple(sizes)

    def _cuts(self, size: int) -> list[slice]:
        block = self.block_size or size
        return [slice(start, min(start + block, size)) for start in range(0, size, block)]


def require_roles(name: str, value: object) -> tuple[Role, ...]:
    """The roles named by a hyperparameter; ValueError naming it for other words."""
    words = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if not words or any(word not in MATRICES for word in words):
        raise ValueError(f"{name} must be a list out of {', '.join(MATRICES)}, got {value!r}")
    return tuple(Role(str(word)) for word in words)


def require_layout(
    roles: Sequence[str],
    block_size: int | None,
    max_dimension: int,
    *,
    flatten: bool,
    vectors: bool,
    identity: bool = False,
) -> Layout:
    """A layout from hyperparameters; ValueError naming one out of its range."""
    if block_size is not None:
        require_range("block_size", block_size, low=1, whole=True)
    require_range("max_dimension", max_dimension, low=1, whole=True)
    return Layout(
        require_roles("roles", roles), flatten, vectors, block_size, max_dimension, identity
    )
