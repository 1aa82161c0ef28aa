"""Runs that neither finished nor reached their target, with the reason and the command."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.report.sections.details.cells import seeds_text
from suite.results.frame import Records
from suite.results.run import FINISHED
from suite.tables.table import Cell, Table, make_table, runs_note

LONGEST_MESSAGE = 300
# the suite skips runs that ended like this: they would end the same way
ASK_BY_FORCE = ("diverged", "timeout", "unsupported")


def section(context: Context) -> Content:
    """The table of failures, or a note that every run finished."""
    tables = outcome_tables(context.records)
    return Content(tables, note="" if tables else "Every run finished.")


def status_counts(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs ended in each status, the most frequent first."""
    counts = Counter(map(str, runs["status"]))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def outcome_tables(records: Records) -> list[Table]:
    """Every run that neither finished nor reached its target, grouped, with the reason.

    No table if every run finished.
    """
    failed = records.frame[~records.frame["status"].isin(FINISHED)]
    rows = [
        _outcome_row(records, group)
        for _, group in failed.groupby(
            ["problem", "family_rank", "optimizer", "status"], sort=False
        )
    ]
    caption = (
        "Every run that neither finished nor reached its target, the reason that was recorded, and "
        "the command that repeats the first of them. "
    )
    table = make_table(
        "outcomes", "Outcomes and their reasons", caption + runs_note(len(failed)), rows
    )
    return [table] if rows else []


def _outcome_row(records: Records, group: pd.DataFrame) -> dict[str, Cell | str]:
    first = group.iloc[0]
    total = len(records.pair(first["problem"], first["optimizer"]))
    messages = "; ".join(dict.fromkeys(message for message in group["message"] if message))
    return {
        "problem": str(first["problem"]),
        "optimizer": str(first["optimizer"]),
        "status": str(first["status"]),
        "runs": Cell(f"{len(group)}/{total}", order=len(group) / total),
        "seeds": seeds_text(group),
        "reason": messages
        if len(messages) <= LONGEST_MESSAGE
        else f"{messages[:LONGEST_MESSAGE]}…",
        "command": repeating(str(first["command"]), str(first["status"])),
        "directory": str(first["path"]),
    }


def repeating(command: str, status: str) -> str:
    """The command that repeats a run; a cached failure needs `force=true`."""
    return f"{command} force=true" if command and status in ASK_BY_FORCE else command


SECTION = Section("outcomes", "Outcomes and their reasons", {OVERALL, PROBLEM}, 200, section)
