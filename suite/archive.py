"""`python -m suite.archive`: a set of runs in a few small files that stand for their directories in every report.

An archive is a folder with `archive.json` (what it holds), `runs.parquet` (a row per run), `histories.parquet` (thinned
as `suite.results.downsample` says) and, where models have two parameters, `walks.parquet`. It holds no path, user or machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite import paths
from suite.errors import ConfigError
from suite.results import parquet
from suite.results.anonymise import Scrubber
from suite.results.directory import to_json, write_atomically
from suite.results.downsample import ROWS, thin
from suite.results.run import Run
from suite.results.timings import Place, Timing, Timings, from_json, placed, speed_key

CONTENTS = "archive.json"
TIMINGS = "timings.json"
FORMAT, VERSION = "runs of the optimizer suite", 1
WALK = ["step", "x", "y"]


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
    """Write an archive of `runs`, in place of one that was there; `rows` is what a long history keeps, about.

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
    for name in (CONTENTS, parquet.WALKS, TIMINGS):
        (folder / name).unlink(missing_ok=True)
    parquet.write(portable, folder, small=True)
    if timings:
        # a setting that was a path is another one now, and the timings of such runs have to find them still
        keys = {speed_key(run.config): speed_key(kept.config) for run, kept in zip(runs, portable, strict=True)}
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
        raise ArchiveError(f"{folder} is an archive of version {contents.get('version')}; this suite reads {VERSION}")
    try:
        runs = parquet.read(folder, folder)
    except parquet.PackError as error:
        raise ArchiveError(f"the archive {folder} is damaged ({error}); write it again") from error
    if len(runs) != contents.get("runs"):
        raise ArchiveError(f"the archive {folder} is damaged ({len(runs)} runs of {contents.get('runs')})")
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
    """The exclusive timings that came with the runs."""
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
        walk=_walk(run),
    )


def _walk(run: Run) -> pd.DataFrame | None:
    """The points of a run over a plane, in single precision, as a figure shows them."""
    walk = run.walk
    if walk is None:
        try:
            walk = pd.read_csv(run.path / "path.csv", dtype=float, index_col=False)[WALK]
        except (OSError, ValueError, KeyError):
            return None
        walk = walk if run.summary else walk.iloc[:-1]  # a killed run may have been cut off in its last line
    with np.errstate(over="ignore"):
        return walk.astype("float32").astype("float64")


def _contents(runs: Sequence[Run], kept: Sequence[Run], rows: int, about: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "about": about,
        "runs": len(runs),
        "experiments": sorted({str(run.config["experiment"]) for run in runs if run.config.get("experiment")}),
        "tasks": sorted({run.task for run in runs}),
        "optimizers": sorted({run.optimizer for run in runs}),
        "rows": sum(len(run.history) for run in kept),
        "rows_before_thinning": sum(len(run.history) for run in runs),
        "rows_of_a_long_history": rows,
    }


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an archive of recorded runs, or say what one holds."""
    from suite.config.messages import answered

    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    with answered(typed):
        return _write(options) if options.command == "write" else _read(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suite.archive", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write an archive of recorded runs")
    write.add_argument("folder", type=Path, help="results/reference/<name>")
    write.add_argument(
        "--runs", type=Path, nargs="+", default=[paths.results() / "runs"], metavar="DIR", help="%(default)s"
    )
    write.add_argument("--experiment", nargs="+", metavar="NAME", help="only the runs of these experiments")
    write.add_argument("--task", nargs="+", metavar="NAME", help="only these tasks")
    write.add_argument("--optimizer", nargs="+", metavar="NAME", help="only these optimizers")
    write.add_argument("--rows", type=int, default=ROWS, help="rows that a long history keeps, about (%(default)s)")
    write.add_argument("--about", default="", metavar="TEXT", help="a sentence that is kept with the runs")
    read = commands.add_parser("read", help="say what an archive holds")
    read.add_argument("folder", type=Path)
    return parser


def _write(options: argparse.Namespace) -> int:
    from suite.results.load import load_runs, load_timings

    runs: list[Run] = []
    timings: dict[Place, Timing] = {}
    for root in options.runs:
        found, damaged = load_runs(root)
        for damage in damaged:
            print(f"warning: skipped {damage.path}: {damage.reason}", file=sys.stderr)
        runs += [run for run in found if _wanted(run, options)]
        timings |= load_timings(root)
    used = {speed_key(run.config) for run in runs}
    kept = {place: one for place, one in timings.items() if one.key in used}
    write_archive(runs, options.folder, rows=options.rows, timings=kept, about=options.about)
    return _read(options)


def _wanted(run: Run, options: argparse.Namespace) -> bool:
    return (
        (options.experiment is None or run.config.get("experiment") in options.experiment)
        and (options.task is None or run.task in options.task)
        and (options.optimizer is None or run.optimizer in options.optimizer)
    )


def _read(options: argparse.Namespace) -> int:
    contents = read_contents(options.folder)
    runs = read_archive(options.folder)
    size = sum(file.stat().st_size for file in options.folder.iterdir())
    print(f"{options.folder}: {len(runs)} runs, {contents['rows']} rows, {size / 1000:.0f} kB")
    for key in ("about", "experiments", "tasks", "optimizers"):
        if contents.get(key):
            print(f"  {key}: {contents[key] if key == 'about' else ', '.join(contents[key])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
