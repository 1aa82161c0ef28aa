"""A cache of parsed run directories beside them, for the next report.

The runs of a pair (task, optimizer) are kept together in `<runs>/.cache/`, under a name that says
when each of their files was written and how long it is: a run that changes, comes or goes changes
the name, and the pair is read again. No file is changed in place, so that processes may read and
write at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from suite.results import parquet
from suite.results.run import Damage, Run

FOLDER = ".cache"
VERSION = 1
FILES = ("config.yaml", "summary.json", "environment.json", "history.csv")
DAMAGED = "damaged.json"
# runs of a pair that are not kept in one piece any more, so that a new one does not cost them all
MANY = 1000

Loaded = tuple[list[Run], list[Damage]]


@dataclass(frozen=True)
class Shard:
    """Directories that are kept together."""

    root: Path
    name: str
    directories: Sequence[Path]

    @property
    def key(self) -> str:
        """What the shard is kept under: its name, and a hash over the state of its files."""
        state = [VERSION, [[path.name, *map(_stamp, _files(path))] for path in self.directories]]
        return f"{self.name}.{sha256(json.dumps(state).encode()).hexdigest()[:20]}"


def shards(root: Path, directories: Sequence[Path]) -> list[Shard]:
    """The run directories by their pair, and by their first letter where a pair has very many."""
    pairs: dict[str, list[Path]] = {}
    for path in directories:
        pairs.setdefault("--".join(path.parts[-3:-1]), []).append(path)
    groups: dict[str, list[Path]] = {}
    for name, members in pairs.items():
        for path in members:
            groups.setdefault(
                f"{name}--{path.name[:1]}" if len(members) > MANY else name, []
            ).append(path)
    return [Shard(root, name, members) for name, members in groups.items()]


def read_shard(shard: Shard, read: Callable[[Sequence[Path]], Loaded]) -> Loaded:
    """The runs of a shard from the cache, or by `read`.

    Runs that were read are cached, unless the folder cannot be written.
    """
    key = shard.key
    folder = shard.root / FOLDER / key
    try:
        contents = json.loads((folder / DAMAGED).read_text(encoding="utf-8"))
        runs = parquet.read(folder, shard.root) if contents["runs"] else []
        damaged = [Damage(**one) for one in contents["damaged"]]
        if len(runs) == contents["runs"]:
            return runs, damaged
    except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged: it is made again
        pass
    result = read(shard.directories)
    _store(shard, folder, result)
    return result


def _store(shard: Shard, folder: Path, loaded: Loaded) -> None:
    """Write under another name first: a folder that is there is complete."""
    runs, damaged = loaded
    try:
        folder.parent.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    except OSError:
        return
    try:
        if runs:
            parquet.write(runs, temporary, small=False)
        contents = {"runs": len(runs), "damaged": [asdict(one) for one in damaged]}
        (temporary / DAMAGED).write_text(json.dumps(contents), encoding="utf-8")
        _remove(folder.parent, f"{shard.name}.")
        temporary.rename(folder)
    except (OSError, ValueError):  # a full disk, or another process was quicker
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(folder: Path, prefix: str) -> None:
    """Remove what was kept of the same runs in an earlier state."""
    for path in folder.iterdir():
        if path.name.startswith(prefix):
            shutil.rmtree(path, ignore_errors=True)


def _files(directory: Path) -> list[str]:
    return [f"{directory}/{name}" for name in FILES]


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
