"""Addresses in the report: a page for each problem, and on it the runs of each optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from suite.report.drawing.canvas import slugs
from suite.results.frame import Records
from suite.tables.table import Cell, Table

OVERVIEW = "index.html"
FOLDER = "tasks"
RUNS = "runs"  # the table of runs on a problem's page


@dataclass(frozen=True)
class Links:
    """The addresses of problems and of the runs behind a number, as one page sees them.

    Attributes:
        problems: a file name for each problem's label.
        optimizers: an anchor for each optimizer's label.
        inside: whether the page that links is itself a problem's.
    """

    problems: Mapping[str, str]
    optimizers: Mapping[str, str]
    inside: bool = False

    def problem(self, label: str) -> str:
        """The page of a problem; empty for an unknown label."""
        if label not in self.problems:
            return ""
        return f"{'' if self.inside else f'{FOLDER}/'}{self.problems[label]}.html"

    def runs(self, problem: str, optimizer: str) -> str:
        """The runs of a pair; empty for an unknown pair."""
        page, anchor = self.problem(problem), self.optimizers.get(optimizer)
        return f"{page}#{RUNS}-{anchor}" if page and anchor else ""

    def addresses(self, table: Table) -> list[list[str]]:
        """The address behind each cell, by its source or its column; empty for none."""
        return [self._row(table, cells) for cells in table.rows]

    def _row(self, table: Table, cells: Sequence[Cell]) -> list[str]:
        texts = {column: cell.text for column, cell in zip(table.columns, cells, strict=True)}
        problem = texts.get("problem", "")
        own = {"problem": self.problem(problem)}
        if table.name != RUNS:
            own["optimizer"] = self.runs(problem, texts.get("optimizer", ""))
        return [
            self.runs(*cell.source) if cell.source else own.get(column, "")
            for column, cell in zip(table.columns, cells, strict=True)
        ]


def links_of(records: Records, *, inside: bool = False) -> Links:
    """The links of a report on these records."""
    return Links(slugs(records.problems), slugs(records.optimizers), inside)
