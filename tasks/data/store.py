"""The directory of data sets, and the errors about absent or damaged ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class DataMissingError(FileNotFoundError):
    """A data set is not in the data directory; the message gives the command that fetches it."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"the data set {name!r} is not in {data_directory()}; bring it with: python "
            f"scripts/fetch_data.py {name}"
        )


class DataCorruptError(RuntimeError):
    """A file's content does not have its recorded digest."""


def data_directory() -> Path:
    """The folder of the full data sets: `$SUITE_DATA`, or `suite/data` in the user's cache."""
    if chosen := os.environ.get("SUITE_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "suite" / "data"


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file.

    Raises:
        DataCorruptError: the bytes do not have the given SHA-256.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataCorruptError(
            f"{path} is damaged: its SHA-256 is {digest}, not {sha256}; restore or delete it"
        )
    return content
