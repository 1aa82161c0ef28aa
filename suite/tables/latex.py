"""A table in LaTeX (booktabs), as papers print it.

A table fits a page: a wide or long one is split into parts.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from suite.tables.formats import NOT_RUN
from suite.tables.table import Cell, Table

# characters that \footnotesize sets into 6.5 inches, the space between columns counted as two
ACROSS = 104
DOWN = 44  # lines of \footnotesize on a page beside the caption
LONG = 34  # characters; longer cells are broken into lines
SPACE = 2
LABELS = ("problem", "optimizer")  # columns that lead every part of a table that is too wide
SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    '"': r"\textquotedbl{}",
    "…": r"\dots{}",
    "—": "---",
    "\u2013": "--",
    "\u2019": "'",
    "\u2018": "`",
    "\u201c": "``",
    "\u201d": "''",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\to$",
    "·": r"$\cdot$",
    "\u00d7": r"$\times$",
    "\u2212": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "≠": r"$\ne$",
    "∈": r"$\in$",
    "√": r"$\surd$",
    "∑": r"$\sum$",
    "²": "$^2$",
    "³": "$^3$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "★": r"$\star$",
    "†": r"\dag{}",
    "✓": r"$\surd$",
}
GREEK = "GREEK SMALL LETTER "


@dataclass(frozen=True)
class Column:
    """A column as it is set.

    Its place in the table, its head in one or two lines, its width in characters.
    """

    place: int
    head: tuple[str, ...]
    wanted: int
    width: int
    number: bool

    @property
    def spec(self) -> str:
        """How `tabular` calls it: numbers to the right, words to the left, long words in lines."""
        if self.width < self.wanted:
            return rf">{{\raggedright\arraybackslash}}p{{{self.width / 2:.1f}em}}"
        return "r" if self.number else "l"


Part = tuple[list[Column], list[list[Cell]]]


def latex(table: Table) -> str:
    """Table environments of the booktabs package: one, or a part after the other."""
    parts = _parts(table)
    return "\n".join(
        _environment(table, part, number, len(parts)) for number, part in enumerate(parts, 1)
    )


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(map(_character, " ".join(text.split())))


def _character(character: str) -> str:
    if character in SPECIAL or character.isascii():
        return SPECIAL.get(character, character)
    name = unicodedata.name(character, "")
    if name.startswith(GREEK):
        return rf"$\{name.removeprefix(GREEK).removeprefix('FINAL ').lower()}$"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(one, one) for one in plain) or f"U+{ord(character):04X}"


def _environment(table: Table, part: Part, number: int, count: int) -> str:
    columns, rows = part
    title = escape_latex(table.title) + (f" (part {number} of {count})" if count > 1 else "")
    caption = f"{title}. {escape_latex(table.caption)}" if number == 1 else f"{title}."
    lines = [_line(map(_head, columns)), r"\midrule"]
    lines += [_line(_cell(row[column.place], column) for column in columns) for row in rows]
    return "\n".join(
        [
            r"\begin{table}[!ht]  % needs \usepackage{array,booktabs} and \usepackage[T1]{fontenc}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{table.name}{f'-{number}' if number > 1 else ''}}}",
            rf"\begin{{tabular}}{{{''.join(column.spec for column in columns)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _parts(table: Table) -> list[Part]:
    """The table cut into blocks of columns that fit a page's width, and these into its height."""
    rows = table.rows
    blocks = _blocks([_column(table, place) for place in range(len(table.columns))])
    return [(block, piece) for block in blocks for piece in _pieces(block, rows)]


def _column(table: Table, place: int) -> Column:
    cells = list(table.frame.iloc[:, place])
    longest = max((len(cell.text) for cell in cells), default=0)
    name = table.columns[place]
    first, _, second = name.partition(": ")
    head = (f"{first}:", second) if second and len(name) > longest else (name,)
    wanted = max(longest, *map(len, head))
    known = [cell for cell in cells if cell.text not in ("", NOT_RUN)]
    number = bool(known) and all(cell.order is not None for cell in known)
    return Column(place, head, wanted, wanted, number)


def _blocks(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns side by side as far as they fit, the labels again at the head of every block."""
    if _width(columns) <= ACROSS:
        return [list(columns)]
    narrow = [replace(column, width=min(column.wanted, LONG)) for column in columns]
    lead = [column for column in narrow if column.head[0] in LABELS] or narrow[:1]
    blocks = [list(lead)]
    for column in narrow:
        if column in lead:
            continue
        if len(blocks[-1]) > len(lead) and _width([*blocks[-1], column]) > ACROSS:
            blocks.append(list(lead))
        blocks[-1].append(column)
    return list(map(_widened, blocks))


def _widened(block: Sequence[Column]) -> list[Column]:
    """Give what is left of the page's width to the columns that are broken into lines."""
    broken = [column for column in block if column.width < column.wanted]
    spare = max(0, ACROSS - _width(block)) // max(1, len(broken))
    return [replace(column, width=min(column.wanted, column.width + spare)) for column in block]


def _pieces(block: Sequence[Column], rows: Sequence[list[Cell]]) -> Iterator[list[list[Cell]]]:
    piece: list[list[Cell]] = []
    used = 0
    for row in rows:
        lines = max(
            math.ceil(1.15 * len(row[column.place].text) / max(column.width, 1)) for column in block
        )
        lines = max(lines, 1) if any(column.width < column.wanted for column in block) else 1
        if piece and used + lines > DOWN:
            yield piece
            piece, used = [], 0
        piece.append(row)
        used += lines
    yield piece


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width + SPACE for column in columns)


def _head(column: Column) -> str:
    lines = [escape_latex(line) for line in column.head]
    return lines[0] if len(lines) == 1 else rf"\shortstack[{column.spec}]{{{lines[0]}\\{lines[1]}}}"


def _cell(cell: Cell, column: Column) -> str:
    text = escape_latex(cell.text)
    if (
        column.width < column.wanted
    ):  # the names of classes and settings would stick out of their lines
        text = re.sub(r"(?<=[^ \d])([.=/])(?=[^ ])", r"\1\\allowbreak{}", text)
    return rf"\textbf{{{text}}}" if cell.bold else text


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
