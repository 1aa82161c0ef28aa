"""A table as Markdown, LaTeX (booktabs) and CSV.

Each format escapes its own markup.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from suite.tables.latex import latex
from suite.tables.table import Cell, Table


def write_tables(tables: list[Table], folder: Path) -> list[Path]:
    """Write `<name>.md`, `<name>.tex` and `<name>.csv` of every table; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in tables:
        for suffix, text in (
            ("md", markdown(table)),
            ("tex", latex(table)),
            ("csv", csv_text(table)),
        ):
            written.append(folder / f"{table.name}.{suffix}")
            written[-1].write_text(text, encoding="utf-8")
    return written


def markdown(table: Table) -> str:
    """A GitHub-flavoured table between its title and its caption."""
    lines = [_line(map(escape_markdown, table.columns)), _line("---" for _ in table.columns)]
    lines += [_line(_markdown_cell(cell) for cell in row) for row in table.rows]
    return "\n".join(
        [f"**{escape_markdown(table.title)}**", "", *lines, "", escape_markdown(table.caption), ""]
    )


def csv_text(table: Table) -> str:
    """The cells' plain text; the numbers behind them are in runs.csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return buffer.getvalue()


def escape_markdown(text: str) -> str:
    """Text that GitHub shows as it is.

    Emphasis, strike-through, links, mathematics, HTML and column breaks are escaped.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.bold else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
