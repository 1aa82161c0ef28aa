"""Sections of the report, one file each, in folders by the question that they answer.

A file is picked up from this folder, at any depth: no list of sections exists. It names a function
from a `Context` to a `Content`, and the pages of the result:

    from suite.report.section import OVERALL, PROBLEM, Content, Context, Section

    def section(context: Context) -> Content:
        return Content(tables=[...], pictures=[...], note="How to read it.")

    SECTION = Section("anchor", "Title", pages={OVERALL, PROBLEM}, order=165, make=section)

`context.records` holds the runs of the page. A `Content` without tables, pictures and note leaves
the section out. A file without a `Section` helps others, and one with several, under any names,
has a title for each page.
"""

from __future__ import annotations

import importlib
import pkgutil

from suite.report.section import Section


def collect() -> list[Section]:
    """The sections of all files beneath this folder, in the order of the pages."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(__path__, f"{__name__}.")
    ]
    values = [value for module in modules for value in vars(module).values()]
    sections = {id(value): value for value in values if isinstance(value, Section)}
    return sorted(sections.values(), key=lambda section: section.order)
