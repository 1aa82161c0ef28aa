"""A table: one frame of cells, rendered to a page, Markdown, LaTeX, CSV and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Cell:
    """What a cell says.

    Attributes:
        text: the words, the same in every format.
        bold: whether it is among the best.
        order: the number that a click on the column's head sorts by.
        source: the problem and the optimizer whose runs it was computed from; the page links to
            them.
    """

    text: str
    bold: bool = False
    order: float | None = None
    source: tuple[str, str] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Table:
    """A frame of cells with its file name, its title and a caption that says how to read it.

    `groups` names a column; rows that agree in it can be linked to together.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    groups: str = ""

    @property
    def columns(self) -> list[str]:
        """The heads of the columns."""
        return [str(column) for column in self.frame.columns]

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells, row by row."""
        return [list(row) for row in self.frame.itertuples(index=False, name=None)]


def make_table(
    name: str, title: str, caption: str, rows: Sequence[Mapping[str, Cell | str]], groups: str = ""
) -> Table:
    """A table from rows of cells; plain text stands for a cell that sorts by its text."""
    cells = [
        {key: Cell(cell) if isinstance(cell, str) else cell for key, cell in row.items()}
        for row in rows
    ]
    return Table(name, title, caption, pd.DataFrame(cells, dtype=object), groups)


def runs_note(count: int) -> str:
    """The closing sentence of every caption."""
    return f"From {count} run{'s' if count != 1 else ''}."
