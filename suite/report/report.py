"""Records to files: all tables, all figures, the overall page and a page for each problem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from rich.console import Console
from rich.progress import track

from suite import paths
from suite.report.drawing.canvas import also_for_paper, slugs
from suite.report.drawing.style import Look, looks
from suite.report.drawing.trajectories import Planes, planes
from suite.report.page.links import FOLDER, OVERVIEW, Links, links_of
from suite.report.page.manifest import list_files, remove_previous
from suite.report.page.page import Fact, Page, Section, render_page
from suite.report.page.paper import FIGURES, Chapter, write_paper
from suite.report.sections.answers import (
    critical_difference,
    ecdf,
    profiles,
    seeds_per_level,
    verdicts,
)
from suite.report.sections.answers.final_metrics import main_table, results_table
from suite.report.sections.answers.heatmap import heat_map
from suite.report.sections.answers.overview import overview_table
from suite.report.sections.answers.targets import target_tables
from suite.report.sections.costs import break_even, pareto, phases
from suite.report.sections.costs.cost_bars import cost_pictures
from suite.report.sections.costs.time_and_memory import cost_tables
from suite.report.sections.details.run_list import runs_table
from suite.report.sections.details.settings import (
    configuration_table,
    environment_table,
    outcome_tables,
    problem_table,
    status_counts,
)
from suite.report.sections.progress.animations import animations
from suite.report.sections.progress.convergence_order import HOW_TO_READ as ORDERS_READ
from suite.report.sections.progress.convergence_order import (
    convergences,
    order_pictures,
    order_tables,
)
from suite.report.sections.progress.curves import HOW_TO_READ, curve_pictures
from suite.report.sections.progress.landscapes import HOW_TO_READ as LANDSCAPES_READ
from suite.report.sections.progress.landscapes import landscape_pictures
from suite.report.sections.progress.telemetry import HOW_TO_READ as TELEMETRY_READ
from suite.report.sections.progress.telemetry import telemetry_pictures
from suite.report.sections.tuning import lr_sensitivity, tuning_budgets
from suite.report.sections.tuning.search_spaces import space_table
from suite.results.frame import Records, only
from suite.tables.markdown import write_tables
from suite.tables.table import Table
from suite.tune import load_trials

PRINTED = ("main", "orders")  # the sections whose first table is worth the terminal
MOVED = ("curves", "telemetry", "landscapes", "configurations")  # found on the problems' pages


@dataclass(frozen=True)
class Making:
    """What a report is made with.

    Attributes:
        out: its folder.
        title: the heading of the overall page.
        command: what repeats it.
        allow: the modules, beside this suite's, from which a task may come whose landscape is to be
            drawn.
        paper: the folder for LaTeX, if it is asked for.
        trials: what tuning has tried.
    """

    out: Path
    title: str
    command: str
    allow: Sequence[str]
    paper: Path | None
    trials: pd.DataFrame

    @property
    def figures(self) -> Path:
        """Where the figures go."""
        return self.out / "figures"


def write_report(
    records: Records,
    out: Path,
    title: str,
    command: str,
    allow: Sequence[str] = (),
    paper: Path | None = None,
) -> list[Table]:
    """Write `index.html`, `tasks/`, `tables/` and `figures/`.

    Give back the tables for the terminal, main one first.

    `allow` names the modules, beside this suite's, from which a task may come whose landscape is to
    be drawn; `paper` is the folder for LaTeX, if it is asked for.

    Raises:
        OSError: the folder cannot be written.
    """
    mpl.use("Agg")
    making = Making(out, title, command, allow, paper, load_trials(paths.results()))
    remove_previous(out, ("tables", "figures", FOLDER))
    if paper is not None:
        remove_previous(paper, ("tables", "figures"))
    with also_for_paper(making.figures, None if paper is None else paper / FIGURES):
        return _write(records, making)


def _write(records: Records, making: Making) -> list[Table]:
    out, paper = making.out, making.paper
    styles, links = _looks(records), links_of(records)
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    sections = _sections(records, styles, making.figures)
    (out / OVERVIEW).write_text(
        render_page(_overview(records, sections, links, making), links), encoding="utf-8"
    )
    files = write_tables(
        [*(table for section in sections for table in section.tables), *_configurations(records)],
        out / "tables",
    )
    records.frame.drop(columns="family_rank").to_csv(out / "tables" / "runs.csv", index=False)
    files += [out / "tables" / "runs.csv", *_files_of(sections)]
    chapters = [Chapter("", "", sections)]
    for problem in _progress(records.problems):
        page, content = _problem_page(records, problem, styles, links, making)
        chapters.append(Chapter(problem, links.problems[problem], content))
        files += [page, *_files_of(content)]
    list_files(out, files)
    if paper is not None:
        write_paper(paper, out / "figures", chapters, records, making.command)
    return [
        section.tables[0] for section in sections if section.anchor in PRINTED and section.tables
    ]


def _sections(records: Records, styles: dict[str, Look], figures: Path) -> list[Section]:
    """What the overall page shows: everything that looks at several problems at once."""
    outcomes = outcome_tables(records)
    return [
        Section("overview", "Problems at a glance", [overview_table(records)], []),
        Section(
            "main", "Final validation metric", [main_table(records)], [heat_map(records, figures)]
        ),
        verdicts.section(records, styles, figures),
        critical_difference.section(records, styles, figures),
        profiles.section(records, styles, figures),
        ecdf.section(records, styles, figures),
        break_even.section(records, styles, figures),
        pareto.section(records, styles, figures),
        Section("targets", "Target reached", target_tables(records), []),
        _orders_at_a_glance(records),
        Section(
            "costs",
            "Time and memory",
            cost_tables(records),
            cost_pictures(records, styles, figures),
        ),
        Section(
            "outcomes",
            "Outcomes and their reasons",
            outcomes,
            [],
            "" if outcomes else "Every run finished.",
        ),
        Section("results", "Results in full", [results_table(records)], []),
        Section("problems", "Settings of the problems", [problem_table(records)], []),
        _environment(records),
    ]


def _problem_sections(
    records: Records, styles: dict[str, Look], figures: Path, own: Path, making: Making
) -> list[Section]:
    """What a problem's page shows; `records` hold that problem alone.

    Pictures whose names tell the problem go to `figures`, those that every problem has under one
    name to its `own`.
    """
    trials = making.trials
    outcomes = outcome_tables(records)
    return [
        Section("results", "Results", [results_table(records)], []),
        verdicts.section(records, styles, own),
        Section("curves", "Curves", [], curve_pictures(records, styles, figures), HOW_TO_READ),
        Section("targets", "Target reached", target_tables(records), []),
        seeds_per_level.section(records, styles, own),
        _telemetry(records, styles, figures),
        _landscapes(planes(records, making.allow), styles, figures),
        _orders(records, styles, figures),
        Section("costs", "Time and memory", cost_tables(records), []),
        phases.section(records, styles, own),
        tuning_budgets.section(records, styles, own, trials),
        lr_sensitivity.section(records, styles, own, trials),
        Section(
            "outcomes",
            "Outcomes and their reasons",
            outcomes,
            [],
            "" if outcomes else "Every run finished.",
        ),
        Section("configurations", "Configurations and search spaces", _configurations(records), []),
        Section("problems", "The problem's settings", [problem_table(records)], []),
        _environment(records),
        Section("runs", "Runs", [runs_table(records)], []),
    ]


# -- pages -----------------------------------------------------------------------------------------


def _overview(records: Records, sections: Sequence[Section], links: Links, making: Making) -> Page:
    problems = Fact(
        "Problems", records.problems, addresses=[links.problem(label) for label in records.problems]
    )
    return Page(
        making.title,
        [problems, *_facts(records, making.command)],
        sections,
        damaged=records.damaged,
        repeats=records.repeats,
        moved=MOVED,
    )


def _problem_page(
    records: Records, problem: str, styles: dict[str, Look], links: Links, making: Making
) -> tuple[Path, list[Section]]:
    """Draw and write one problem's page; give back its path and what is on it."""
    mine, slug = only(records, problem), links.problems[problem]
    # Section functions name their files by the labels they see: labels that differ in punctuation
    # alone need folders.
    figures = making.figures if slugs([problem])[problem] == slug else making.figures / slug
    sections = _problem_sections(mine, styles, figures, making.figures / slug, making)
    place = records.problems.index(problem)
    near = (("Previous", place - 1), ("Next", place + 1))
    around = [(word, records.problems[to]) for word, to in near if 0 <= to < len(records.problems)]
    page = Page(
        problem,
        _facts(mine, making.command),
        sections,
        crumbs=[(making.title, f"../{OVERVIEW}")],
        beside=[(word, name, f"{links.problems[name]}.html") for word, name in around],
    )
    path = making.out / FOLDER / f"{slug}.html"
    path.write_text(render_page(page, replace(links, inside=True)), encoding="utf-8")
    return path, sections


