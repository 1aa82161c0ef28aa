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
from suite.report.page.links import FOLDER, OVERVIEW, Links, links_of
from suite.report.page.manifest import list_files, remove_previous
from suite.report.page.page import Block, Fact, Page, render_page
from suite.report.page.paper import FIGURES, Chapter, write_paper
from suite.report.section import OVERALL, PROBLEM, TABLES, Context, Section
from suite.report.sections import collect
from suite.report.sections.details.outcomes import status_counts
from suite.results.frame import Records, only
from suite.tables.markdown import write_tables
from suite.tables.table import Table
from suite.tune import load_trials


@dataclass(frozen=True)
class Report:
    """A report to be written.

    Attributes:
        records: all runs of the report.
        sections: all sections, in their order.
        styles: the look of each optimizer.
        links: the addresses within the report.
        trials: the trials of tuning.
        out: the folder of the report.
        title: the heading of the overall page.
        command: what repeats the report.
        allow: the modules, beside this suite's, from which a task may be built for a landscape.
        paper: the folder for LaTeX, if it is asked for.
    """

    records: Records
    sections: Sequence[Section]
    styles: dict[str, Look]
    links: Links
    trials: pd.DataFrame
    out: Path
    title: str
    command: str
    allow: Sequence[str]
    paper: Path | None

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.out / "figures"

    def blocks(
        self, page: str, records: Records, figures: Path, named_figures: Path
    ) -> list[Block]:
        """The sections of a page with their contents, drawn and tabulated from some records."""
        context = Context(
            page, records, self.styles, figures, named_figures, self.trials, self.allow
        )
        return [
            Block(section.anchor, section.title, section.make(context))
            for section in self.sections
            if page in section.pages
        ]


def write_report(
    records: Records,
    out: Path,
    title: str,
    command: str,
    allow: Sequence[str] = (),
    paper: Path | None = None,
) -> list[Table]:
    """Write `index.html`, `tasks/`, `tables/` and `figures/`.

    Args:
        records: the runs to report on.
        out: the folder of the report; files of an earlier report in it are removed.
        title: the heading of the overall page.
        command: what repeats the report.
        allow: the modules, beside this suite's, from which a task may be built for a landscape.
        paper: the folder for LaTeX, if it is asked for.

    Returns:
        The tables for the terminal, the main one first.

    Raises:
        OSError: the folder cannot be written.
    """
    mpl.use("Agg")
    trials, styles, links = load_trials(paths.results()), _looks(records), links_of(records)
    report = Report(records, collect(), styles, links, trials, out, title, command, allow, paper)
    remove_previous(out, ("tables", "figures", FOLDER))
    if paper is not None:
        remove_previous(paper, ("tables", "figures"))
    with also_for_paper(report.figures, None if paper is None else paper / FIGURES):
        return _write(report)


def _write(report: Report) -> list[Table]:
    records, out, figures = report.records, report.out, report.figures
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    blocks = report.blocks(OVERALL, records, figures, figures)
    _write_page(_overview(report, blocks), out / OVERVIEW, report.links)
    chapters, files = [Chapter("", "", blocks)], _write_tables(report, blocks)
    files += _figure_files(blocks)
    for problem in _progress(records.problems):
        own = only(records, problem)
        blocks = _problem_blocks(report, problem, own)
        file = out / FOLDER / f"{report.links.problems[problem]}.html"
        page = _problem_page(report, problem, own, blocks)
        _write_page(page, file, replace(report.links, inside=True))
        chapters.append(Chapter(problem, report.links.problems[problem], blocks))
        files += [file, *_figure_files(blocks)]
    list_files(out, files)
    if report.paper is not None:
        write_paper(report.paper, figures, chapters, records, report.command)
    printed = {section.anchor for section in report.sections if section.printed}
    shown = [block for block in chapters[0].blocks if block.anchor in printed]
    return [block.content.tables[0] for block in shown if block.content.tables]


# -- files -----------------------------------------------------------------------------------------


def _write_page(page: Page, file: Path, links: Links) -> None:
    file.write_text(render_page(page, links), encoding="utf-8")


def _write_tables(report: Report, overall: Sequence[Block]) -> list[Path]:
    """Write the tables on all problems, also those on no page, and a row for every run."""
    folder, figures = report.out / "tables", report.figures
    blocks = [*overall, *report.blocks(TABLES, report.records, figures, figures)]
    files = write_tables([table for block in blocks for table in block.content.tables], folder)
    report.records.frame.drop(columns="family_rank").to_csv(folder / "runs.csv", index=False)
    return [*files, folder / "runs.csv"]


def _figure_files(blocks: Iterable[Block]) -> list[Path]:
    """The pictures, and the PDF files beside them."""
    pictures = [picture.file for block in blocks for picture in block.content.pictures]
    vectors = [picture.with_suffix(".pdf") for picture in pictures]
    return [*pictures, *(file for file in vectors if file.exists())]


# -- pages -----------------------------------------------------------------------------------------


def _overview(report: Report, blocks: Sequence[Block]) -> Page:
    records = report.records
    addresses = [report.links.problem(label) for label in records.problems]
    problems = Fact("Problems", records.problems, addresses=addresses)
    return Page(
        report.title,
        [problems, *_facts(records, report.command)],
        blocks,
        damaged=records.damaged,
        repeats=records.repeats,
    )


def _problem_blocks(report: Report, problem: str, records: Records) -> list[Block]:
    slug = report.links.problems[problem]
    # Sections name their files by the labels that they see: labels that differ in punctuation
    # alone need folders.
    distinct = slugs([problem])[problem] == slug
    named_figures = report.figures if distinct else report.figures / slug
    return report.blocks(PROBLEM, records, report.figures / slug, named_figures)


def _problem_page(report: Report, problem: str, records: Records, blocks: Sequence[Block]) -> Page:
    problems = report.records.problems
    place = problems.index(problem)
    near = (("Previous", place - 1), ("Next", place + 1))
    around = [(word, problems[to]) for word, to in near if 0 <= to < len(problems)]
    return Page(
        problem,
        _facts(records, report.command),
        blocks,
        crumbs=[(report.title, f"../{OVERVIEW}")],
        beside=[(word, name, f"{report.links.problems[name]}.html") for word, name in around],
    )


def _facts(records: Records, command: str) -> list[Fact]:
    counts = status_counts(records.frame)
    statuses = ", ".join(f"{many} {status}" for status, many in counts.items())
    return [
        Fact("Optimizers", records.optimizers),
        Fact("Seeds", [str(seed) for seed in sorted(set(records.frame["seed"]))]),
        Fact("Runs", [f"{len(records.frame)}: {statuses}"]),
        Fact("Made by", [command], code=True),
    ]


def _progress(problems: Sequence[str]) -> Iterable[str]:
    """The problems, with a bar on standard error while their pages are drawn.

    A file or a pipe gets no bar.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return problems
    return track(problems, "pages", console=console, transient=True)


def _looks(records: Records) -> dict[str, Look]:
    named = records.frame.drop_duplicates("optimizer").set_index("optimizer")
    return looks(
        [
            (name, str(named.loc[name, "name"]), str(named.loc[name, "family"]))
            for name in records.optimizers
        ]
    )
