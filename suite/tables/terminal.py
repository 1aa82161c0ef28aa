"""The main table in the terminal, in blocks of columns where the window is narrow."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from suite.tables.table import Cell, Table

PADDING = 3


def print_table(table: Table, console: Console) -> None:
    """Print a table; without a terminal, where bold would be lost, a star marks the bold cells."""
    star = "" if console.is_terminal else "*"
    for columns in blocks(table, console.width):
        shown = RichTable(title=Text(table.title), title_justify="left", header_style="bold")
        for column in columns:
            shown.add_column(Text(table.columns[column]), no_wrap=column == 0)
        for row in table.rows:
            shown.add_row(*(_text(row[column], star) for column in columns))
        console.print(shown)
    console.print(Text(f"{table.caption}{' * stands for bold.' if star else ''}"), style="dim")


def blocks(table: Table, width: int) -> Iterator[list[int]]:
    """Groups of columns that fit the width, each led by the first column."""
    widths = [
        max(len(head), *(len(row[index].text) for row in table.rows)) + PADDING
        for index, head in enumerate(table.columns)
    ]
    block, used = [0], widths[0]
    for index in range(1, len(widths)):
        if len(block) > 1 and used + widths[index] > width:
            yield block
            block, used = [0], widths[0]
        block, used = [*block, index], used + widths[index]
    yield block


def _text(cell: Cell, star: str) -> Text:
    return Text(f"{star}{cell.text}", style="bold") if cell.bold else Text(cell.text)