def _facts(records: Records, command: str) -> list[Fact]:
    statuses = ", ".join(
        f"{many} {status}" for status, many in status_counts(records.frame).items()
    )
    return [
        Fact("Optimizers", records.optimizers),
        Fact("Seeds", [str(seed) for seed in sorted(set(records.frame["seed"]))]),
        Fact("Runs", [f"{len(records.frame)}: {statuses}"]),
        Fact("Made by", [command], code=True),
    ]


def _files_of(sections: Iterable[Section]) -> list[Path]:
    """The pictures, and the PDF files beside them."""
    pictures = [picture.file for section in sections for picture in section.pictures]
    return [
        *pictures,
        *(pdf for pdf in (picture.with_suffix(".pdf") for picture in pictures) if pdf.exists()),
    ]


def _progress(problems: Sequence[str]) -> Iterable[str]:
    """The problems, with a bar on standard error while their pages are drawn.

    None where nobody looks at it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return problems
    return track(problems, "pages", console=console, transient=True)


# -- sections --------------------------------------------------------------------------------------


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
    tables, pictures = (
        order_tables(found, records.optimizers),
        order_pictures(found, styles, figures),
    )
    return Section(
        "orders", "Order of convergence", tables[1:], pictures, ORDERS_READ if found else ""
    )


def _orders_at_a_glance(records: Records) -> Section:
    tables = order_tables(convergences(records), records.optimizers)
    return Section("orders", "Order of convergence", tables, [], ORDERS_READ if tables else "")


def _configurations(records: Records) -> list[Table]:
    spaces = space_table(records)
    return [configuration_table(records), *([spaces] if spaces else [])]


def _environment(records: Records) -> Section:
    return Section(
        "environment",
        "Environment",
        [table for table in [environment_table(records)] if table.rows],
        [],
    )


def _looks(records: Records) -> dict[str, Look]:
    named = records.frame.drop_duplicates("optimizer").set_index("optimizer")
    return looks(
        [
            (name, str(named.loc[name, "name"]), str(named.loc[name, "family"]))
            for name in records.optimizers
        ]
    )
