"""Stacks of equally shaped tensors from many parameters, updated as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.matrix.layout import Piece

State = Mapping[Any, dict[str, Any]]


class Stack:
    """Pieces of one shape, group and age, with their state stacked along a first dimension.

    The optimizer's state of a parameter holds views of the stacked tensors, so that checkpoints
    contain each parameter's share. The tensors therefore change in place only.

    Attributes:
        pieces: the k stacked pieces.
        shape: the shape of each piece.
        sides: the modes with a matrix of their own.
        group: the parameter group of the pieces.
        step: the number of updates so far.
        tensors: state by name, (k, ...).
        condition: the condition (k,) of each mode's matrices at their last refresh.
    """

    def __init__(
        self, pieces: Sequence[Piece], sides: tuple[int, ...], group: dict[str, Any], state: State
    ) -> None:
        self.pieces = list(pieces)
        self.shape = pieces[0].shape
        self.sides = sides
        self.group = group
        self.state = state
        self.step: int = state[pieces[0].parameter].get("step", 0)
        self.tensors: dict[str, Tensor] = {}
        self.condition: dict[int, Tensor] = {}
        for name in self._names():
            self.keep(name, torch.stack([state[p.parameter][name + p.suffix] for p in self.pieces]))

    def __len__(self) -> int:
        return len(self.pieces)

    def _names(self) -> list[str]:
        """The names of the state that the pieces already have."""
        first = self.pieces[0]
        state = self.state[first.parameter]
        return [
            key.partition("@")[0]
            for key, value in state.items()
            if _belongs(key, value, first.suffix)
        ]

    def keep(self, name: str, tensor: Tensor) -> Tensor:
        """Store a tensor (k, ...) in the state."""
        self.tensors[name] = tensor
        for piece, share in zip(self.pieces, tensor.unbind(), strict=True):
            self.state[piece.parameter][name + piece.suffix] = share
        return tensor

    def zeros(self, name: str, like: Tensor) -> Tensor:
        """State of the shape of `like`, zero at first."""
        return (
            self.tensors[name] if name in self.tensors else self.keep(name, torch.zeros_like(like))
        )

    def matrices(self, name: str, mode: int, like: Tensor, *, identity: bool = False) -> Tensor:
        """A matrix (k, d, d) for a mode, zero or the identity at first."""
        key = f"{name}_{mode}"
        if key in self.tensors:
            return self.tensors[key]
        size = self.shape[mode]
        one = (
            torch.eye(size, dtype=like.dtype, device=like.device)
            if identity
            else like.new_zeros(size, size)
        )
        return self.keep(key, one.repeat(len(self), 1, 1))

    def gradient(self) -> Tensor:
        """The gradients (k, *shape), in float32 at least."""
        stacked = torch.stack([piece.gradient() for piece in self.pieces])
        return stacked if stacked.dtype in (torch.float32, torch.float64) else stacked.float()

    def targets(self) -> list[Tensor]:
        """The pieces of the parameters, as views."""
        return [piece.target() for piece in self.pieces]

    def shaped(self, update: Tensor, targets: list[Tensor]) -> list[Tensor]:
        """An update (k, *shape) as one tensor for each target, of its shape and type."""
        update = update if update.dtype == targets[0].dtype else update.to(targets[0].dtype)
        return [
            each.reshape(target.shape)
            for each, target in zip(update.unbind(), targets, strict=True)
        ]

    def count(self) -> None:
        """Count one more update."""
        self.step += 1
        for piece in self.pieces:
            self.state[piece.parameter]["step"] = self.step


def _belongs(key: str, value: object, suffix: str) -> bool:
    return (
        isinstance(value, Tensor)
        and key != "step"
        and key.endswith(suffix)
        and ("@" in key) == bool(suffix)
    )
