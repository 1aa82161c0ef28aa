"""Records to files: all tables, all figures, the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from suite.report.animation import animations
from suite.report.bars import cost_pictures
from suite.report.context import configuration_table, environment_table, outcome_tables, problem_table
from suite.report.convergence import HOW_TO_READ as ORDERS_READ
from suite.report.convergence import convergences, order_pictures, order_tables
from suite.report.costs import cost_tables
from suite.report.figures import HOW_TO_READ, curve_pictures
from suite.report.heatmap import heat_map
from suite.report.landscape import HOW_TO_READ as LANDSCAPES_READ
from suite.report.landscape import landscape_pictures
from suite.report.page import Section, render_page
from suite.report.records import Records
from suite.report.render import write_tables
from suite.report.results import main_table, results_table
from suite.report.style import Look, looks
from suite.report.table import Table
from suite.report.targets import target_tables
from suite.report.telemetry import HOW_TO_READ as TELEMETRY_READ
from suite.report.telemetry import telemetry_pictures
from suite.report.trails import Planes, planes

LIST = "files.txt"
PRINTED = ("main", "orders")  # the sections whose first table is worth the terminal


def write_report(records: Records, out: Path, title: str, command: str, allow: Sequence[str] = ()) -> list[Table]:
    """Write `index.html`, `tables/` and `figures/` under `out`; give back the tables for the terminal, main one first.

    `allow` names the modules, beside this suite's, from which a task may come whose landscape is to be drawn.

    Raises:
        OSError: the folder cannot be written.
    """
    mpl.use("Agg")
    _remove_previous(out)
    sections = _sections(records, out / "figures", allow)
    files = write_tables([table for section in sections for table in section.tables], out / "tables")
    records.frame.drop(columns="family_rank").to_csv(out / "tables" / "runs.csv", index=False)
    pictures = [picture.file for section in sections for picture in section.pictures]
    pages = [picture.with_suffix(".pdf") for picture in pictures]
    files += [out / "tables" / "runs.csv", *pictures, *(page for page in pages if page.exists())]
    (out / LIST).write_text("".join(f"{file.relative_to(out).as_posix()}\n" for file in files), encoding="utf-8")
    (out / "index.html").write_text(render_page(title, command, records, sections), encoding="utf-8")
    return [section.tables[0] for section in sections if section.anchor in PRINTED and section.tables]


def _remove_previous(out: Path) -> None:
    """Remove the tables and figures of the report before, so that none of them outlives its runs."""
    listed = out / LIST
    for name in listed.read_text(encoding="utf-8").splitlines() if listed.exists() else ():
        if Path(name).parent.as_posix() in ("tables", "figures"):
            (out / name).unlink(missing_ok=True)


def _sections(records: Records, figures: Path, allow: Sequence[str]) -> list[Section]:
    styles = _looks(records)
    outcomes = outcome_tables(records)
    return [
        Section("main", "Final validation metric", [main_table(records)], [heat_map(records, figures)]),
        Section("curves", "Curves", [], curve_pictures(records, styles, figures), HOW_TO_READ),
        _telemetry(records, styles, figures),
        _landscapes(planes(records, allow), styles, figures),
        _orders(records, styles, figures),
        Section("targets", "Target reached", target_tables(records), []),
        Section("costs", "Time and memory", cost_tables(records), cost_pictures(records, styles, figures)),
        Section("outcomes", "Outcomes and their reasons", outcomes, [], "" if outcomes else "Every run finished."),
        Section("results", "Results in full", [results_table(records)], []),
        Section("problems", "Problems", [problem_table(records)], []),
        Section("configurations", "Configurations", [configuration_table(records)], []),
        Section("environment", "Environment", [table for table in [environment_table(records)] if table.rows], []),
    ]


def _telemetry(records: Records, styles: dict[str, Look], figures: Path) -> Section:
    pictures = telemetry_pictures(records, styles, figures)
    return Section("telemetry", "Telemetry", [], pictures, TELEMETRY_READ if pictures else "")


def _landscapes(found: Planes, styles: dict[str, Look], figures: Path) -> Section:
    skipped = f" Not drawn: {'; '.join(found.skipped)}." if found.skipped else ""
    note = f"{LANDSCAPES_READ}{skipped}" if found.drawn or skipped else ""
    still = landscape_pictures(found.drawn, styles, figures)
    moving = animations(found.drawn, styles, figures)
    pictures = [picture for pair in zip(still, moving, strict=True) for picture in pair]
    return Section("landscapes", "Landscapes", [], pictures, note)


def _orders(records: Records, styles: dict[str, Look], figures: Path) -> Section:
    found = convergences(records)
    tables, pictures = order_tables(found, records.optimizers), order_pictures(found, styles, figures)
    return Section("orders", "Order of convergence", tables, pictures, ORDERS_READ if found else "")


def _looks(records: Records) -> dict[str, Look]:
    named = records.frame.drop_duplicates("optimizer").set_index("optimizer")
    return looks([(name, str(named.loc[name, "name"]), str(named.loc[name, "family"])) for name in records.optimizers])
