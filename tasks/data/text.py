"""Text as windows of character numbers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.data.splits import Pair
from tasks.data.vendored import read_vendored


def read_text(path: str | None) -> str:
    """The text of a UTF-8 file, or of the vendored Moby Dick for None.

    Raises:
        ValueError: the file does not exist.
    """
    if path is None:
        return _moby_dick()
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"path must be a text file or null, got {path!r}")
    return file.read_text(encoding="utf-8")


def encode(text: str) -> tuple[Tensor, str]:
    """The characters as numbers `(len(text),)`, and the sorted alphabet that they index."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    alphabet, numbers = np.unique(codes, return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), "".join(map(chr, alphabet))


def split_windows(numbers: Tensor, context: int, val_size: int, test_size: int) -> dict[str, Pair]:
    """Training, validation and test windows: contiguous pieces of the text, in this order.

    The text is cut into windows of `context + 1` characters that do not overlap. A window's inputs
    are all but its last character, its targets all but its first, both of shape `(windows,
    context)`.

    Args:
        numbers: the encoded text.
        context: the length of the inputs.
        val_size: the number of validation windows.
        test_size: the number of test windows.

    Raises:
        ValueError: the text is too short.
    """
    windows = numbers[: len(numbers) // (context + 1) * (context + 1)].view(-1, context + 1)
    train_size = len(windows) - val_size - test_size
    if train_size < 1:
        raise ValueError(
            f"val_size + test_size must be below the text's {len(windows)} windows, got {val_size} "
            f"+ {test_size}"
        )
    parts = zip(
        ("train", "val", "test"), windows.split([train_size, val_size, test_size]), strict=True
    )
    return {split: (part[:, :-1].contiguous(), part[:, 1:].contiguous()) for split, part in parts}


@lru_cache(maxsize=1)
def _moby_dick() -> str:
    return read_vendored("moby_dick.txt.xz").decode("utf-8")
