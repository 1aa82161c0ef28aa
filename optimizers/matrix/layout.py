"""How parameters become the tensors that a matrix method works on: by role, shape and block."""

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
        """The part of the gradient that belongs to it."""
        assert self.parameter.grad is not None
        whole = self.parameter.grad.reshape(self.view)
        return whole if self.where is None else whole[self.where]

    def target(self) -> Tensor:
        """The part of the parameter that belongs to it, as a view.

        All of it where there are no blocks.
        """
        return self.parameter if self.where is None else self.parameter.view(self.view)[self.where]


@dataclass(frozen=True)
class Layout:
    """Which parameters a method takes, and in what shape.

    Attributes:
        roles: the roles of matrices that it takes.
        flatten: a kernel (out, in, height, width) is a matrix (out, in height width), else a tensor
            with four modes.
        vectors: it takes vectors too, whatever their role, each as a tensor with one mode.
        block_size: the largest side of a block; a longer one is cut. None cuts nothing.
        max_dimension: the largest side that has a matrix of its own.
        identity: a tensor without any such side is taken all the same.
    """

    roles: tuple[Role, ...] = MATRICES
    flatten: bool = False
    vectors: bool = False
    block_size: int | None = None
    max_dimension: int = 8192
    identity: bool = False

    def pieces(self, parameter: nn.Parameter, role: Role) -> list[Piece]:
        """The tensors that a parameter of this role becomes; none where the rule does not take it.

        A head with a single output is a vector here.
        """
        view = self._view(parameter)
        if not (self.vectors if len(view) < 2 else role in self.roles):
            return []
        cuts = [self._cuts(size) for size in view]
        whole = all(len(cut) == 1 for cut in cuts)
        if not whole and not parameter.is_contiguous():
            return []
        made = []
        for number, where in enumerate(itertools.product(*cuts)):
            shape = tuple(part.stop - part.start for part in where)
            made.append(
                Piece(
                    parameter, view, shape, None if whole else where, "" if whole else f"@{number}"
                )
            )
        return made if self.identity or all(self.sides(piece.shape) for piece in made) else []

    def sides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The modes that have a matrix of their own."""
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
    """The roles that the words of a hyperparameter stand for.

    ValueError naming it if they are no roles of matrices.
    """
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
    """A layout from hyperparameters; ValueError naming the one that is out of its range."""
    if block_size is not None:
        require_range("block_size", block_size, low=1, whole=True)
    require_range("max_dimension", max_dimension, low=1, whole=True)
    return Layout(
        require_roles("roles", roles), flatten, vectors, block_size, max_dimension, identity
    )
