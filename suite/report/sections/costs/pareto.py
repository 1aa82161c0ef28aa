"""Time against memory.

Who pays with which, and the front of those that no other method beats in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, literal, plain_ticks, save
from suite.report.drawing.lines import NEVER_HERE, handle, legend, legend_height, name_points
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.frame import Records
from suite.results.levels import TARGET
from suite.results.time_to_target import SHARED, level_costs, step_seconds
from suite.tables.formats import bytes_text, listed, number
from suite.tables.table import runs_note

ACROSS, HEIGHT = 3, 2.9
EDGE = 1.6  # times the largest time: where those stand that never arrived
HOW_TO_READ = (
    "Left is faster and lower takes less memory, both on logarithmic axes. The grey line is the "
    "front: for a method on it, whose name is written beside it, no other one is at least as good "
    "in both and better in one. Bars run from the fastest to the slowest run."
)


@dataclass(frozen=True)
class Point:
    """One method: the median time of its runs with their range, and the largest memory any of them took."""

    time: float
    fastest: float
    slowest: float
    memory: float
    shared: bool


@dataclass(frozen=True)
class Plot:
    """A picture: what its axes say, and the points of each panel."""

    name: str
    title: str
    time: str
    memory: str
    caption: str
    panels: dict[str, dict[str, Point]]
    runs: int


def section(context: Context) -> Content:
    """Time to the target against the peak of memory, and time per step against the optimizer's state."""
    plots = [to_target(context.records), per_step(context.records)]
    pictures = [_picture(plot, context.styles, context.figures) for plot in plots if plot.panels]
    return Content([], pictures, HOW_TO_READ if pictures else "")


def to_target(records: Records) -> Plot:
    """Seconds to the target against the peak of memory, for problems where somebody arrives."""
    reached = level_costs(records)
    reached = reached[reached["level"] == TARGET].drop(columns="level")
    panels, runs = _panels(records, reached, "peak_memory_bytes", arrives=True)
    return Plot(
        "pareto-target",
        "Time to the target against peak memory",
        "seconds to the target",
        "peak memory",
        "Median seconds until the validation metric first was at the target, against the largest "
        "high-water mark of memory over a step. An arrow at the right edge: half of the method's "
        "runs or more never arrived.",
        panels,
        runs,
    )


