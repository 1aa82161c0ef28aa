"""Records to files: all tables, all figures, the page."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from suite.report.bars import cost_pictures
from suite.report.context import configuration_table, environment_table, outcome_tables, problem_table
from suite.report.costs import cost_tables
from suite.report.figures import HOW_TO_READ, curve_pictures
from suite.report.heatmap import heat_map
from suite.report.page import Section, render_page
from suite.report.records import Records
from suite.report.render import write_tables
from suite.report.results import main_table, results_table
from suite.report.style import Look, looks
from suite.report.table import Table
from suite.report.targets import target_tables

LIST = "files.txt"


def write_report(records: Records, out: Path, title: str, command: str) -> Table:
    """Write `index.html`, `tables/` and `figures/` under `out`; give back the main table.

    Raises:
        OSError: the folder cannot be written.
    """
    mpl.use("Agg")
    _remove_previous(out)
    sections = _sections(records, out / "figures")
    files = write_tables([table for section in sections for table in section.tables], out / "tables")
    records.frame.drop(columns="family_rank").to_csv(out / "tables" / "runs.csv", index=False)
    pictures = [picture.png for section in sections for picture in section.pictures]
    files += [out / "tables" / "runs.csv", *pictures, *(png.with_suffix(".pdf") for png in pictures)]
    (out / LIST).write_text("".join(f"{file.relative_to(out).as_posix()}\n" for file in files), encoding="utf-8")
    (out / "index.html").write_text(render_page(title, command, records, sections), encoding="utf-8")
    return sections[0].tables[0]


def _remove_previous(out: Path) -> None:
    """Remove the tables and figures of the report before, so that none of them outlives its runs."""
    listed = out / LIST
    for name in listed.read_text(encoding="utf-8").splitlines() if listed.exists() else ():
        if Path(name).parent.as_posix() in ("tables", "figures"):
            (out / name).unlink(missing_ok=True)


def _sections(records: Records, figures: Path) -> list[Section]:
    styles = _looks(records)
    outcomes = outcome_tables(records)
    return [
        Section("main", "Final validation metric", [main_table(records)], [heat_map(records, figures)]),
        Section("curves", "Curves", [], curve_pictures(records, styles, figures), HOW_TO_READ),
        Section("targets", "Target reached", target_tables(records), []),
        Section("costs", "Time and memory", cost_tables(records), cost_pictures(records, styles, figures)),
        Section("outcomes", "Outcomes and their reasons", outcomes, [], "" if outcomes else "Every run finished."),
        Section("results", "Results in full", [results_table(records)], []),
        Section("problems", "Problems", [problem_table(records)], []),
        Section("configurations", "Configurations", [configuration_table(records)], []),
        Section("environment", "Environment", [table for table in [environment_table(records)] if table.rows], []),
    ]


def _looks(records: Records) -> dict[str, Look]:
    named = records.frame.drop_duplicates("optimizer").set_index("optimizer")
    return looks([(name, str(named.loc[name, "name"]), str(named.loc[name, "family"])) for name in records.optimizers])
