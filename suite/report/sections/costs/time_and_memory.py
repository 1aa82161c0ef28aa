"""Time and memory of a step: a table for each kind of hardware, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from suite.report.drawing.canvas import RC, WIDTH, Picture, inches, literal, plain_ticks, save
from suite.report.drawing.panels import panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.report.sections.answers.final_metrics import ALL_WELL
from suite.results.frame import SHARED, Records, once, step_times, timed_runs
from suite.results.outcomes import failure_words
from suite.results.run import TRAINED
from suite.stats import apart_from_best, mean_std
from suite.tables.formats import NOT_RUN, bytes_text, mean_text, number, ratio_text
from suite.tables.table import Cell, Table, make_table, runs_note

ACROSS = 3  # panels
BARS = 2.2  # inches of a panel beside its labels

Bar = tuple[float, str]  # its length, and the mark before its number
Bars = dict[str, Bar]


def section(context: Context) -> Content:
    """The tables, with bars on the overall page."""
    records = context.records
    overall = context.page == OVERALL
    pictures = cost_pictures(records, context.styles, context.figures) if overall else []
    return Content(cost_tables(records), pictures)


# -- tables ----------------------------------------------------------------------------------------


def cost_tables(records: Records) -> list[Table]:
    """One table for each hardware that timings come from."""
    timed = records.frame[timed_runs(records.frame)]
    places = sorted(set(timed["hardware"]))
    return [
        _cost_table(records, place, index if len(places) > 1 else 0)
        for index, place in enumerate(places, 1)
    ]


def _cost_table(records: Records, place: str, index: int) -> Table:
    runs = records.frame[records.frame["hardware"] == place]
    rows = [
        row
        for problem in dict.fromkeys(runs["problem"])
        for row in _problem_rows(records, place, str(problem))
    ]
    caption = (
        f"Measured on {place}. Milliseconds of one optimizer step (evaluation, data and logging "
        "excluded), mean ± standard deviation (runs); Relative: divided by the cheapest optimizer "
        "of this problem; grad-equivalents per step: oracle calls weighted by their measured cost "
        "relative to one forward and backward; state: the optimizer's tensors; peak: the "
        "high-water mark of memory over a step. Bold: the cheapest, and what cannot be told from "
        f"it, among runs that had their cores to themselves. {SHARED} "
    )
    name, title = (
        ("costs", "Time and memory per step")
        if not index
        else (f"costs_{index}", f"Time and memory per step ({place})")
    )
    return make_table(name, title, caption + runs_note(len(runs)), rows)


@once
def _problem_rows(records: Records, place: str, problem: str) -> list[dict[str, Cell | str]]:
    runs = records.of(problem)
    groups = dict(iter(runs[runs["hardware"] == place].groupby("optimizer", sort=False)))
    cells = {name: groups[name] for name in records.optimizers if name in groups}
    times = {name: step_times(runs) for name, runs in cells.items()}
    means = {name: mean_std(values)[0] for name, (values, _) in times.items() if values}
    cheapest, bold = min(means.values(), default=math.nan), _cheapest(times)
    return [
        _cost_row(problem, name, cells[name], times[name], cheapest, name in bold) for name in cells
    ]


def _cheapest(times: Mapping[str, tuple[list[float], bool]]) -> set[str]:
    """The fastest of the optimizers with unshared times, and all that cannot be told from it."""
    alone = {name: values for name, (values, shared) in times.items() if values and not shared}
    apart = apart_from_best(list(alone.values()), "min")
    return {name for name, far in zip(alone, apart, strict=True) if not far}


def _cost_row(
    problem: str,
    name: str,
    runs: pd.DataFrame,
    times: tuple[list[float], bool],
    cheapest: float,
    bold: bool,
) -> dict[str, Cell | str]:
    values, shared = times
    mark = "~" if shared else ""
    mean = mean_std(values)[0] if values else math.nan
    trained = runs[runs["status"].isin(TRAINED)]
    work = [float(value) for value in (trained["grad_equivalents"] / trained["steps"]).dropna()]
    return {
        "problem": problem,
        "optimizer": name,
        "ms per step": Cell(
            mark + mean_text([1e3 * value for value in values]) if values else NOT_RUN, bold, mean
        ),
        "relative": Cell(
            mark + ratio_text(mean / cheapest) if values else NOT_RUN, order=mean / cheapest
        ),
        "grad-eq. per step": Cell(number(mean_std(work)[0]), order=mean_std(work)[0])
        if work
        else NOT_RUN,
        "state": _bytes(trained, "state_bytes"),
        "peak": _bytes(trained, "peak_memory_bytes"),
        "outcomes": failure_words(runs, "status") or ALL_WELL,
    }


def _bytes(runs: pd.DataFrame, column: str) -> Cell:
    values = [float(value) for value in runs[column].dropna()]
    return Cell(bytes_text(max(values)), order=max(values)) if values else Cell(NOT_RUN)


# -- bars ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """The quantity of the bars.

    Attributes:
        name: of the picture's files.
        title: above the picture.
        unit: under the axis.
        caption: under the picture.
        of: the bar of one optimizer's runs on a problem.
    """

    name: str
    title: str
    unit: str
    caption: str
    of: Callable[[pd.DataFrame], Bar]


def cost_pictures(records: Records, looks: Mapping[str, Look], folder: Path) -> list[Picture]:
    """The pictures of time and of memory, as far as they were measured."""
    scale = (
        "Each panel has its own logarithmic axis: compare where bars end, not how long they are."
    )
    shared = f" {SHARED}" if records.frame["parallel"].any() else ""
    time = Quantity(
        "time-per-step",
        "Time per step",
        "ms per step",
        f"Mean milliseconds of one optimizer step; shorter is cheaper. {scale}{shared}",
        _milliseconds,
    )
    memory = Quantity(
        "memory-per-step",
        "Memory per step",
        "MiB",
        f"Largest high-water mark of memory over one step; shorter is cheaper. {scale}",
        _peak,
    )
    trained = records.frame[records.frame["status"].isin(TRAINED)]
    measured = (
        (time, trained[timed_runs(trained)]),
        (memory, trained[trained["peak_memory_bytes"] > 0]),
    )
    return [
        _picture(records, runs, quantity, looks, folder) for quantity, runs in measured if len(runs)
    ]


def _picture(
    records: Records,
    runs: pd.DataFrame,
    quantity: Quantity,
    looks: Mapping[str, Look],
    folder: Path,
) -> Picture:
    contents = _contents(records, runs, quantity)
    width = max(WIDTH / ACROSS, BARS + inches(name for bars in contents.values() for name in bars))
    height = 0.8 + 0.2 * max(map(len, contents.values()))
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        grid = panels(len(contents), width, height, most=ACROSS)
        for axes, (label, bars) in zip(grid.axes, contents.items(), strict=True):
            _panel(axes, bars, looks)
            axes.set(title=literal(label), xlabel=quantity.unit)
        png = save(grid.canvas, folder, quantity.name)
    caption = f"{quantity.caption} {runs_note(len(runs))}"
    alt = f"{quantity.title}: horizontal bars of every optimizer for {', '.join(contents)}."
    return Picture(quantity.name, quantity.title, caption, alt, png)


def _contents(records: Records, runs: pd.DataFrame, quantity: Quantity) -> dict[str, Bars]:
    """Bars by panel; the hardware is named where several were used."""
    several = len(set(runs["hardware"])) > 1
    contents: dict[str, Bars] = {}
    for (problem, place), group in runs.groupby(["problem", "hardware"], sort=False):
        cells = {name: group[group["optimizer"] == name] for name in records.optimizers}
        label = f"{problem}\n{place}" if several else str(problem)
        contents[label] = {name: quantity.of(cell) for name, cell in cells.items() if len(cell)}
    return contents


def _panel(axes: Axes, bars: Bars, looks: Mapping[str, Look]) -> None:
    lengths = [length for length, _ in bars.values()]
    places = range(len(bars))
    axes.barh(places, lengths, color=[looks[name].colour for name in bars], height=0.7)
    axes.set_xscale("log")
    axes.set_xlim(min(lengths) / 3, max(lengths) * 2.5)
    plain_ticks(axes.xaxis)
    axes.set_yticks(places, [literal(name) for name in bars])
    axes.invert_yaxis()
    for place, (length, mark) in zip(places, bars.values(), strict=True):
        axes.text(length * 1.1, place, f"{mark}{length:.3g}", va="center", fontsize=8)


def _milliseconds(runs: pd.DataFrame) -> Bar:
    values, shared = step_times(runs)
    return 1e3 * mean_std(values)[0], "~" if shared else ""


def _peak(runs: pd.DataFrame) -> Bar:
    return float(runs["peak_memory_bytes"].max()) / 2**20, ""


SECTION = Section("costs", "Time and memory", {OVERALL, PROBLEM}, 160, section)