def per_step(records: Records) -> Plot:
    """Milliseconds of a step against the bytes of the optimizer's state."""
    seconds = step_seconds(records)
    panels, runs = _panels(
        records, seconds.assign(seconds=1e3 * seconds["seconds"]), "state_bytes", arrives=False
    )
    return Plot(
        "pareto-step",
        "Time of a step against the optimizer's state",
        "ms per step",
        "state",
        "Median milliseconds of one step against the bytes of the tensors that the optimizer "
        "keeps between steps.",
        panels,
        runs,
    )


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of those that no other one equals or beats in both numbers and beats in one, the fastest first."""
    kept: list[str] = []
    least = math.inf
    finite = {name: pair for name, pair in points.items() if all(map(math.isfinite, pair))}
    for name in sorted(finite, key=lambda one: finite[one]):
        if finite[name][1] < least or (kept and finite[name] == finite[kept[-1]]):
            kept.append(name)
            least = finite[name][1]
    return kept


def _panels(
    records: Records, times: pd.DataFrame, column: str, *, arrives: bool
) -> tuple[dict[str, dict[str, Point]], int]:
    """The points of every (problem, hardware) with at least one finite time, and the number of runs behind them."""
    memory = records.frame.groupby(["problem", "hardware", "optimizer"])[column].max()
    places = records.frame.loc[records.frame["seconds_per_step"].notna(), "hardware"].nunique()
    panels: dict[str, dict[str, Point]] = {}
    runs = 0
    for (problem, place), group in times.groupby(["problem", "hardware"], sort=False):
        points: dict[str, Point] = {}
        for name in records.optimizers:
            own = group[group["optimizer"] == name]
            taken = float(memory.get((problem, place, name), math.nan))
            if len(own) and (taken > 0 or (taken == 0 and not arrives)):
                points[name] = _point(own, taken)
        if any(math.isfinite(point.time) for point in points.values()):
            panels[f"{problem}\n{place}" if places > 1 else str(problem)] = points
            runs += int(group["optimizer"].isin(points).sum())
    return panels, runs


def _point(runs: pd.DataFrame, memory: float) -> Point:
    seconds = np.sort(runs["seconds"].to_numpy(dtype=float))
    middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
    finite = seconds[np.isfinite(seconds)]
    ends = (float(finite[0]), float(finite[-1])) if len(finite) else (math.inf, math.inf)
    return Point(float(middle), *ends, memory, bool((runs["source"] == SHARED).any()))


def _picture(plot: Plot, styles: Mapping[str, Look], folder: Path) -> Picture:
    names = [name for name in styles if any(name in points for points in plot.panels.values())]
    across = min(ACROSS, len(plot.panels))
    down = math.ceil(len(plot.panels) / across)
    width = max(WIDTH / ACROSS * across, 5.0)
    handles = [handle(styles[name], name, ls="None", markersize=6) for name in names]
    with mpl.rc_context(RC):
        canvas = Canvas(
            figsize=(width, down * HEIGHT + legend_height(handles, width)), layout="constrained"
        )
        grid = canvas.subplots(down, across, squeeze=False).ravel()
        for place, (axes, (label, points)) in enumerate(
            zip(grid, plot.panels.items(), strict=False)
        ):
            _panel(axes, points, styles)
            axes.set_title(literal(folded(label, 40)))
            axes.set_xlabel(plot.time if place + across >= len(plot.panels) else "")
            axes.set_ylabel(plot.memory if place % across == 0 else "")
        for axes in grid[len(plot.panels) :]:
            axes.set_axis_off()
        legend(canvas, handles, width)
        png = save(canvas, folder, plot.name)
    shared = any(point.shared for points in plot.panels.values() for point in points.values())
    rough = (
        " Hollow: seconds of runs that shared the machine, to be read as rough." if shared else ""
    )
    return Picture(
        plot.name, plot.title, f"{plot.caption}{rough} {runs_note(plot.runs)}", _alt(plot), png
    )


def _panel(axes: Axes, points: Mapping[str, Point], styles: Mapping[str, Look]) -> None:
    finite = [
        time
        for point in points.values()
        for time in (point.fastest, point.slowest)
        if math.isfinite(time)
    ]
    positive = [point.memory for point in points.values() if point.memory > 0]
    late = any(math.isinf(point.time) for point in points.values())
    axes.set_xscale("log")
    axes.set_xlim(min(finite) / 1.5, max(finite) * (EDGE * 1.25 if late else 1.5))
    _memory_axis(axes, positive, zero=len(positive) < len(points))
    for name, point in points.items():
        _mark(axes, point, styles[name], max(finite) * EDGE)
    leading = front({name: (point.time, point.memory) for name, point in points.items()})
    _line(axes, [points[name] for name in leading])
    name_points(axes, {name: (points[name].time, points[name].memory) for name in leading})
    plain_ticks(axes.xaxis)


def _memory_axis(axes: Axes, positive: Sequence[float], *, zero: bool) -> None:
    """Bytes on a logarithmic axis that has room for nothing at all, where some method keeps no state."""
    low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
    if zero:
        axes.set_yscale("symlog", linthresh=low / 1.5, linscale=0.5)
        axes.set_ylim(-low / 6, high * 2.5)
    else:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.4, high * 1.6)
    axes.yaxis.set_minor_formatter(NullFormatter())
    ticks = _round_sizes(low, high)
    axes.set_yticks([0.0, *ticks] if zero else ticks)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: bytes_text(value).replace(".0 ", " "))
    )


def _round_sizes(low: float, high: float) -> list[float]:
    """Powers of two, or of four, sixteen ... so that there are a handful of ticks."""
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    stride = next(stride for stride in (1, 2, 4, 5, 10, 20, 40) if (last - first) / stride <= 6)
    return [2.0**power for power in range(first, last + 1) if power % stride == 0]


def _mark(axes: Axes, point: Point, look: Look, edge: float) -> None:
    fill = "white" if point.shared else look.colour
    style: dict[str, Any] = {"color": look.colour, "markeredgecolor": look.colour, "ls": "None"}
    if math.isinf(point.time):
        axes.plot([edge], [point.memory], marker=NEVER_HERE, markersize=9, clip_on=False, **style)
        return
    axes.plot(
        [point.fastest, point.slowest], [point.memory] * 2, color=look.colour, lw=1.2, alpha=0.7
    )
    axes.plot(
        [point.time],
        [point.memory],
        marker=look.marker,
        markersize=6.5,
        markerfacecolor=fill,
        zorder=3,
        **style,
    )


def _line(axes: Axes, points: Sequence[Point]) -> None:
    """The front as a staircase: behind it lies what some method on it beats."""
    if not points:
        return
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    x = [points[0].time, *(point.time for point in points), right]
    y = [top, *(point.memory for point in points), points[-1].memory]
    axes.plot(x, y, drawstyle="steps-post", color="#9a9a9a", lw=1.0, zorder=0.8)


def _alt(plot: Plot) -> str:
    """The methods on each panel's front."""
    said = []
    for label, points in plot.panels.items():
        leading = front({name: (point.time, point.memory) for name, point in points.items()})
        words = [
            f"{name} ({number(points[name].time)}, {bytes_text(points[name].memory)})"
            for name in leading
        ]
        said.append(f"{label.replace(chr(10), ', ')}: {listed(words, 5)}")
    return f"{plot.time.capitalize()} against {plot.memory}. On the front: {'; '.join(said)}."


SECTION = Section("pareto", "Time against memory", {OVERALL}, 90, section)
