"""Hyperparameters of every optimizer, and where they lie in the search spaces."""

from __future__ import annotations

from suite.report.section import PROBLEM, TABLES, Content, Context, Section
from suite.report.sections.details.cells import settings_text
from suite.report.sections.details.search_spaces import space_table
from suite.results.frame import Records
from suite.tables.table import Cell, Table, make_table, runs_note


def section(context: Context) -> Content:
    """The hyperparameters, and the search spaces where any run recorded one."""
    spaces = space_table(context.records)
    return Content([configuration_table(context.records), *([spaces] if spaces else [])])


def configuration_table(records: Records) -> Table:
    """The hyperparameters behind each optimizer's label, problem by problem."""
    rows: list[dict[str, Cell | str]] = [
        {
            "problem": problem,
            "optimizer": name,
            "family": str(runs["family"].iloc[0]).replace("_", " "),
            "runs": Cell(str(len(runs)), order=len(runs)),
            "settings": settings_text(records.optimizer_settings[problem, name]),
        }
        for problem, name, runs in records.pairs()
    ]
    caption = "The resolved hyperparameters of every optimizer on every problem. "
    return make_table(
        "configurations", "Configurations", caption + runs_note(len(records.frame)), rows
    )


SECTION = Section(
    "configurations", "Configurations and search spaces", {PROBLEM, TABLES}, 220, section
)
