"""Where data sets lie, and what is said when one is absent or damaged."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


class DataMissingError(FileNotFoundError):
    """A data set is not in the data directory; the message says which command brings it."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"the data set {name!r} is not in {data_directory()}; bring it with: python "
            f"scripts/fetch_data.py {name}"
        )


class DataCorruptError(RuntimeError):
    """A file's content is not the one that was recorded for it."""


def data_directory() -> Path:
    """The folder of the full data sets: `$SUITE_DATA`, by default `suite/data` in the user's cache."""
    if chosen := os.environ.get("SUITE_DATA"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "suite" / "data"


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file.

    Raises:
        DataCorruptError: they do not have the SHA-256 given.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataCorruptError(
            f"{path} is damaged: its SHA-256 is {found}, not {sha256}; restore or delete it"
        )
    return content
