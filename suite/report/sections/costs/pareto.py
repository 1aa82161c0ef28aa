"""Time against memory, with the front of methods that no other beats in both."""

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
from matplotlib.ticker import FuncFormatter, NullFormatter

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, literal, plain_ticks, save
from suite.report.drawing.lines import NEVER_HERE, handle, legend, legend_height, name_points
from suite.report.drawing.panels import panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.frame import Records
from suite.results.levels import TARGET
from suite.results.time_to_target import SHARED, level_costs, step_seconds
from suite.tables.formats import bytes_text, listed, number
from suite.tables.table import runs_note

ACROSS, HEIGHT = 3, 2.9
EDGE = 1.6  # times the largest time: the place of methods that never reached the target
HOW_TO_READ = (
    "Left is faster and lower takes less memory, both on logarithmic axes. The grey line is the "
    "front: for a method on it, whose name is written beside it, no other one is at least as good "
    "in both and better in one. Bars run from the fastest to the slowest run."
)


@dataclass(frozen=True)
class Point:
    """One method's place.

    Attributes:
        time: the median of its runs; `inf` where half of them did not reach the target.
        fastest: the least finite time of a run.
        slowest: the largest finite time of a run.
        memory: the largest that any run took.
        shared: whether any time comes from a run that shared the machine.
    """

    time: float
    fastest: float
    slowest: float
    memory: float
    shared: bool

    @property
    def place(self) -> tuple[float, float]:
        """Time and memory."""
        return self.time, self.memory


Points = Mapping[str, Point]


@dataclass(frozen=True)
class Plot:
    """A picture: what its axes say, and the points of each panel."""

    name: str
    title: str
    time: str
    memory: str
    caption: str
    contents: Mapping[str, Points]
    runs: int


def section(context: Context) -> Content:
    """Time to the target against peak memory, and time per step against the optimizer's state."""
    plots = [to_target(context.records), per_step(context.records)]
    pictures = [_picture(plot, context.styles, context.figures) for plot in plots if plot.contents]
    return Content([], pictures, HOW_TO_READ if pictures else "")


def to_target(records: Records) -> Plot:
    """Seconds to the target against the peak of memory, for problems where some run reaches it."""
    reached = level_costs(records)
    reached = reached[reached["level"] == TARGET].drop(columns="level")
    contents, runs = _contents(records, reached, "peak_memory_bytes")
    return Plot(
        "pareto-target",
        "Time to the target against peak memory",
        "seconds to the target",
        "peak memory",
        "Median seconds until the validation metric first was at the target, against the largest "
        "high-water mark of memory over a step. An arrow at the right edge: half of the method's "
        "runs or more never reached the target.",
        contents,
        runs,
    )


