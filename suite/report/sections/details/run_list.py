"""The runs behind the numbers: how each ended, and the command that repeats it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from suite.report.page.links import RUNS
from suite.report.section import PROBLEM, Content, Context, Section
from suite.report.sections.details.outcomes import repeating
from suite.results.frame import Records
from suite.tables.formats import NOT_RUN, count_text, number
from suite.tables.table import Cell, Table, make_table, runs_note


def section(context: Context) -> Content:
    """The table of all runs."""
    return Content([runs_table(context.records)])


def runs_table(records: Records) -> Table:
    """A row per run, pair by pair in the order of the other tables."""
    rows = [_row(run) for _, run in records.frame.iterrows()]
    caption = (
        "Every run behind this page's numbers: its last and its best value on the validation "
        "split, the last one on the test split, what it spent, its directory under the results, "
        "and the command that repeats it (one that is there already is run again only with "
        "force=true). ~ marks seconds from shared cores. "
    )
    return make_table(RUNS, "Runs", caption + runs_note(len(rows)), rows, groups="optimizer")


def _row(run: pd.Series[Any]) -> dict[str, Cell | str]:
    seconds = _cell(run["steps"] * run["seconds_per_step"], number)
    return {
        "optimizer": str(run["optimizer"]),
        "seed": Cell(str(run["seed"]), order=float(run["seed"])),
        "status": str(run["status"]),
        "final": _cell(run["final"], number),
        "best": _cell(run["best"], number),
        "test": _cell(run["test"], number),
        "steps": _cell(run["steps"], count_text),
        "target at step": _cell(run["target_step"], count_text),
        "seconds": Cell(f"~{seconds.text}", order=seconds.order)
        if run["parallel"] and seconds.order
        else seconds,
        "directory": str(run["path"]),
        "command": repeating(str(run["command"]), str(run["status"])),
    }


def _cell(value: float, show: Any) -> Cell:
    return Cell(NOT_RUN) if pd.isna(value) else Cell(show(float(value)), order=float(value))


SECTION = Section(RUNS, "Runs", {PROBLEM}, 250, section)
