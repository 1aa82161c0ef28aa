"""What a sweep shows: a line for each run as it ends, and a closing table of outcomes."""

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

from suite.training import layer_coverage

if TYPE_CHECKING:
    from suite.config.plan import Plan
    from suite.training.runner import Outcome

FILE = "SUITE_SWEEP_FILE"
TOTAL = "SUITE_SWEEP_TOTAL"
LONGEST = 30


def note_outcome(plan: Plan, outcome: Outcome) -> None:
    """Print a run's outcome in a line, and append it to the sweep's list if there is one."""
    summary = outcome.summary
    value = summary.get(f"final_{outcome.metric}")
    entry = {
        "task": plan.task,
        "optimizer": plan.optimizer,
        "seed": plan.seed,
        "status": summary["status"],
        "metric": outcome.metric,
        "value": value,
        "seconds": summary["seconds"],
        "message": summary["message"],
        "skipped": outcome.skipped,
        "command": plan.command,
        "run": str(plan.directory),
    }
    place = f"[{plan.number}/{plan.total}] " if plan.total > 1 else ""
    print(f"{place}{plan.title}: {_in_words(entry)}", flush=True)
    if plan.total == 1:
        if summary.get("coverage"):
            print(f"  {layer_coverage.in_words(summary['coverage'])}", flush=True)
        print(f"  {plan.directory}", flush=True)
    if path := os.environ.get(FILE):
        with open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")


def _in_words(entry: dict[str, Any]) -> str:
    again = " (done before, skipped; force=true repeats it)" if entry["skipped"] else ""
    value = "" if entry["value"] is None else f", {entry['metric']} {entry['value']:.4g}"
    seconds = f", {entry['seconds']:.1f} s of steps" if entry["seconds"] else ""
    why = f": {entry['message']}" if entry["message"] else ""
    return f"{entry['status']}{value}{seconds}{again}{why}"


class SweepCallback(Callback):
    """Counts the runs of a sweep before it starts and prints their outcomes when it has ended."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[FILE] = str(folder / "outcomes.jsonl")
        os.environ[TOTAL] = str(_count(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        path = Path(os.environ.pop(FILE, ""))
        os.environ.pop(TOTAL, None)
        if path.is_file():
            print_outcomes([json.loads(line) for line in path.read_text().splitlines()])


def as_typed(overrides: Any) -> list[str]:
    """Overrides as they were typed.

    `${...}` in them is not resolved, nor escaped, as Hydra does for a sweep's runs.
    """
    kept: Any = OmegaConf.to_container(overrides, resolve=False)
    return [override.replace("$\\{", "${").replace("\\}", "}") for override in kept]


def _count(config: DictConfig) -> int:
    """How many runs the sweep's lists multiply to."""
    given = as_typed(config.hydra.overrides.task)
    named = {override.split("=")[0] for override in given}
    params = config.hydra.sweeper.get("params") or {}
    given += [f"{key}={value}" for key, value in params.items() if key not in named]
    parsed = OverridesParser.create().parse_overrides(given)
    return prod(len(BasicSweeper.split_arguments([item], None)[0]) for item in parsed)


def print_outcomes(entries: list[dict[str, Any]]) -> None:
    """The closing table: a row a run, or a row for each pair where there are many runs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    entries.sort(key=lambda entry: (entry["task"], entry["optimizer"], entry["seed"]))
    short = len(entries) <= LONGEST
    table = Table(title=f"{len(entries)} runs", title_justify="left", header_style="bold")
    for column in (
        "task",
        "optimizer",
        "seed" if short else "seeds",
        "outcome",
        "final metric",
        "seconds",
    ):
        table.add_column(column, overflow="fold")
    if short:
        table.add_column("to repeat it", overflow="fold")
    groups = (
        [[entry] for entry in entries]
        if short
        else [list(g) for _, g in groupby(entries, key=_pair)]
    )
    for group in groups:
        cells = [*_cells(group), *([group[0]["command"] + " force=true"] if short else [])]
        table.add_row(
            *map(escape, cells)
        )  # [a, b] is a list of names in a command, and markup to rich
    console = (
        Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)
    )
    console.print(table)
    for entry in _worth_a_reason(entries):
        console.print(
            f"{entry['optimizer']} on {entry['task']}: {entry['status']}: {entry['message']}",
            markup=False,
        )
        console.print(
            f"    {entry['command']} force=true", markup=False, highlight=False, soft_wrap=True
        )


def _pair(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["task"], entry["optimizer"]


def _cells(group: list[dict[str, Any]]) -> list[str]:
    values = [entry["value"] for entry in group if entry["value"] is not None]
    mean = f"{group[0]['metric']} {sum(values) / len(values):.4g}" if values else "—"
    words = [entry["status"] + (" (skipped)" if entry["skipped"] else "") for entry in group]
    outcome = ", ".join(
        w if words.count(w) == len(words) else f"{w} {words.count(w)}/{len(words)}"
        for w in _unique(words)
    )
    seconds = sum(entry["seconds"] or 0.0 for entry in group)
    seeds = ", ".join(str(seed) for seed in _unique(entry["seed"] for entry in group))
    return [group[0]["task"], group[0]["optimizer"], seeds, outcome, mean, f"{seconds:.1f}"]


def _worth_a_reason(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One run of each pair and status that has something to say."""
    seen = {
        (_pair(entry), entry["status"]): entry for entry in reversed(entries) if entry["message"]
    }
    return list(reversed(seen.values()))


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
