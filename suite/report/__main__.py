"""`python -m suite.report`: read the run directories, write the report, print its main table."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from suite import paths
from suite.config import words
from suite.errors import ConfigError

FLAGS = ("experiment", "task", "optimizer")  # filters that are flags too


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report.

    Returns:
        0; 2 where there is no run to report on or the report cannot be written.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    try:
        _report(options, shlex.join(["python", "-m", "suite.report", *typed]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the report cannot be written: {error}", file=sys.stderr)
        return 2
    return 0


def _report(options: argparse.Namespace, command: str) -> None:
    from rich.console import Console  # now: --help and a wrong option answer at once

    from suite.report.report import write_report
    from suite.results.select import load_records
    from suite.tables.terminal import print_table

    flags = {key: getattr(options, key) for key in FLAGS}
    filters = words.filters(options.words, flags)
    records = load_records(options.runs, filters)
    title = ": ".join(["Optimizer comparison", *filter(None, [filters.get("experiment")])])
    paper = options.out / "paper" if options.paper is True else options.paper
    tables = write_report(records, options.out, title, command, options.allow, paper)
    console = Console()
    for table in tables:
        print_table(table, console)
    lines = [f"report: {options.out / 'index.html'}"]
    lines += [] if paper is None else [f"paper:  {paper / 'main.tex'}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    results = paths.results()
    parser = argparse.ArgumentParser(prog="python -m suite.report", description=__doc__)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="only runs with this setting: experiment=quick task=mlp,cnn optimizer.lr=0.1",
    )
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


if __name__ == "__main__":
    sys.exit(main())
