"""Sets of labelled images, by name or from a folder of image files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.checks import require_positive
from tasks.data.curves import curves_lookalike
from tasks.data.folder import read_image_folder
from tasks.data.full import read_cifar10, read_idx_set
from tasks.data.splits import Pair, hold_out
from tasks.data.vendored import read_vendored

SMALL_TRAIN, SMALL_TEST, SMALL_SIDE = 10_000, 2_000, 28
DIGITS_TEST = 297


@dataclass(frozen=True)
class Images:
    """Pixels `(N, channels, height, width)` and labels `(N,)` of a training and a test set.

    `peak` is the pixel value of full brightness.
    """

    train: Pair
    test: Pair
    peak: int = 255

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.train[1].max()) + 1

    def resized(self, size: int) -> Images:
        """The same images at `size` x `size` pixels."""
        train, test = (
            (_resize(inputs, size), labels) for inputs, labels in (self.train, self.test)
        )
        return replace(self, train=train, test=test)


def load_images(data: str, image_size: int | None = None) -> Images:
    """The image set of a name or a folder.

    Args:
        data: one of `NAMED`, or a path (see `read_image_folder` for its layout).
        image_size: the side in pixels after resizing; None for no change.

    Raises:
        ValueError: `data` is neither a name nor a folder, the images of a folder differ in size and
            are not resized, or `image_size` is below one.
        DataMissingError: the named set has not been fetched.
    """
    if image_size is not None:
        require_positive(image_size=image_size)
    if data in NAMED:
        images = _named(data)
        return images if image_size is None else images.resized(image_size)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data must be one of {', '.join(NAMED)} or an image folder, got {data!r}")
    return _folder(folder, image_size)


# A sweep builds the same task many times: its data are decoded once.
@lru_cache(maxsize=2)
def _named(name: str) -> Images:
    return NAMED[name]()


@lru_cache(maxsize=1)
def _folder(folder: Path, image_size: int | None) -> Images:
    return Images(*read_image_folder(folder, image_size))


def _resize(pixels: Tensor, size: int) -> Tensor:
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def _fashion_mnist_small() -> Images:
    content = torch.frombuffer(
        bytearray(read_vendored("fashion_mnist_small.xz")), dtype=torch.uint8
    )
    pixels = SMALL_SIDE**2
    train, test, train_labels, test_labels = content.split(
        [SMALL_TRAIN * pixels, SMALL_TEST * pixels, SMALL_TRAIN, SMALL_TEST]
    )
    shape = (-1, 1, SMALL_SIDE, SMALL_SIDE)
    return Images((train.view(shape), train_labels.long()), (test.view(shape), test_labels.long()))


def _digits() -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.as_tensor(pixels, dtype=torch.uint8).view(-1, 1, 8, 8)
    train, test = hold_out(inputs, torch.as_tensor(labels).long(), DIGITS_TEST, "DIGITS_TEST")
    return Images(train, test, peak=16)


NAMED: dict[str, Callable[[], Images]] = {
    "fashion_mnist_small": _fashion_mnist_small,
    "digits": _digits,
    "curves_lookalike": lambda: Images(*curves_lookalike()),
    "fashion_mnist": lambda: Images(*read_idx_set("fashion_mnist")),
    "mnist": lambda: Images(*read_idx_set("mnist")),
    "cifar10": lambda: Images(*read_cifar10()),
}
