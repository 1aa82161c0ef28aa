"""Loading of run directories: one `Run` per readable directory.

A directory that cannot be read is reported with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from suite import paths
from suite.results import archive, cache, timings
from suite.results.parse import Memory, read_config, read_history, read_summary
from suite.results.run import TRAINED, Damage, DamagedRunError, Run, assemble, status_of

CACHED_FROM = 200  # runs; fewer are read at once
WORKERS = 2  # threads: the parser of tables works without Python's lock


def load_runs(root: Path, *, cached: bool = True) -> tuple[list[Run], list[Damage]]:
    """Read every `<task>/<optimizer>/<run_id>` under `root`, in the order of their names.

    A folder that is an archive (`suite.archive`) is read as one, and so are the archives in the
    folder. What many directories say is kept for the next time (`suite.results.cache`), unless
    `cached` is false.
    """
    runs: list[Run] = []
    damaged: list[Damage] = []
    for folder in _archives(root):
        try:
            runs += archive.read_archive(folder)
        except archive.ArchiveError as error:
            damaged.append(Damage(folder.name, str(error)))
    directories = [] if archive.is_archive(root) else _directories(root)
    parts = cache.shards(root, directories)
    read = _Reader(root)
    keep = cached and len(directories) >= CACHED_FROM
    with ThreadPoolExecutor(WORKERS if keep else 1) as workers:
        loaded = workers.map(
            lambda part: cache.read_shard(part, read) if keep else read(part.directories), parts
        )
        for some, others in loaded:
            runs += some
            damaged += others
    return runs, damaged


class _Reader:
    """Reads directories one after the other, and remembers what they have in common."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._memory = Memory()

    def __call__(self, directories: Sequence[Path]) -> tuple[list[Run], list[Damage]]:
        runs: list[Run] = []
        damaged: list[Damage] = []
        for directory in directories:
            try:
                runs.append(read_run(directory, self._memory))
            except DamagedRunError as error:
                damaged.append(Damage(directory.relative_to(self._root).as_posix(), str(error)))
        return runs, damaged


def load_timings(root: Path) -> dict[timings.Place, timings.Timing]:
    """The isolated timings that belong to the runs under `root`.

    They are the archive's own, else those of this machine.
    """
    folders = _archives(root)
    known = {} if archive.is_archive(root) else timings.load(paths.results() / "timing")
    for folder in folders:
        known |= archive.read_timings(folder)
    return known


def read_run(directory: Path, memory: Memory | None = None) -> Run:
    """Read one directory; `memory` saves parsing what other runs have said already.

    Raises:
        DamagedRunError: a file is missing, cannot be parsed, or lacks what the record's format asks
            for.
    """
    memory = memory or Memory()
    config = read_config(directory / "config.yaml", memory)
    summary = read_summary(directory / "summary.json")
    history = read_history(
        directory / "history.csv", needed=status_of(summary) in TRAINED, ended=bool(summary)
    )
    written = (directory / ("summary.json" if summary else "config.yaml")).stat().st_mtime
    return assemble(
        directory,
        config,
        summary,
        memory.environment(directory / "environment.json"),
        history,
        written,
    )


def _archives(root: Path) -> list[Path]:
    """The folder itself or, where it is none, the archives in it."""
    if archive.is_archive(root):
        return [root]
    return sorted(folder for folder in root.glob("*") if archive.is_archive(folder))


def _directories(root: Path) -> list[Path]:
    """The run directories, those of a pair together; what begins with a dot is somebody else's."""
    return [
        run
        for task in _folders(root)
        for optimizer in _folders(task)
        for run in _folders(optimizer)
    ]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()
            )
    except OSError:
        return []
    return [folder / name for name in names]
