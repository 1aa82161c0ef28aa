"""Shared parts of the scripts for docs/results/: archived runs, tuned settings, cells, texts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from suite.paths import ROOT
from suite.reference import REFERENCE
from suite.results.archive import is_archive, read_archive, read_contents
from suite.results.frame import isolated_seconds
from suite.results.labels import show
from suite.results.run import Run
from suite.results.select import has_setting
from suite.results.timings import Timings
from suite.tables.formats import NOT_RUN

EDGE = "lies at the edge"  # suite.tune's words about a winner
TEMPLATES = ROOT / "scripts" / "templates"


@dataclass(frozen=True)
class Cells:
    """Runs chosen by their settings, and their isolated timings."""

    runs: Sequence[Run]
    timings: Timings = field(default_factory=dict)

    def where(self, **wanted: Any) -> Cells:
        """The runs with these values of settings; `task__name` stands for `task.name`."""
        texts = {name.replace("__", "."): show(value) for name, value in wanted.items()}
        chosen = [
            run
            for run in self.runs
            if all(has_setting(run, name, text) for name, text in texts.items())
        ]
        return Cells(chosen, self.timings)

    def values(self, name: str) -> list[Any]:
        """The different values of a setting, in order."""
        return sorted({setting(run, name) for run in self.runs})

    def last(self, column: str) -> list[float]:
        """The last value of a history's column, a run each; a run that has none is left out."""
        columns = [run.history[column].dropna() for run in self.runs if column in run.history]
        return [float(values.iloc[-1]) for values in columns if len(values)]

    @property
    def seconds_per_step(self) -> float:
        """Of a step with the machine to itself, the median over the runs.

        NaN where that was not measured.
        """
        return median(isolated_seconds(run, self.timings) for run in self.runs)

    @property
    def time(self) -> str:
        """Minutes of steps over all runs."""
        minutes = round(
            sum(run.number("seconds") for run in self.runs if run.number("seconds") > 0) / 60
        )
        return f"{minutes} minute{'s' * (minutes != 1)}"


@dataclass(frozen=True)
class Archived:
    """The runs of an archive, and the files of suite.tune that lie with them in its folder `tuned`.

    Attributes:
        about: what the archive says of its runs.
    """

    folder: Path
    cells: Cells
    about: str

    @classmethod
    def read(cls, folder: Path) -> Archived:
        """From the archive's folder."""
        return cls(
            folder, Cells(read_archive(folder)), str(read_contents(folder).get("about") or "")
        )

    def ended(self, task: str, optimizer: str) -> list[Run]:
        """The runs of a pair but those that were killed."""
        return [run for run in self.cells.where(task=task, optimizer=optimizer).runs if run.summary]

    def chosen(self, task: str, optimizer: str) -> str:
        """What tuning chose for a pair, and whether that lies at an edge of the search space."""
        path = self.folder / "tuned" / f"{task}_{optimizer}.yaml"
        if not path.exists():
            return "defaults"
        text = path.read_text(encoding="utf-8")
        words = ", ".join(
            f"{name} {value}" for name, value in yaml.safe_load(text)["optimizer"].items()
        )
        return (words or "defaults") + (" (at an edge)" if EDGE in text else "")


def setting(run: Run, name: str) -> Any:
    """A setting of a run by its dotted name."""
    if name in ("task", "optimizer"):
        return getattr(run, name)
    value: Any = run.config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def template(name: str, **fields: Any) -> str:
    """A text of scripts/templates with its fields filled in."""
    text = (TEMPLATES / f"{name}.md.in").read_text(encoding="utf-8")
    return text.removesuffix("\n").format(**fields)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean, standard deviation and number."""
    if not values:
        return NOT_RUN
    if len(values) == 1:
        return f"{values[0]:.{digits}g} (1)"
    return f"{np.mean(values):.{digits}g} ± {np.std(values, ddof=1):.2g} ({len(values)})"


def median_range(values: Sequence[float], style: str) -> str:
    """Median [smallest, largest] of costs; infinite ones are dashes, and all of them one dash."""
    if not np.isfinite(values).any():
        return NOT_RUN
    middle, low, high = (
        f"{value:{style}}" if np.isfinite(value) else NOT_RUN
        for value in (float(np.median(values)), min(values), max(values))
    )
    return f"{middle} [{low}, {high}]"


def success_count(values: Sequence[float]) -> str:
    """`(3 of 5)`: how many of some costs are finite."""
    return f"({np.isfinite(values).sum()} of {len(values)})"


def archive_for(name: str) -> Path:
    """The archive that the command line names after `--from`, else results/reference/<name>."""
    parser = argparse.ArgumentParser(
        description=f"Write docs/results/{name}.md, with its figures, from an archive of runs."
    )
    parser.add_argument(
        "--from", dest="folder", type=Path, default=REFERENCE / name, metavar="ARCHIVE"
    )
    folder: Path = parser.parse_args().folder
    if not is_archive(folder):
        parser.error(
            f"{folder} is no archive; python -m suite.archive write ARCHIVE --runs DIR makes one "
            "of runs"
        )
    return folder


def write(files: Mapping[Path, str]) -> None:
    """Write every text to its file."""
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
