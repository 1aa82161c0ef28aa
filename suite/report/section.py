"""A section of the report: its place, its input and its content."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from suite.report.drawing.canvas import Picture
from suite.report.drawing.style import Look
from suite.results.frame import Records
from suite.tables.table import Table

OVERALL = "overall"  # the page on all problems
PROBLEM = "problem"  # the page of each problem
TABLES = "tables"  # the folder of tables on all problems, beside those that the overall page shows


@dataclass(frozen=True)
class Context:
    """The input of a section.

    Attributes:
        page: of the section, `OVERALL`, `PROBLEM` or `TABLES`.
        records: the runs of the page; a problem's page has that problem's runs alone.
        styles: the look of each optimizer.
        figures: the folder for pictures whose file names are the same on every page.
        named_figures: the folder for pictures whose file names contain the problem's name.
        trials: the trials of tuning, a row each.
        allow: the modules, beside this suite's, from which a task may be built for a landscape.
    """

    page: str
    records: Records
    styles: Mapping[str, Look]
    figures: Path
    named_figures: Path
    trials: pd.DataFrame
    allow: Sequence[str] = ()


@dataclass(frozen=True)
class Content:
    """A note on how to read what follows, findings a line each, then tables and pictures."""

    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    note: str = ""
    lines: Sequence[str] = ()

    @property
    def is_shown(self) -> bool:
        """Whether anything is to be shown; a page leaves out a section without content."""
        return bool(self.tables or self.pictures or self.note)


@dataclass(frozen=True)
class Section:
    """A part of the report that makes its own content.

    Attributes:
        anchor: its address on a page, `#anchor`.
        title: its heading.
        pages: where it stands: any of `OVERALL`, `PROBLEM` and `TABLES`.
        order: its place; sections stand in ascending order.
        make: the function from the input to the content.
        printed: whether its first table is printed to the terminal, too.
    """

    anchor: str
    title: str
    pages: Collection[str]
    order: int
    make: Callable[[Context], Content]
    printed: bool = False
