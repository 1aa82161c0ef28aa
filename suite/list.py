"""Optimizers and tasks: `python -m suite.list [optimizers|tasks] [--full] [--config-dir PATH]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from suite.config import registry
from suite.config.instantiate import locate
from suite.errors import ConfigError


def optimizer_table(folders: Sequence[Path], allow: Sequence[str], full: bool = True) -> Table:
    """A row an optimizer, family by family: its needs beyond gradients; in full state and paper."""
    table = Table(title="Optimizers (optimizer=...)", title_justify="left", header_style="bold")
    columns = ("name", "needs", "what it is", *(("state", "paper") if full else ()))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    families: dict[str, list[tuple[str, ...]]] = {}
    for name in registry.names("optimizer", folders):
        node = registry.read("optimizer", name, folders)
        needs = _declared(str(node.get("_target_")), "needs", allow)
        about = (str(registry.about(node).get(key, "—")) for key in ("state", "paper"))
        row = (name, needs, registry.description("optimizer", name, folders), *about)
        families.setdefault(registry.family(node), []).append(row[: len(columns)])
    for family in sorted(families, key=lambda family: (family != registry.FIRST_ORDER, family)):
        table.add_section()
        table.add_row(f"[bold italic]{escape(family)}:[/]")
        for row in families[family]:
            table.add_row(*map(escape, row))
    return table


def task_table(folders: Sequence[Path], allow: Sequence[str], full: bool = True) -> Table:
    """A row a task: its metric and description; in full also its offers beyond gradients."""
    table = Table(title="Tasks (task=...)", title_justify="left", header_style="bold")
    columns = ("name", "metric", "what it is", *(("offers",) if full else ()))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for name in registry.names("task", folders):
        target = str(registry.read("task", name, folders).get("_target_"))
        metric = f"{_declared(target, 'metric', allow)} ({_declared(target, 'direction', allow)})"
        offers = _declared(target, "offers", allow)
        cells = (name, metric, registry.description("task", name, folders), offers)
        table.add_row(*map(escape, cells[: len(columns)]))
    return table


def _declared(target: str, attribute: str, allow: Sequence[str]) -> str:
    """A class's declaration in words; the error for a class that cannot be imported."""
    try:
        value: Any = getattr(locate(target, allow), attribute, frozenset())
    except ConfigError as error:
        return f"({error})"
    return value if isinstance(value, str) else ", ".join(sorted(value)) or "—"


WIDE = 140  # columns of text from which nothing is left out
TABLES = {"optimizers": optimizer_table, "tasks": task_table}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m suite.list", description="List optimizers and tasks."
    )
    parser.add_argument(
        "what", nargs="?", choices=sorted(TABLES), help="only these (default: both)"
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        action="append",
        default=[],
        help="a folder with YAML of your own",
    )
    parser.add_argument(
        "--allow", action="append", default=[], help="a module that a _target_ of yours may name"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help=f"all columns, in fewer than {WIDE} columns of text, too",
    )
    _print(parser.parse_args())


def _print(options: argparse.Namespace) -> None:
    known_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if known_width else WIDE)  # a file or a pipe is wide
    full = options.full or console.width >= WIDE
    for name, table in TABLES.items():
        if options.what in (None, name):
            console.print(table(options.config_dir, options.allow, full))
    if not full:
        hidden = "state (numbers kept), paper, what a task offers."
        console.print(f"With --full, or from {WIDE} columns on: {hidden}", highlight=False)


if __name__ == "__main__":
    main()
