"""The full data sets in torchvision's layout of the data directory."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from torch import Tensor

from tasks.data.splits import Pair
from tasks.data.store import DataMissingError, data_directory, read_verified

IDX_FOLDERS = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_DIGESTS = {
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
IDX_SHA256 = {
    name: dict(zip(IDX_FILES, digests, strict=True)) for name, digests in IDX_DIGESTS.items()
}


def idx_folder(name: str) -> Path:
    """The folder of a set's uncompressed idx files."""
    return data_directory() / IDX_FOLDERS[name] / "raw"


def read_idx_set(name: str) -> tuple[Pair, Pair]:
    """Training and test images `(N, 1, 28, 28)` in bytes, and labels `(N,)`, of an idx set.

    Raises:
        DataMissingError: a file is absent.
        DataCorruptError: a file is damaged.
    """
    train_images, train_labels, test_images, test_labels = (
        _read_idx(name, file, sha256) for file, sha256 in IDX_SHA256[name].items()
    )
    return (train_images[:, None], train_labels.long()), (test_images[:, None], test_labels.long())


def read_cifar10() -> tuple[Pair, Pair]:
    """Training and test images of CIFAR-10, `(N, 3, 32, 32)` in bytes, and labels `(N,)`.

    Raises:
        DataMissingError: the set is not fetched, or a file is damaged.
    """
    from tasks.data.torchvision_guard import torchvision_datasets

    pairs: list[Pair] = []
    for train in (True, False):
        try:
            part = torchvision_datasets().CIFAR10(str(data_directory()), train=train)
        except RuntimeError as error:
            raise DataMissingError("cifar10") from error
        pairs.append(
            (
                torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(part.targets),
            )
        )
    return pairs[0], pairs[1]


def _read_idx(name: str, file: str, sha256: str) -> Tensor:
    """The values of an idx file, in its shape."""
    path = idx_folder(name) / file
    if not path.is_file():
        raise DataMissingError(name)
    # two zero bytes, the type, the number of dimensions, the dimensions, the values
    content = bytearray(read_verified(path, sha256))
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, offset=4)
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * dimensions).view(shape)
