"""A user's data as tensors for training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tasks.custom.source import Source
from tasks.data.splits import Pair, hold_out
from tasks.task import SPLITS

FEWEST = 3


def by_split(data: Any, source: Source) -> Mapping[str, Any]:
    """The user's data by split; a function is called."""
    if callable(data) and not isinstance(data, Dataset):
        with source.blaming("data()", "data"):
            data = data()
    if isinstance(data, tuple | list) and len(data) == len(SPLITS):
        data = dict(zip(SPLITS, data, strict=True))
    return data if isinstance(data, Mapping) else {"train": data}


def batch_of(data: Mapping[str, Any]) -> int | None:
    """The batch size of a training loader, or None."""
    loader = data.get("train")
    return loader.batch_size if isinstance(loader, DataLoader) else None


def splits_of(data: Any, held_out: float, source: Source) -> dict[str, Pair]:
    """Training, validation and test examples; missing splits are held out of the training set.

    Args:
        data: a pair (inputs, targets); a data set or a loader of such pairs; or a dictionary, or a
            tuple of three, from `train`, `val` and `test` to one of these; or a function without
            arguments that returns one of them.
        held_out: the share of the training examples for each missing split, by a fixed shuffle.
        source: the file that messages refer to.

    Raises:
        BrokenFileError: the data are none of these, differ in length, are too few, or have values
            that are not finite.
    """
    data = by_split(data, source)
    if "train" not in data or set(data) - set(SPLITS):
        keys = ", ".join(map(str, data)) or "none"
        source.refuse(
            f"data must have the key train, and may have val and test; its keys are: {keys}",
            "data",
        )
    splits = {
        split: _pair(data[split], f"data[{split!r}]", source) for split in SPLITS if split in data
    }
    return _completed(splits, held_out, source)


def _completed(splits: dict[str, Pair], held_out: float, source: Source) -> dict[str, Pair]:
    """The splits with the missing ones held out of the training examples."""
    total = len(splits["train"][0])
    missing = [split for split in SPLITS if split not in splits]
    if missing and total < FEWEST:
        wanted = " and ".join(missing)
        source.refuse(
            f"data has {total} training examples, too few to hold some out for {wanted}", "data"
        )
    count = max(1, round(held_out * total))
    for split in missing:
        splits["train"], splits[split] = hold_out(*splits["train"], count, "held_out")
    return {split: splits[split] for split in SPLITS}


def _pair(given: Any, name: str, source: Source) -> Pair:
    with source.blaming(f"reading {name}", "data"):
        given = _unpacked(given)
    if not isinstance(given, tuple | list) or len(given) != 2:
        source.refuse(f"{name} must be a pair (inputs, targets), got {_described(given)}", "data")
    inputs, targets = (
        _tensor(part, f"the {what} of {name}", source)
        for part, what in zip(given, ("inputs", "targets"), strict=True)
    )
    if len(inputs) != len(targets) or not len(inputs):
        source.refuse(f"{name} has {len(inputs)} inputs and {len(targets)} targets", "data")
    # torch's losses take class numbers as int64 alone
    small = targets.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)
    return inputs, targets.long() if small else targets


def _unpacked(given: Any) -> Any:
    """A data set as its columns, or any other value unchanged."""
    if isinstance(given, DataLoader):
        given = given.dataset
    if isinstance(given, TensorDataset):
        return given.tensors
    if isinstance(given, Dataset):
        return _stacked(given)
    return given


def _stacked(given: Dataset[Any]) -> tuple[Tensor, ...]:
    """The columns of a data set, each as one tensor."""
    if isinstance(given, IterableDataset):
        raise TypeError(
            "an IterableDataset may have no end; data = next(iter(DataLoader(dataset, 5000))) "
            "reads that many"
        )
    examples = [given[index] for index in range(len(given))]  # type: ignore[arg-type]
    if isinstance(examples[0], Mapping):
        keys = [repr(key) for key in examples[0]]
        raise TypeError(
            f"its examples are dictionaries with {', '.join(keys)}; return (inputs, targets) "
            "instead"
        )
    return tuple(
        torch.stack([torch.as_tensor(part) for part in column])
        for column in zip(*examples, strict=True)
    )


def _tensor(given: Any, what: str, source: Source) -> Tensor:
    """A dense CPU tensor with finite values, in its own precision."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "fiub":
        given = torch.from_numpy(np.ascontiguousarray(given))
    if not isinstance(given, Tensor):
        source.refuse(
            f"{what} must be a tensor or an array of numbers, got {_described(given)}", "data"
        )
    tensor = given.detach().cpu()
    if tensor.ndim == 0 or tensor.is_complex() or tensor.layout != torch.strided:
        kind = f"{tensor.dtype}, {tensor.layout}, shape {tuple(tensor.shape)}"
        source.refuse(
            f"{what} must be dense and real, with the examples along the first dimension, got "
            f"{kind}",
            "data",
        )
    if tensor.is_floating_point():
        _require_finite(tensor, what, source)
    return tensor


def _require_finite(tensor: Tensor, what: str, source: Source) -> None:
    bad = ~torch.isfinite(tensor).flatten(1).all(1) if tensor.ndim > 1 else ~torch.isfinite(tensor)
    if bad.any():
        first = int(bad.nonzero()[0])
        source.refuse(
            f"{what} have NaN or infinity in {int(bad.sum())} of {len(bad)} examples, first in "
            f"number {first}; leave these out: keep = inputs.flatten(1).isfinite().all(1)",
            "data",
        )


def _described(value: Any) -> str:
    kind = type(value)
    name = (
        kind.__name__
        if kind.__module__ == "builtins"
        else f"{kind.__module__.split('.')[0]}'s {kind.__name__}"
    )
    if kind.__name__ in ("DataFrame", "Series"):
        return f"{name} (write torch.as_tensor(frame.to_numpy()))"
    return f"{name} of length {len(value)}" if isinstance(value, tuple | list | Mapping) else name
