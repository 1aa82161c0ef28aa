"""The list of a report's files: the next report in the folder removes them first."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

LIST = "files.txt"


def list_files(folder: Path, files: Iterable[Path]) -> None:
    """Write the list, with addresses relative to the folder."""
    names = dict.fromkeys(file.relative_to(folder).as_posix() for file in files)
    (folder / LIST).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def remove_previous(folder: Path, within: Collection[str]) -> None:
    """Remove what the list names `within` some folders, so that nothing outlives its runs."""
    listed = folder / LIST
    for name in listed.read_text(encoding="utf-8").splitlines() if listed.exists() else ():
        parts = Path(name).parts
        if len(parts) > 1 and parts[0] in within and ".." not in parts:
            (folder / name).unlink(missing_ok=True)
