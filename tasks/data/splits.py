"""Disjoint parts of a data set."""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def hold_out(inputs: Tensor, targets: Tensor, count: int, name: str) -> tuple[Pair, Pair]:
    """The remaining examples and `count` held-out ones, chosen by a fixed shuffle.

    Raises:
        ValueError: `count` is below one or leaves no example; the message calls it `name`.
    """
    if not 0 < count < len(inputs):
        raise ValueError(f"{name} must be between 1 and {len(inputs) - 1}, got {count}")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    held, rest = order[:count], order[count:].sort().values
    return (inputs[rest], targets[rest]), (inputs[held], targets[held])


def three_way(train: Pair, test: Pair, val_size: int, test_size: int | None) -> dict[str, Pair]:
    """Training, validation and test examples; validation is held out of the training set.

    Args:
        train: the inputs and targets of the training set.
        test: the inputs and targets of the test set.
        val_size: the number of validation examples.
        test_size: the number of test examples, the first ones; None is all.

    Raises:
        ValueError: `val_size` or `test_size` does not fit the set.
    """
    if test_size is not None and not 0 < test_size <= len(test[0]):
        raise ValueError(f"test_size must be between 1 and {len(test[0])}, got {test_size}")
    rest, held = hold_out(*train, val_size, "val_size")
    return {"train": rest, "val": held, "test": (test[0][:test_size], test[1][:test_size])}
