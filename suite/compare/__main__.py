"""`python -m suite.compare kfac adamw task=mlp`: is A better than B, by how much, and are we sure?

One sentence a problem, from the recorded runs: the ratio of steps, seconds and gradient-equivalents
that A and B need to reach the target, each with its 95 % interval, memory, the number of seeds that
reach the target, and the verdict; under it the final values and the grounds of the figures.
`--all` ranks every method. docs/guide/comparing.md explains how to read it.

Words with `=` choose runs by their settings (task=mlp,cnn scale=quick optimizer.lr=0.1); level=80
takes another level than the target; 'kfac[lr=0.1]' names one of several configurations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from suite import paths
from suite.config import messages, words
from suite.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdicts.

    Returns:
        0; 2 where the comparison asked for cannot be made.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    with messages.answered(typed):
        return _compare(options)


def _compare(options: argparse.Namespace) -> int:
    names = [word for word in options.words if "=" not in word.partition("[")[0]]
    settings = [word for word in options.words if word not in names]
    filters = words.filters(settings, {"experiment": options.experiment})
    if options.all:
        return _compare_all(options, names, filters)
    if len(names) != 2:
        raise ConfigError(
            f"two methods are compared, got {len(names)}: python -m suite.compare kfac adamw "
            f"task=mlp\n"
            "All of them:  python -m suite.compare --all"
        )
    return _compare_two(options, names, filters)


def _compare_two(options: argparse.Namespace, names: Sequence[str], filters: dict[str, str]) -> int:
    from suite.compare import selection  # now: --help need not wait for pandas
    from suite.compare.comparison import compare_methods
    from suite.compare.output import show
    from suite.results.select import load_records

    level = filters.pop("level", None)
    records = load_records(options.runs, filters)
    mixed = options.mixed_devices
    across = [*_keys(options.across), *(selection.DEVICE if mixed else ())]
    comparison = compare_methods(records, *names, level=level, across=across, mixed=mixed)
    for problem in comparison.unpaired:
        print(f"not compared: {problem}", file=sys.stderr)
    show(comparison.table, comparison.verdicts, options.format)
    return 0


def _compare_all(options: argparse.Namespace, names: Sequence[str], filters: dict[str, str]) -> int:
    """Rank all methods, or those that are named.

    Raises:
        ConfigError: there are fewer than two to rank on any problem.
    """
    from suite.compare.baseline import against_baseline
    from suite.compare.output import show_all
    from suite.compare.ranks import overall, rank_methods
    from suite.compare.sides import CostTable
    from suite.compare.tables import matrix_table, rank_tables, stability_lines
    from suite.results.select import load_records

    if names:
        filters = {"optimizer": ",".join(names), **filters}
    records = load_records(options.runs, filters)
    table = CostTable(records)
    rankings = rank_methods(table, options.unit, mixed=options.mixed_devices)
    if not rankings:
        methods = ", ".join(records.optimizers)
        raise ConfigError(
            f"nothing to rank: on no problem there are runs of two methods, only of {methods}"
        )
    verdicts = against_baseline(table, options.baseline, mixed=options.mixed_devices)
    total = overall(records, rankings)
    tables = [
        *([matrix_table(records, verdicts)] if verdicts else []),
        *reversed(rank_tables(records, rankings, total)),
    ]
    show_all(tables, stability_lines(total), options.format)
    return 0


def _keys(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m suite.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="METHOD or KEY=VALUE",
        help="two methods, and settings that choose runs",
    )
    add(
        "--runs",
        type=Path,
        default=paths.results() / "runs",
        metavar="DIR",
        help="the runs (%(default)s)",
    )
    add("--experiment", metavar="NAME", help="only the runs of this experiment")
    add("--all", action="store_true", help="rank every method, on each problem and overall")
    add(
        "--baseline",
        metavar="NAME",
        help="with --all: what the others are set against (who set the targets)",
    )
    add("--unit", choices=("steps", "seconds", "grad_equivalents"), help="with --all: rank by this")
    add("--mixed-devices", action="store_true", help="compare seconds of different machines")
    add(
        "--across",
        metavar="KEYS",
        help="compare problems that differ in these settings only, such as steps",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", dest="format", action="store_const", const="json", help="as JSON")
    shape.add_argument(
        "--markdown", dest="format", action="store_const", const="markdown", help="as Markdown"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
