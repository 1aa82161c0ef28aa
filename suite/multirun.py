"""The runs of a sweep: a failure is a result, each end is a line, a table of outcomes closes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from suite.errors import FatalConfigError
from suite.training.measures import layer_coverage

if TYPE_CHECKING:
    from rich.table import Table

    from suite.config.plan import Plan
    from suite.training.runner import Outcome

FILE = "SUITE_SWEEP_FILE"
TOTAL = "SUITE_SWEEP_TOTAL"
LONGEST = 30  # runs that the closing table lists one by one
COLUMNS = ("outcome", "final metric", "seconds")
WIDTH = 160  # columns of the table where it goes to a file or a pipe

Entry = dict[str, Any]


def run_of_a_sweep(plan: Plan) -> Outcome:
    """The outcome of one run of a sweep; one that cannot be built is recorded as a failure.

    Raises:
        FatalConfigError: the mistake concerns every run of the sweep.
    """
    # torch comes with it, and --help need not wait
    from suite.training.runner import record_failure, run

    try:
        return run(plan)
    except FatalConfigError:
        raise
    except Exception as error:
        return record_failure(plan, error)


def note_outcome(plan: Plan, outcome: Outcome) -> None:
    """Print a run's outcome in a line, and append it to the sweep's list if there is one."""
    entry = entry_of(plan, outcome)
    place = f"[{plan.number}/{plan.total}] " if plan.total > 1 else ""
    print(f"{place}{plan.title}: {in_words(entry)}", flush=True)
    if plan.total == 1:
        if outcome.summary.get("coverage"):
            print(f"  {layer_coverage.in_words(outcome.summary['coverage'])}", flush=True)
        print(f"  {plan.directory}", flush=True)
    if path := os.environ.get(FILE):
        with open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")


def entry_of(plan: Plan, outcome: Outcome) -> Entry:
    """A run's row in the sweep's list."""
    summary = outcome.summary
    return {
        "task": plan.task,
        "optimizer": plan.optimizer,
        "seed": plan.seed,
        "status": summary["status"],
        "metric": outcome.metric,
        "value": summary.get(f"final_{outcome.metric}"),
        "seconds": summary["seconds"],
        "message": summary["message"],
        "skipped": outcome.skipped,
        "command": plan.command,
        "run": str(plan.directory),
    }


def in_words(entry: Entry) -> str:
    """`done, accuracy 0.95, 2.1 s of steps`, with the message of a run that failed."""
    parts = [entry["status"]]
    if entry["value"] is not None:
        parts.append(f", {entry['metric']} {entry['value']:.4g}")
    if entry["seconds"]:
        parts.append(f", {entry['seconds']:.1f} s of steps")
    if entry["skipped"]:
        parts.append(" (done before, skipped; force=true repeats it)")
    if entry["message"]:
        parts.append(f": {entry['message']}")
    return "".join(parts)


class SweepCallback(Callback):
    """Counts the runs of a sweep before it starts and prints their outcomes when it has ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name, in the environment, the list of outcomes and the number of runs."""
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[FILE] = str(folder / "outcomes.jsonl")
        os.environ[TOTAL] = str(_count(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the outcomes that the runs listed."""
        path = Path(os.environ.pop(FILE, ""))
        os.environ.pop(TOTAL, None)
        if path.is_file():
            print_outcomes([json.loads(line) for line in path.read_text().splitlines()])


def as_typed(overrides: Any) -> list[str]:
    """Overrides as they were typed, without the escapes that Hydra adds for a sweep's runs."""
    words: Any = OmegaConf.to_container(overrides, resolve=False)
    return [word.replace("$\\{", "${").replace("\\}", "}") for word in words]


def _count(config: DictConfig) -> int:
    """How many runs the sweep's lists multiply to."""
    words = as_typed(config.hydra.overrides.task)
    named = {word.split("=")[0] for word in words}
    params = config.hydra.sweeper.get("params") or {}
    words += [f"{key}={value}" for key, value in params.items() if key not in named]
    parsed = OverridesParser.create().parse_overrides(words)
    return prod(len(BasicSweeper.split_arguments([item], None)[0]) for item in parsed)


def print_outcomes(entries: list[Entry]) -> None:
    """The closing table: a row a run, or a row for each pair where there are many runs."""
    from rich.console import Console

    entries.sort(key=lambda entry: (entry["task"], entry["optimizer"], entry["seed"]))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)
    console.print(_table(entries))
    for entry in _worth_a_reason(entries):
        reason = f"{entry['optimizer']} on {entry['task']}: {entry['status']}: {entry['message']}"
        console.print(reason, markup=False)
        again = f"    {entry['command']} force=true"
        console.print(again, markup=False, highlight=False, soft_wrap=True)


def _table(entries: list[Entry]) -> Table:
    """Short sweeps have a row a run with its command, long ones a row a pair."""
    from rich.markup import escape
    from rich.table import Table

    short = len(entries) <= LONGEST
    columns = ["task", "optimizer", "seed" if short else "seeds", *COLUMNS]
    table = Table(title=f"{len(entries)} runs", title_justify="left", header_style="bold")
    for column in [*columns, *(["to repeat it"] if short else [])]:
        table.add_column(column, overflow="fold")
    groups = [[entry] for entry in entries] if short else _pairs(entries)
    for group in groups:
        cells = [*_cells(group), *([group[0]["command"] + " force=true"] if short else [])]
        table.add_row(*map(escape, cells))  # [a, b] in a command is no markup
    return table


def _pairs(entries: list[Entry]) -> list[list[Entry]]:
    return [list(group) for _, group in groupby(entries, key=_pair)]


def _pair(entry: Entry) -> tuple[str, str]:
    return entry["task"], entry["optimizer"]


def _cells(group: list[Entry]) -> list[str]:
    values = [entry["value"] for entry in group if entry["value"] is not None]
    mean = f"{group[0]['metric']} {sum(values) / len(values):.4g}" if values else "—"
    words = [entry["status"] + (" (skipped)" if entry["skipped"] else "") for entry in group]
    seconds = sum(entry["seconds"] or 0.0 for entry in group)
    seeds = ", ".join(str(seed) for seed in _unique(entry["seed"] for entry in group))
    return [group[0]["task"], group[0]["optimizer"], seeds, _shares(words), mean, f"{seconds:.1f}"]


def _shares(words: list[str]) -> str:
    """`done`, or `done 2/3, diverged 1/3` where the runs of a pair ended differently."""
    counts = {word: words.count(word) for word in words}
    if len(counts) == 1:
        return words[0]
    return ", ".join(f"{word} {count}/{len(words)}" for word, count in counts.items())


def _worth_a_reason(entries: list[Entry]) -> list[Entry]:
    """One run of each pair and status that has something to say."""
    seen = {
        (_pair(entry), entry["status"]): entry for entry in reversed(entries) if entry["message"]
    }
    return list(reversed(seen.values()))


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
