"""An archive: a set of runs in a few small files that stand for their directories in every report.

An archive is a folder with `archive.json` (what it holds), `runs.parquet` (a row per run),
`histories.parquet` (thinned as `suite.results.downsample` says) and, where models have two
parameters, `walks.parquet`. It holds no path, user or machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.errors import ConfigError
from suite.files import to_json, write_atomically
from suite.results import parquet
from suite.results.anonymise import Scrubber
from suite.results.downsample import ROWS, thin
from suite.results.run import Run
from suite.results.timings import Place, Timing, Timings, from_json, placed, speed_key

CONTENTS = "archive.json"


TIMINGS = "timings.json"


FORMAT = "runs of the optimizer suite"


VERSION = 1


COORDINATES = ["step", "x", "y"]


class ArchiveError(ConfigError):
    """A folder that is no archive, or a damaged one."""


def write_archive(
    runs: Sequence[Run],
    folder: Path,
    *,
    rows: int = ROWS,
    timings: Timings | None = None,
    about: str = "",
) -> Path:
    """Write an archive of `runs`, in place of one that was there.

    `rows` is what a long history keeps, about.

    Raises:
        ArchiveError: there are no runs, or the folder holds something else.
    """
    if not runs:
        raise ArchiveError("there are no runs to archive")
    if folder.exists() and not is_archive(folder) and any(folder.iterdir()):
        raise ArchiveError(f"{folder} holds something that is no archive; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    scrub = Scrubber()
    portable = [_portable(run, scrub, rows) for run in runs]
    for name in (CONTENTS, parquet.TRAJECTORIES, TIMINGS):
        (folder / name).unlink(missing_ok=True)
    parquet.write(portable, folder, small=True)
    if timings:
        # a setting that was a path is another one now, and the timings of such runs have to find
        # them still
        keys = {
            speed_key(run.config): speed_key(stored.config)
            for run, stored in zip(runs, portable, strict=True)
        }
        moved = placed(replace(one, key=keys.get(one.key, one.key)) for one in timings.values())
        known = {moved[place].name: scrub(asdict(moved[place])) for place in sorted(moved)}
        write_atomically(folder / TIMINGS, to_json(known))
    write_atomically(folder / CONTENTS, to_json(_contents(runs, portable, rows, about)))
    return folder


def read_archive(folder: Path) -> list[Run]:
    """The runs of an archive, as `load_runs` gives those of directories.

    Raises:
        ArchiveError: the folder is no archive, of a later version, or damaged.
    """
    contents = read_contents(folder)
    if contents.get("version") != VERSION:
        raise ArchiveError(
            f"{folder} is an archive of version {contents.get('version')}; this suite reads "
            f"{VERSION}"
        )
    try:
        runs = parquet.read(folder, folder)
    except parquet.PackError as error:
        raise ArchiveError(f"the archive {folder} is damaged ({error}); write it again") from error
    if len(runs) != contents.get("runs"):
        raise ArchiveError(
            f"the archive {folder} is damaged ({len(runs)} runs of {contents.get('runs')})"
        )
    return runs


def is_archive(folder: Path) -> bool:
    """Whether a folder says of itself that it is an archive."""
    return (folder / CONTENTS).is_file()


def read_contents(folder: Path) -> dict[str, Any]:
    """What an archive says of itself."""
    try:
        contents = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArchiveError(f"{folder} is no archive: it has no {CONTENTS}") from None
    except (OSError, ValueError) as error:
        raise ArchiveError(f"the archive {folder} is damaged ({CONTENTS}: {error})") from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ArchiveError(f"{folder} is no archive: its {CONTENTS} is something else's")
    return contents


def read_timings(folder: Path) -> dict[Place, Timing]:
    """The isolated timings that came with the runs."""
    try:
        content = json.loads((folder / TIMINGS).read_text(encoding="utf-8"))
        return placed(map(from_json, content.values()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArchiveError(f"the archive {folder} is damaged ({TIMINGS}: {error})") from error


def _portable(run: Run, scrub: Scrubber, rows: int) -> Run:
    return replace(
        run,
        config=scrub(run.config),
        summary=scrub(run.summary),
        environment=scrub(run.environment),
        history=thin(run, rows),
        trajectory=_trajectory(run),
    )


def _trajectory(run: Run) -> pd.DataFrame | None:
    """The points of a run over a plane, in single precision, as a figure shows them."""
    points = run.trajectory
    if points is None:
        try:
            table = pd.read_csv(run.path / "path.csv", dtype=float, index_col=False)
            points = table[COORDINATES]
        except (OSError, ValueError, KeyError):
            return None
        if not run.summary:  # a killed run may have been cut off in its last line
            points = points.iloc[:-1]
    with np.errstate(over="ignore"):
        return points.astype("float32").astype("float64")


def _contents(runs: Sequence[Run], stored: Sequence[Run], rows: int, about: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "about": about,
        "runs": len(runs),
        "experiments": sorted(
            {str(run.config["experiment"]) for run in runs if run.config.get("experiment")}
        ),
        "tasks": sorted({run.task for run in runs}),
        "optimizers": sorted({run.optimizer for run in runs}),
        "rows": sum(len(run.history) for run in stored),
        "rows_before_thinning": sum(len(run.history) for run in runs),
        "rows_of_a_long_history": rows,
    }
