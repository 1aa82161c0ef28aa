"""A table as Markdown, LaTeX (booktabs) and CSV; each escapes what its own format would take as markup."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from suite.report.table import Cell, Table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}", "±": r"$\pm$", "∞": r"$\infty$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "—": "---", "·": r"$\cdot$", "…": r"\dots{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def write_tables(tables: list[Table], folder: Path) -> list[Path]:
    """Write `<name>.md`, `<name>.tex` and `<name>.csv` of every table, and give back what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in tables:
        for suffix, text in (("md", markdown(table)), ("tex", latex(table)), ("csv", csv_text(table))):
            written.append(folder / f"{table.name}.{suffix}")
            written[-1].write_text(text, encoding="utf-8")
    return written


def markdown(table: Table) -> str:
    """A GitHub-flavoured table between its title and its caption."""
    lines = [_line(map(escape_markdown, table.columns)), _line("---" for _ in table.columns)]
    lines += [_line(_markdown_cell(cell) for cell in row) for row in table.rows]
    return "\n".join([f"**{escape_markdown(table.title)}**", "", *lines, "", escape_markdown(table.caption), ""])


def latex(table: Table) -> str:
    """A table environment of the booktabs package."""
    lines = [_latex_line(map(escape_latex, table.columns)), r"\midrule"]
    lines += [_latex_line(_latex_cell(cell) for cell in row) for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}  % needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
            r"\centering",
            rf"\caption{{{escape_latex(table.title)}. {escape_latex(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def csv_text(table: Table) -> str:
    """The cells' plain text; the numbers behind them are in runs.csv."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return buffer.getvalue()


def escape_markdown(text: str) -> str:
    """Text that GitHub shows as it is: no emphasis, strike-through, links, mathematics, HTML or column breaks."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return f"**{text}**" if cell.bold else text


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
