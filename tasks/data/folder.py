"""Labelled images from a folder with a subfolder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.data.splits import Pair, hold_out

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
TEST_PART = 6


def read_image_folder(root: Path, image_size: int | None = None) -> tuple[Pair, Pair]:
    """Training and test images below `root`: pixels `(N, 1 or 3, H, W)` in bytes, labels `(N,)`.

    The layout is `train/<class>/<file>` and `test/<class>/<file>`, or `<class>/<file>` alone, with
    a fixed sixth held out as the test set. Classes are numbered in the order of their names. The
    first image determines whether all are read as grey or as colour.

    Args:
        root: the folder.
        image_size: pixels a side to resize to; None when all the images have the size of the first.

    Raises:
        ValueError: there are no images, the sizes differ, or the two parts have different classes.
    """
    parts = [root / "train", root / "test"]
    if all(part.is_dir() for part in parts):
        classes, (train, test) = _classes(parts[0]), parts
        if _classes(test) != classes:
            raise ValueError(f"data must have the same classes in train and test, got {root}")
        mode = _mode(train, classes)
        return _read(train, classes, mode, image_size), _read(test, classes, mode, image_size)
    classes = _classes(root)
    inputs, labels = _read(root, classes, _mode(root, classes), image_size)
    return hold_out(inputs, labels, max(1, len(inputs) // TEST_PART), "test images")


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and any(_files(entry)))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _mode(folder: Path, classes: list[str]) -> str:
    """PIL's mode of all images, grey or colour, by the first image."""
    if not classes:
        raise ValueError(f"data must hold a folder of images for every class, got {folder}")
    with Image.open(_files(folder / classes[0])[0]) as image:
        return "L" if image.mode in ("1", "L") else "RGB"


def _read(folder: Path, classes: list[str], mode: str, image_size: int | None) -> Pair:
    images: list[Tensor] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for file in _files(folder / name):
            images.append(_pixels(file, mode, image_size))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise ValueError(
                    f"image_size must be given when the images differ in size, got null; see {file}"
                )
    return torch.stack(images), torch.tensor(labels)


def _pixels(file: Path, mode: str, image_size: int | None) -> Tensor:
    with Image.open(file) as image:
        converted = image.convert(mode)
        if image_size is not None:
            converted = converted.resize((image_size, image_size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(converted))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)