def per_step(records: Records) -> Plot:
    """Milliseconds of a step against the bytes of the optimizer's state."""
    seconds = step_seconds(records)
    milliseconds = seconds.assign(seconds=1e3 * seconds["seconds"])
    contents, runs = _contents(records, milliseconds, "state_bytes", zero=True)
    return Plot(
        "pareto-step",
        "Time of a step against the optimizer's state",
        "ms per step",
        "state",
        "Median milliseconds of one step against the bytes of the tensors that the optimizer "
        "keeps between steps.",
        contents,
        runs,
    )


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names on the Pareto front, the fastest first.

    No other point equals or beats one of the front in both numbers and beats it in one.
    """
    names: list[str] = []
    least = math.inf
    finite = {name: pair for name, pair in points.items() if all(map(math.isfinite, pair))}
    for name in sorted(finite, key=lambda one: finite[one]):
        if finite[name][1] < least or (names and finite[name] == finite[names[-1]]):
            names.append(name)
            least = finite[name][1]
    return names


def _front(points: Points) -> list[str]:
    return front({name: point.place for name, point in points.items()})


def _contents(
    records: Records, times: pd.DataFrame, column: str, *, zero: bool = False
) -> tuple[dict[str, Points], int]:
    """The points by panel, and the number of runs behind them.

    Args:
        records: all runs.
        times: a row per run: `problem`, `hardware`, `optimizer`, `seconds`.
        column: of the records, the bytes.
        zero: whether a method may take no bytes at all.

    Returns:
        A panel for every (problem, hardware) with a finite time, and how many runs there are.
    """
    memory = records.frame.groupby(["problem", "hardware", "optimizer"])[column].max()
    places = records.frame.loc[records.frame["seconds_per_step"].notna(), "hardware"].nunique()
    contents: dict[str, Points] = {}
    runs = 0
    for (problem, place), group in times.groupby(["problem", "hardware"], sort=False):
        points: dict[str, Point] = {}
        for name in records.optimizers:
            own = group[group["optimizer"] == name]
            taken = float(memory.get((problem, place, name), math.nan))
            if len(own) and (taken > 0 or (taken == 0 and zero)):
                points[name] = _point(own, taken)
        if any(math.isfinite(point.time) for point in points.values()):
            contents[f"{problem}\n{place}" if places > 1 else str(problem)] = points
            runs += int(group["optimizer"].isin(points).sum())
    return contents, runs


def _point(runs: pd.DataFrame, memory: float) -> Point:
    seconds = np.sort(runs["seconds"].to_numpy(dtype=float))
    middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
    finite = seconds[np.isfinite(seconds)]
    ends = (float(finite[0]), float(finite[-1])) if len(finite) else (math.inf, math.inf)
    return Point(float(middle), *ends, memory, bool((runs["source"] == SHARED).any()))


def _picture(plot: Plot, styles: Mapping[str, Look], folder: Path) -> Picture:
    names = {name for points in plot.contents.values() for name in points}
    handles = [
        handle(look, name, ls="None", markersize=6)
        for name, look in styles.items()
        if name in names
    ]
    with mpl.rc_context(RC):
        grid = panels(
            len(plot.contents),
            WIDTH / ACROSS,
            HEIGHT,
            most=ACROSS,
            least=5.0,
            margin=lambda width: legend_height(handles, width),
        )
        for place, (label, points) in enumerate(plot.contents.items()):
            axes = grid.axes[place]
            _panel(axes, points, styles)
            axes.set_title(literal(folded(label, 40)))
            axes.set_xlabel(plot.time if grid.is_lowest(place) else "")
            axes.set_ylabel(plot.memory if grid.is_first(place) else "")
        legend(grid.canvas, handles, grid.width)
        png = save(grid.canvas, folder, plot.name)
    return Picture(plot.name, plot.title, _caption(plot), _alt(plot), png)


def _caption(plot: Plot) -> str:
    shared = any(point.shared for points in plot.contents.values() for point in points.values())
    rough = (
        " Hollow: seconds of runs that shared the machine, to be read as rough." if shared else ""
    )
    return f"{plot.caption}{rough} {runs_note(plot.runs)}"


def _panel(axes: Axes, points: Points, styles: Mapping[str, Look]) -> None:
    longest = _time_axis(axes, points)
    positive = [point.memory for point in points.values() if point.memory > 0]
    _memory_axis(axes, positive, zero=len(positive) < len(points))
    for name, point in points.items():
        _mark(axes, point, styles[name], longest * EDGE)
    leading = _front(points)
    _line(axes, [points[name] for name in leading])
    name_points(axes, {name: points[name].place for name in leading})
    plain_ticks(axes.xaxis)


def _time_axis(axes: Axes, points: Points) -> float:
    """A logarithmic axis, with room for arrows at the right; the result is the longest time."""
    times = [time for point in points.values() for time in (point.fastest, point.slowest)]
    finite = [time for time in times if math.isfinite(time)]
    late = any(math.isinf(point.time) for point in points.values())
    axes.set_xscale("log")
    axes.set_xlim(min(finite) / 1.5, max(finite) * (EDGE * 1.25 if late else 1.5))
    return max(finite)


def _memory_axis(axes: Axes, positive: Sequence[float], *, zero: bool) -> None:
    """Bytes on a logarithmic axis, with room for zero where some method keeps no state."""
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
    """Powers of two, or of four, sixteen ..., for a handful of ticks."""
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
    """The front as a staircase, with the beaten methods behind it."""
    if not points:
        return
    right, top = axes.get_xlim()[1], axes.get_ylim()[1]
    x = [points[0].time, *(point.time for point in points), right]
    y = [top, *(point.memory for point in points), points[-1].memory]
    axes.plot(x, y, drawstyle="steps-post", color="#9a9a9a", lw=1.0, zorder=0.8)


def _alt(plot: Plot) -> str:
    """The methods on each panel's front."""
    parts = []
    for label, points in plot.contents.items():
        words = [
            f"{name} ({number(points[name].time)}, {bytes_text(points[name].memory)})"
            for name in _front(points)
        ]
        parts.append(f"{label.replace(chr(10), ', ')}: {listed(words, 5)}")
    return f"{plot.time.capitalize()} against {plot.memory}. On the front: {'; '.join(parts)}."


SECTION = Section("pareto", "Time against memory", {OVERALL}, 90, section)
