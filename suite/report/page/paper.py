"""A directory for a paper: figures as PDF, tables in LaTeX, and a document that holds them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from suite.report.drawing.canvas import Picture
from suite.report.page.manifest import list_files
from suite.report.page.page import Block
from suite.results.frame import Records
from suite.tables.latex import escape_latex, latex
from suite.tables.table import Table

FIGURES, TABLES, DOCUMENT = "figures", "tables", "main.tex"
LINKED = ("runs", "overview")  # tables that only make sense with their links
ONCE = ("problems", "environment")  # tables that are printed for all problems together
UNPRINTED = ("command", "directory", "seeds")  # columns of a table of failures that are in runs.csv
PAIR = {"problem", "optimizer"}
TEXT = 6.5  # inches of a column
SMALLER = 7 / 9  # the size of a figure's text in the paper over that in its file
FLOATS = 12  # LaTeX keeps no more than 18 waiting
PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[margin=1in]{geometry}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{array,booktabs,graphicx}
\usepackage[font=small,skip=4pt]{caption}
\renewcommand{\topfraction}{0.95}
\renewcommand{\textfraction}{0.05}
\renewcommand{\floatpagefraction}{0.8}
\setcounter{topnumber}{4}
\setcounter{totalnumber}{6}
\begin{document}
"""


@dataclass(frozen=True)
class Chapter:
    """The content of one page of the report; the overall page has no problem."""

    problem: str
    slug: str
    blocks: Sequence[Block]


def write_paper(
    paper: Path, figures: Path, chapters: Sequence[Chapter], records: Records, command: str
) -> None:
    """Write `tables/*.tex`, `main.tex`, `runs.csv` and `README.txt` beside the figures.

    Args:
        paper: the folder; the figures are beneath it already.
        figures: the folder of the report's own figures, which have the same names.
        chapters: the pages of the report.
        records: all runs.
        command: what repeats the report.
    """
    drawn = sorted((paper / FIGURES).rglob("*.pdf"))
    (paper / TABLES).mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    body: list[str] = []
    for chapter in chapters:
        body.append(rf"\section{{{escape_latex(chapter.problem or 'All problems')}}}")
        body += _limited(_floats(paper, figures, chapter, chapters, written))
        body.append(r"\clearpage")
    (paper / DOCUMENT).write_text(
        PREAMBLE + "\n".join([*body, r"\end{document}", ""]), encoding="utf-8"
    )
    records.frame.drop(columns="family_rank").to_csv(paper / "runs.csv", index=False)
    (paper / "README.txt").write_text(_readme(records, command), encoding="utf-8")
    list_files(paper, [*written, *drawn])


def _floats(
    paper: Path, figures: Path, chapter: Chapter, chapters: Sequence[Chapter], written: list[Path]
) -> Iterator[str]:
    """The LaTeX of a chapter's tables and figures, float by float."""
    for block in chapter.blocks:
        content = [table for table in block.content.tables if _printed(table, chapter, chapters)]
        for table in content:
            shown = _for_paper(table, chapter)
            written.append(paper / TABLES / f"{shown.name}.tex")
            written[-1].write_text(latex(shown), encoding="utf-8")
            yield rf"\input{{{TABLES}/{shown.name}}}"
        for picture in block.content.pictures:
            file = (paper / FIGURES / picture.file.relative_to(figures)).with_suffix(".pdf")
            if picture.file.suffix == ".png" and file.exists():  # an animation has no PDF
                yield _included(paper, file, picture, chapter)


def _printed(table: Table, chapter: Chapter, chapters: Sequence[Chapter]) -> bool:
    """Whether a chapter prints a table; rows for every pair are printed problem by problem."""
    if table.name in LINKED or chapter.problem:
        return table.name not in LINKED + ONCE
    elsewhere = {
        other.name
        for one in chapters
        if one.problem
        for block in one.blocks
        for other in block.content.tables
    }
    return table.name in ONCE or not (set(table.columns) >= PAIR or table.name in elsewhere)


def _for_paper(table: Table, chapter: Chapter) -> Table:
    """The table without its widest columns, with the problem in its name and title."""
    dropped = [
        *(UNPRINTED if "command" in table.columns else ()),
        *(("problem",) if chapter.problem else ()),
    ]
    frame = table.frame.drop(columns=[column for column in dropped if column in table.columns])
    if not chapter.problem:
        return replace(table, frame=frame)
    return replace(
        table,
        frame=frame,
        name=f"{table.name}-{chapter.slug}",
        title=f"{chapter.problem}: {table.title}",
    )


def _included(paper: Path, file: Path, picture: Picture, chapter: Chapter) -> str:
    title = (
        picture.title
        if picture.title == chapter.problem or not chapter.problem
        else f"{chapter.problem}: {picture.title}"
    )
    size = rf"width={_share(file):.2f}\linewidth,height=0.8\textheight,keepaspectratio"
    name = file.relative_to(paper / FIGURES).with_suffix("").as_posix().replace("/", "-")
    return "\n".join(
        [
            r"\begin{figure}[!ht]",
            r"\centering",
            rf"\includegraphics[{size}]{{{file.relative_to(paper).as_posix()}}}",
            rf"\caption{{{escape_latex(f'{title}. {picture.caption}')}}}",
            rf"\label{{fig:{name}}}",
            r"\end{figure}",
        ]
    )


def _share(file: Path) -> float:
    """The share of a line for a figure, such that text has the same size in all figures."""
    return min(1.0, SMALLER * width_of(file) / TEXT)


def width_of(file: Path) -> float:
    """The width of a one-page PDF in inches."""
    _, _, after = file.read_bytes().partition(b"/MediaBox")
    return float(after[after.index(b"[") + 1 : after.index(b"]")].split()[2]) / 72


def _limited(lines: Iterator[str]) -> Iterator[str]:
    """The lines, with a page break before LaTeX would hold back more floats than it can."""
    for count, line in enumerate(lines, 1):
        yield line
        if count % FLOATS == 0:
            yield r"\clearpage"


def _readme(records: Records, command: str) -> str:
    commits = Counter(
        str(one.get("git_commit") or "unknown") for one in records.environments.values()
    )
    commits_text = ", ".join(f"{commit} ({many} runs)" for commit, many in commits.most_common())
    return "\n".join(
        [
            f"Made by: {command}",
            f"From {len(records.frame)} runs ({len(records.optimizers)} optimizers, "
            f"{len(records.problems)} problems),",
            "each with its directory, its numbers and the command that repeats it in runs.csv.",
            f"The suite's commits that ran them: {commits_text}.",
            "",
            "main.tex    everything on one-column pages: pdflatex main, twice",
            "tables/     one file a table, for \\input; they need \\usepackage{array,booktabs} and",
            "            \\usepackage[T1]{fontenc}, and are at most 6.5 inches wide in "
            "\\footnotesize",
            "figures/    PDF with embedded fonts; at the widths that main.tex gives them, for a "
            "column of 6.5",
            "            inches, their text is 7 points high",
            "",
        ]
    )
