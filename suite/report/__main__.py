"""`python -m suite.report`: read the run directories, write the report, print its main table."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from suite import paths

if TYPE_CHECKING:
    from suite.results.load import Run

EXAMPLE = "python -m suite optimizer=adam task=mlp"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report.

    Returns:
        0; 2 where there is no run to report on or the report cannot be written.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)

    # Imported only now: --help and a wrong option answer at once.
    from rich.console import Console

    from suite.report.report import write_report
    from suite.results.frame import build_records
    from suite.results.load import load_runs, load_timings
    from suite.tables.terminal import print_table

    runs, damaged = load_runs(options.runs)
    for damage in damaged:
        print(f"warning: skipped {damage.path}: {damage.reason}", file=sys.stderr)
    chosen = [run for run in runs if _wanted(run, options)]
    if not chosen:
        print(_nothing(runs, options), file=sys.stderr)
        return 2
    records = build_records(chosen, damaged, load_timings(options.runs))
    if records.repeats:
        print(
            "warning: left out as repeats of a (configuration, seed): "
            f"{', '.join(records.repeats)}",
            file=sys.stderr,
        )
    title = (
        f"Optimizer comparison: {options.experiment}"
        if options.experiment
        else "Optimizer comparison"
    )
    try:
        command = shlex.join(["python", "-m", "suite.report", *typed])
        paper = options.out / "paper" if options.paper is True else options.paper
        tables = write_report(records, options.out, title, command, options.allow, paper)
    except OSError as error:
        print(f"error: the report cannot be written: {error}", file=sys.stderr)
        return 2
    console = Console()
    for table in tables:
        print_table(table, console)
    console.print(
        f"report: {options.out / 'index.html'}", markup=False, highlight=False, soft_wrap=True
    )
    if paper is not None:
        console.print(
            f"paper:  {paper / 'main.tex'}", markup=False, highlight=False, soft_wrap=True
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    results = paths.results()
    parser = argparse.ArgumentParser(prog="python -m suite.report", description=__doc__)
    parser.add_argument(
        "--runs", type=Path, default=results / "runs", metavar="DIR", help="the runs (%(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=results / "report",
        metavar="DIR",
        help="the report (%(default)s)",
    )
    parser.add_argument("--experiment", metavar="NAME", help="only the runs of this experiment")
    parser.add_argument("--task", nargs="+", metavar="NAME", help="only these tasks")
    parser.add_argument("--optimizer", nargs="+", metavar="NAME", help="only these optimizers")
    parser.add_argument(
        "--paper",
        nargs="?",
        type=Path,
        const=True,
        metavar="DIR",
        help="also figures, tables and a main.tex ready for LaTeX (in the report's paper/ unless "
        "DIR is given)",
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="draw the landscapes of this module's tasks too",
    )
    return parser


def _wanted(run: Run, options: argparse.Namespace) -> bool:
    return (
        (options.experiment is None or run.config.get("experiment") == options.experiment)
        and (options.task is None or run.task in options.task)
        and (options.optimizer is None or run.optimizer in options.optimizer)
    )


def _nothing(runs: Sequence[Run], options: argparse.Namespace) -> str:
    """Why there is nothing to report, and what to type."""
    if not runs:
        return (
            f"no runs in {options.runs}\nmake some with:  make compare\n           or:  {EXAMPLE}"
        )
    there = {
        "experiments": {
            str(run.config["experiment"]) for run in runs if run.config.get("experiment")
        },
        "tasks": {run.task for run in runs},
        "optimizers": {run.optimizer for run in runs},
    }
    lines = [f"  {kind}: {', '.join(sorted(names)) or 'none'}" for kind, names in there.items()]
    return "\n".join([f"none of the {len(runs)} runs in {options.runs} matches; they have", *lines])


if __name__ == "__main__":
    sys.exit(main())
