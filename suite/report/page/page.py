"""Self-contained HTML pages: tables that sort, figures as data URIs, nothing from the net."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from suite.report.drawing.canvas import slugs
from suite.report.page.links import Links
from suite.report.section import Content
from suite.results.run import Damage
from suite.tables.table import Cell, Table

TEMPLATE = "page.html.jinja"
MOST_ROWS = 12  # of a table that repeats what the problems' pages show and is open at once
LONG = 48  # characters of a cell that may be broken into lines
PROBLEM = "problem"


@dataclass(frozen=True)
class Block:
    """A section as a page shows it: its heading with an address, and its content."""

    anchor: str
    title: str
    content: Content


@dataclass(frozen=True)
class Fact:
    """A line at the head of a page.

    Attributes:
        name: the term.
        values: words or commands.
        code: whether the values are commands.
        addresses: of the values, if they are links.
    """

    name: str
    values: Sequence[str]
    code: bool = False
    addresses: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """One file of the report.

    Attributes:
        title: its heading.
        facts: above the blocks.
        blocks: its sections; those without any content are left out.
        crumbs: (name, address) of the pages above it; the address of the overview is relative to
            this page.
        beside: (word, name, address) of the pages before and after it.
        damaged: directories that could not be read.
        repeats: directories left out as repeats.
    """

    title: str
    facts: Sequence[Fact]
    blocks: Sequence[Block]
    crumbs: Sequence[tuple[str, str]] = ()
    beside: Sequence[tuple[str, str, str]] = ()
    damaged: Sequence[Damage] = ()
    repeats: Sequence[str] = ()


@dataclass(frozen=True)
class Datum:
    """A cell as the page shows it."""

    cell: Cell
    address: str
    column: str

    @property
    def long(self) -> bool:
        """Whether its text may take several lines."""
        return len(self.cell.text) > LONG


@dataclass(frozen=True)
class Row:
    """A row as the page shows it: its cells, its group, whether it is the group's first."""

    data: Sequence[Datum]
    group: str = ""
    first: bool = False


def render_page(page: Page, links: Links) -> str:
    """The page as text; the template escapes all that comes from a record."""
    return _template().render(
        page=page,
        blocks=[block for block in page.blocks if block.content.is_shown],
        columns=lambda table: _columns(table, links),
        rows=lambda table: _rows(table, links),
        folded=lambda table: _folded(table, links),
        data_uri=_data_uri,
        prose=_prose,
    )


def _folded(table: Table, links: Links) -> bool:
    """Whether the overall page folds a table: a long one with a row for every pair."""
    pairs = {"problem", "optimizer"} <= set(table.columns)
    return pairs and not links.inside and len(table.frame) > MOST_ROWS


def _columns(table: Table, links: Links) -> list[str]:
    """The heads of the columns; a problem's own page does not repeat its name in every row."""
    return [column for column in table.columns if not (links.inside and column == PROBLEM)]


def _rows(table: Table, links: Links) -> list[Row]:
    columns = table.columns
    shown = [columns.index(column) for column in _columns(table, links)]
    groups = [cell.text for cell in table.frame[table.groups]] if table.groups else []
    anchors = {**slugs(dict.fromkeys(groups)), **links.optimizers}
    firsts = {name: place for place, name in reversed(list(enumerate(groups)))}
    rows = []
    for place, (cells, addresses) in enumerate(
        zip(table.rows, links.addresses(table), strict=True)
    ):
        data = [Datum(cells[index], addresses[index], columns[index]) for index in shown]
        group = f"{table.name}-{anchors[groups[place]]}" if groups else ""
        rows.append(Row(data, group, bool(groups) and firsts[groups[place]] == place))
    return rows


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _prose(text: str) -> Markup:
    """Text whose `names` stand between backquotes."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _data_uri(picture: Path) -> Markup:
    kind = Markup(picture.suffix.removeprefix("."))
    return (
        Markup("data:image/")
        + kind
        + Markup(";base64,")
        + base64.b64encode(picture.read_bytes()).decode("ascii")
    )
