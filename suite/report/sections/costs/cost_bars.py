"""Bars of what a step costs.

Its time and its memory, a panel for each problem and kind of hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import RC, Picture, inches, literal, plain_ticks, save
from suite.report.drawing.style import Look
from suite.results.frame import SHARED, Records, step_times, timed_runs
from suite.results.load import TRAINED
from suite.stats import mean_std
from suite.tables.table import runs_note

ACROSS = 3
WIDTH = 11.0
BARS = 2.2  # inches of a panel beside its labels

Bar = tuple[float, str]
Bars = dict[str, Bar]


@dataclass(frozen=True)
class Quantity:
    """What the bars measure.

    `of` gives the length of one cell's bar and the mark before its number.
    """

    name: str
    title: str
    unit: str
    caption: str
    of: Callable[[pd.DataFrame], Bar]


def cost_pictures(records: Records, looks: dict[str, Look], folder: Path) -> list[Picture]:
    """The pictures of time and of memory, those that have anything to show."""
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
    records: Records, runs: pd.DataFrame, quantity: Quantity, looks: dict[str, Look], folder: Path
) -> Picture:
    panels = _panels(records, runs, quantity)
    width = max(WIDTH / ACROSS, BARS + inches(name for bars in panels.values() for name in bars))
    across = max(1, min(ACROSS, len(panels), int(WIDTH / width)))
    down = math.ceil(len(panels) / across)
    tallest = max(len(bars) for bars in panels.values())
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        size = (width * across, down * (0.8 + 0.2 * tallest))
        canvas = Canvas(figsize=size, layout="constrained")
        grid = canvas.subplots(down, across, squeeze=False).ravel()
        for axes, (label, bars) in zip(grid, panels.items(), strict=False):
            _panel(axes, bars, looks)
            axes.set(title=literal(label), xlabel=quantity.unit)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        png = save(canvas, folder, quantity.name)
    alt = f"{quantity.title}: horizontal bars of every optimizer for {', '.join(panels)}."
    return Picture(
        quantity.name, quantity.title, f"{quantity.caption} {runs_note(len(runs))}", alt, png
    )


def _panels(records: Records, runs: pd.DataFrame, quantity: Quantity) -> dict[str, Bars]:
    """Bars by panel; the hardware is named where there is more than one."""
    several = len(set(runs["hardware"])) > 1
    panels: dict[str, Bars] = {}
    for (problem, place), group in runs.groupby(["problem", "hardware"], sort=False):
        cells = {name: group[group["optimizer"] == name] for name in records.optimizers}
        label = f"{problem}\n{place}" if several else str(problem)
        panels[label] = {name: quantity.of(cell) for name, cell in cells.items() if len(cell)}
    return panels


def _panel(axes: Axes, bars: Bars, looks: dict[str, Look]) -> None:
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
