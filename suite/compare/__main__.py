"""`python -m suite.compare kfac adamw task=mlp`: is A better than B, by how much, and are we sure?

One sentence a problem, from the runs there are: the ratio of steps, seconds and
gradient-equivalents that A and B need to reach the target, each with its 95 % interval, memory, how
many seeds arrive, and the verdict; under it the final values and what stands behind the figures.
`--all` ranks every method. docs/guide/comparing.md explains how to read it.

Words with `=` choose runs by their settings (task=mlp,cnn scale=quick optimizer.lr=0.1); level=80
takes another level than the target; 'kfac[lr=0.1]' names one of several configurations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from suite import paths
from suite.config import messages
from suite.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from suite.compare.sides import CostTable
    from suite.results.frame import Records


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
    from suite.compare import selection as paired  # now: --help need not wait for pandas
    from suite.compare.output import show
    from suite.compare.sides import CostTable
    from suite.compare.verdict import judge

    names = [word for word in options.words if "=" not in word.partition("[")[0]]
    given = dict(word.partition("=")[::2] for word in options.words if word not in names)
    if options.all:
        return _compare_all(options, names, given)
    if len(names) != 2:
        raise ConfigError(
            f"two methods are compared, got {len(names)}: python -m suite.compare kfac adamw "
            f"task=mlp\n"
            "All of them:  python -m suite.compare --all"
        )
    level = given.pop("level", None)
    first, second = (paired.method(name) for name in names)
    records = _records(options, given)
    across = [*_words(options.across), *(paired.DEVICE if options.mixed_devices else ())]
    pairs = paired.pairs(records, first, second, across)
    for said in paired.alone(records, first, second, pairs):
        print(f"not compared: {said}", file=sys.stderr)
    ledger = CostTable(records)
    verdicts = [
        judge(ledger, a, b, _level(ledger, a.problem, level), mixed=options.mixed_devices)
        for a, b in pairs
    ]
    show(ledger, verdicts, options.format)
    return 0


def _compare_all(options: argparse.Namespace, names: Sequence[str], given: dict[str, str]) -> int:
    """Rank all methods, or those that are named.

    Raises:
        ConfigError: there are fewer than two to rank on any problem.
    """
    from suite.compare.baseline import against_baseline
    from suite.compare.output import show_all
    from suite.compare.ranks import overall, standings
    from suite.compare.sides import CostTable
    from suite.compare.tables import matrix_table, rank_tables, stability_lines

    if names:
        given = {"optimizer": ",".join(names), **given}
    records = _records(options, given)
    ledger = CostTable(records)
    found = standings(ledger, options.unit, mixed=options.mixed_devices)
    if not found:
        there = ", ".join(records.optimizers)
        raise ConfigError(
            f"nothing to rank: on no problem there are runs of two methods, only of {there}"
        )
    verdicts = against_baseline(ledger, options.baseline, mixed=options.mixed_devices)
    total = overall(records, found)
    tables = [
        *([matrix_table(records, verdicts)] if verdicts else []),
        *reversed(rank_tables(records, found, total)),
    ]
    show_all(tables, stability_lines(total), options.format)
    return 0


def _records(options: argparse.Namespace, filters: dict[str, str]) -> Records:
    """The runs asked for, with warnings about what is left out.

    Raises:
        ConfigError: no run is left.
    """
    from suite.compare.selection import chosen
    from suite.results.frame import build_records
    from suite.results.load import load_runs, load_timings

    runs, damaged = load_runs(options.runs)
    if not runs:
        raise ConfigError(
            f"no runs in {options.runs}\nMake some:  python -m suite -m optimizer=adamw,kfac "
            f"seed=0,1,2"
        )
    for damage in damaged:
        print(f"warning: skipped {damage.path}: {damage.reason}", file=sys.stderr)
    if options.experiment is not None:
        filters = {"experiment": options.experiment, **filters}
    records = build_records(chosen(runs, filters), damaged, load_timings(options.runs))
    if records.repeats:
        print(
            f"warning: left out as repeats of a (configuration, seed): "
            f"{', '.join(records.repeats)}",
            file=sys.stderr,
        )
    return records


def _level(ledger: CostTable, problem: str, wanted: str | None) -> str | None:
    """The level's name in full.

    Raises:
        ConfigError: the problem has no such level.
    """
    if wanted is None:
        return None
    known = list(ledger.levels(problem))
    name = wanted if wanted in known else f"{wanted.rstrip(' %')} %"
    if name not in known:
        there = (
            f"It has: {', '.join(known)}" if known else "Set some: python -m suite.target task=..."
        )
        raise ConfigError(f"{problem} has no level {wanted}.{did_you_mean(wanted, known)} {there}")
    return name


def _words(text: str | None) -> list[str]:
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
