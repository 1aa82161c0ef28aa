"""One self-contained HTML page: tables that sort, figures as data URIs, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from suite.report.canvas import Picture
from suite.report.context import status_counts
from suite.report.records import Records
from suite.report.table import Table

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class Section:
    """A heading with a note on how to read what follows, then tables and pictures, in this order."""

    anchor: str
    title: str
    tables: list[Table]
    pictures: list[Picture]
    note: str = ""


def render_page(title: str, command: str, records: Records, sections: list[Section]) -> str:
    """The page as text; everything that comes from a record is escaped by the template's autoescaping."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=title,
        command=command,
        records=records,
        sections=[section for section in sections if section.tables or section.pictures or section.note],
        statuses=status_counts(records.frame),
        seeds=sorted(set(records.frame["seed"])),
        data_uri=_data_uri,
    )


def _data_uri(picture: Path) -> Markup:
    kind = Markup(picture.suffix.removeprefix("."))
    return Markup("data:image/") + kind + Markup(";base64,") + base64.b64encode(picture.read_bytes()).decode("ascii")
