"""`python -m suite.reference`.

The tables and figures of README and docs, rebuilt from results/reference/.

A page names, where a table is to stand, the archive and the table, and the lines between the two
marks are replaced:

    <!-- table: quick targets optimizer=kfac,adamw -->
    <!-- /table -->

The table is `main` unless another one of the report is named (the files in results/report/tables/).
`task=`, `optimizer=`, `seed=` and any other setting choose among the runs; `caption` adds the
sentence that explains it. A mark without any words means `quick main`. A figure of the report
replaces the file of the image that follows its mark:

    <!-- figure: quick heatmap -->
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from suite.errors import ConfigError, require_one_of
from suite.paths import ROOT
from suite.report.sections.answers.final_metrics import main_table, results_table
from suite.report.sections.answers.targets import target_tables
from suite.report.sections.costs.time_and_memory import cost_tables
from suite.report.sections.details.configurations import configuration_table
from suite.report.sections.details.environment import environment_table
from suite.report.sections.details.outcomes import outcome_tables
from suite.report.sections.details.problems import problem_table
from suite.report.sections.progress.convergence_order import convergences, order_tables
from suite.results import archive
from suite.results.frame import Records, build_records
from suite.results.select import select
from suite.tables.markdown import markdown
from suite.tables.table import Table

REFERENCE = ROOT / "results" / "reference"
FENCE = r"^```.*?^```[^\n]*$"  # an example of a mark, in a page that explains them, is no mark
TABLE = re.compile(
    rf"{FENCE}|^<!-- table(?P<words>:[^>]*)? -->\n.*?^<!-- /table -->", re.DOTALL | re.MULTILINE
)
FIGURE = re.compile(
    rf"{FENCE}|^<!-- figure:(?P<words>[^>]*)-->\s*!\[[^\]]*\]\((?P<file>[^)]+)\)",
    re.DOTALL | re.MULTILINE,
)
CAPTION = "caption"
DEFAULT = ("quick", "main")
# the tables that need no other part of the report
TABLES: tuple[Callable[[Records], list[Table]], ...] = (
    lambda records: [main_table(records)],
    lambda records: [results_table(records)],
    target_tables,
    cost_tables,
    outcome_tables,
    lambda records: [
        problem_table(records),
        configuration_table(records),
        environment_table(records),
    ],
    lambda records: order_tables(convergences(records), records.optimizers),
)


@dataclass(frozen=True)
class Mark:
    """A mark of a page.

    It asks for a table or figure `name` of the archive `source`, over some of its runs.
    """

    source: str
    name: str
    chosen: tuple[tuple[str, tuple[str, ...]], ...] = ()
    caption: bool = False

    @classmethod
    def parse(cls, words: str) -> Mark:
        """From the words between `<!-- table:` and `-->`."""
        plain: list[str] = []
        chosen: list[tuple[str, tuple[str, ...]]] = []
        for word in words.split():
            key, given, values = word.partition("=")
            if given:
                chosen.append((key, tuple(values.split(","))))
            else:
                plain.append(word)
        caption = CAPTION in plain
        names = [word for word in plain if word != CAPTION]
        source, name, *rest = [*names, *DEFAULT[len(names) :]]
        if rest:
            raise ConfigError(f"a mark names an archive and a table, not {' '.join(names)!r}")
        return cls(source, name, tuple(chosen), caption)


@dataclass(frozen=True)
class Pages:
    """The pages under `root` and the archives that their tables come from.

    Attributes:
        root: README.md stands here, the other pages below docs/.
        archives: the folder of the archives.
    """

    root: Path = ROOT
    archives: Path = field(default=REFERENCE)

    def files(self) -> list[Path]:
        """The pages that have a mark."""
        pages = [self.root / "README.md", *sorted((self.root / "docs").rglob("*.md"))]
        return [
            page for page in pages if page.exists() and self.marks(page.read_text(encoding="utf-8"))
        ]

    def marks(self, text: str) -> list[Mark]:
        """What a page asks for."""
        matches = [*TABLE.finditer(text), *FIGURE.finditer(text)]
        return [_mark(match) for match in matches if not _is_example(match)]

    def rendered(self, text: str) -> str:
        """The page with its tables rebuilt.

        Raises:
            ConfigError: a mark names an archive, a table or a choice that does not exist.
        """
        return TABLE.sub(lambda match: match[0] if _is_example(match) else self._block(match), text)

    def copy_figures(self, page: Path) -> list[Path]:
        """Draw the figures that a page names, in place of the files that it shows.

        Returns:
            The files that were written.
        """
        written = []
        for match in FIGURE.finditer(page.read_text(encoding="utf-8")):
            if not _is_example(match):
                target = (page.parent / match["file"]).resolve()
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._figure(_mark(match), target.suffix), target)
                written.append(target)
        return written

    def _block(self, match: re.Match[str]) -> str:
        opening = match[0].partition("\n")[0]
        mark = _mark(match)
        lines = self._text(mark).rstrip("\n").split("\n")
        rows = [line for line in lines if line.startswith("|")]
        return "\n".join(
            [opening, *rows, *(["", lines[-1]] if mark.caption else []), "<!-- /table -->"]
        )

    def _text(self, mark: Mark) -> str:
        """The table in Markdown: made alone where that is possible, else with the whole report."""
        chosen = _records(self.archives, mark.source, mark.chosen)
        for table in (table for make in TABLES for table in make(chosen)):
            if table.name == mark.name:
                return markdown(table)
        folder = _report(self.archives, mark.source, mark.chosen) / "tables"
        texts = {file.stem: file for file in sorted(folder.glob("*.md"))}
        require_one_of(f"table of {mark.source}", mark.name, list(texts))
        return texts[mark.name].read_text(encoding="utf-8")

    def _figure(self, mark: Mark, suffix: str) -> Path:
        folder = _report(self.archives, mark.source, mark.chosen) / "figures"
        drawn = {file.stem: file for file in sorted(folder.rglob(f"*{suffix}"))}
        require_one_of(f"figure of {mark.source}", mark.name, list(drawn))
        return drawn[mark.name]


def records(
    name: str, chosen: Sequence[tuple[str, Sequence[str]]] = (), archives: Path = REFERENCE
) -> Records:
    """The records of an archive, or of the runs in it that `chosen` names."""
    folder = archives / name
    if not archive.is_archive(folder):
        known = [one.name for one in sorted(archives.glob("*")) if archive.is_archive(one)]
        require_one_of("archive", name, known)
    filters = {key: ",".join(values) for key, values in chosen}
    try:
        runs = select(archive.read_archive(folder), filters)
    except ConfigError as error:
        raise ConfigError(f"archive {name}: {error}") from None
    return build_records(runs, [], archive.read_timings(folder))


@cache
def _records(archives: Path, name: str, chosen: tuple[tuple[str, tuple[str, ...]], ...]) -> Records:
    return records(name, chosen, archives)


@cache
def _report(archives: Path, name: str, chosen: tuple[tuple[str, tuple[str, ...]], ...]) -> Path:
    """The whole report of an archive, in a folder that is gone when the process ends."""
    from suite.report.report import write_report

    folder = tempfile.TemporaryDirectory(prefix="suite-reference-")
    _FOLDERS.append(folder)
    command = f"python -m suite.report --runs results/reference/{name}"
    write_report(
        _records(archives, name, chosen), Path(folder.name), f"Reference results: {name}", command
    )
    return Path(folder.name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _is_example(match: re.Match[str]) -> bool:
    return match[0].startswith("```")


def _mark(match: re.Match[str]) -> Mark:
    return Mark.parse((match["words"] or "").removeprefix(":"))


# -- the command -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild the pages, or with --check only say which of them are out of date.

    Returns:
        0; 1 where --check found a page that is out of date.
    """
    from suite.config.messages import answered

    typed = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(typed)
    with answered(typed):
        return _rebuild(Pages(options.root, options.archives), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m suite.reference", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if a table is out of date"
    )
    parser.add_argument("--no-figures", action="store_true", help="leave the figures as they are")
    parser.add_argument(
        "--root",
        type=Path,
        default=ROOT,
        metavar="DIR",
        help="of README.md and docs/ (%(default)s)",
    )
    parser.add_argument(
        "--archives", type=Path, default=REFERENCE, metavar="DIR", help="the archives (%(default)s)"
    )
    return parser


def _rebuild(pages: Pages, options: argparse.Namespace) -> int:
    stale = 0
    for page in pages.files():
        text = page.read_text(encoding="utf-8")
        new = pages.rendered(text)
        stale += new != text
        name = page.relative_to(pages.root)
        changed = "out of date" if options.check else "rebuilt"
        print(f"{name}: {'tables are up to date' if new == text else changed}")
        if not options.check:
            page.write_text(new, encoding="utf-8")
        if not (options.check or options.no_figures):
            for figure in pages.copy_figures(page):
                print(f"  {figure.relative_to(pages.root.resolve())}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
