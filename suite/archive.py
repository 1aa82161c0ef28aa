"""`python -m suite.archive`: write an archive of runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from suite import paths
from suite.config import words
from suite.results.archive import read_archive, read_contents, write_archive
from suite.results.downsample import ROWS
from suite.results.run import Run
from suite.results.select import select
from suite.results.timings import Place, Timing, speed_key

# -- the command -----------------------------------------------------------------------------------


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
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="only the runs of these settings: task=mlp,cnn",
    )
    write.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        default=[paths.results() / "runs"],
        metavar="DIR",
        help="%(default)s",
    )
    write.add_argument(
        "--experiment", nargs="+", metavar="NAME", help="only the runs of these experiments"
    )
    write.add_argument("--task", nargs="+", metavar="NAME", help="only these tasks")
    write.add_argument("--optimizer", nargs="+", metavar="NAME", help="only these optimizers")
    write.add_argument(
        "--rows", type=int, default=ROWS, help="rows that a long history keeps, about (%(default)s)"
    )
    write.add_argument(
        "--about", default="", metavar="TEXT", help="a sentence that is kept with the runs"
    )
    read = commands.add_parser("read", help="say what an archive holds")
    read.add_argument("folder", type=Path)
    return parser


def _write(options: argparse.Namespace) -> int:
    from suite.results.load import load_runs, load_timings

    runs: list[Run] = []
    timings: dict[Place, Timing] = {}
    for root in options.runs:
        read, damaged = load_runs(root)
        for damage in damaged:
            print(f"warning: skipped {damage.path}: {damage.reason}", file=sys.stderr)
        runs += read
        timings |= load_timings(root)
    flags = {key: getattr(options, key) for key in ("experiment", "task", "optimizer")}
    runs = select(runs, words.filters(options.words, flags))
    used = {speed_key(run.config) for run in runs}
    matching = {place: one for place, one in timings.items() if one.key in used}
    write_archive(runs, options.folder, rows=options.rows, timings=matching, about=options.about)
    return _read(options)


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
