"""Which share of the seeds reached which level of a problem, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, inches, literal, save
from suite.report.drawing.lines import legend, legend_height, ratio_ticks
from suite.report.section import PROBLEM, Content, Context, Section
from suite.results.frame import Records
from suite.results.time_to_target import level_costs
from suite.stats import median_with_failures
from suite.tables.formats import count_text, listed
from suite.tables.table import runs_note

SHADES = (
    "#B8D4E8",
    "#7FB2D6",
    "#3B82B8",
    "#0B4F83",
    "#06263F",
)  # from the easiest level to the hardest
MOST_ACROSS, PANEL = 3, 2.1  # panels; inches of one beside its labels
ROW = 0.21
HOW_TO_READ = (
    "A row is a method, a dot a level of the problem's metric, the darker the harder: it stands at "
    "the steps that the median run needed, with a line from the first run to the last that "
    "arrived. Where only some seeds arrived, the dot is hollow, and stands at the median of those "
    "that did. The number at the right counts the seeds that reached the hardest level; a row "
    "without a dark dot never got there."
)


@dataclass(frozen=True)
class Arrival:
    """One method at one level.

    How many of its runs arrived, the steps of the median run, and of the first and last.

    `middle` is `inf` unless most runs arrived; `seen` is the median of those that did.
    """

    level: str
    arrived: int
    runs: int
    middle: float
    seen: float
    first: float
    last: float


Methods = dict[str, list[Arrival]]


def section(context: Context) -> Content:
    """A panel for each problem that has levels."""
    found = arrivals(context.records, level_costs(context.records))
    if not found:
        return Content()
    return Content([], [_picture(found, context.figures)], HOW_TO_READ)


def arrivals(records: Records, reached: pd.DataFrame) -> dict[str, Methods]:
    """For each problem and method the levels from the easiest to the hardest.

    Of two with the same value, one.
    """
    found: dict[str, Methods] = {}
    for problem, group in reached.groupby("problem", sort=False):
        worst_first = 1 if records.of(str(problem))["direction"].iloc[0] == "max" else -1
        values = (
            group.drop_duplicates("value")
            .set_index("level")["value"]
            .mul(worst_first)
            .sort_values(kind="stable")
        )
        cells = dict(list(group.groupby(["optimizer", "level"], sort=False)["steps"]))
        found[str(problem)] = {
            name: [_arrival(str(level), cells[name, level]) for level in values.index]
            for name in records.optimizers
            if (name, values.index[0]) in cells
        }
    return found


def _arrival(level: str, steps: pd.Series) -> Arrival:
    there = np.sort(steps[np.isfinite(steps)].to_numpy(dtype=float))
    first, seen, last = (
        (there[0], np.median(there), there[-1]) if len(there) else (math.inf, math.inf, math.inf)
    )
    middle = median_with_failures(there.tolist(), len(steps))
    return Arrival(level, len(there), len(steps), middle, float(seen), float(first), float(last))


def _picture(found: Mapping[str, Methods], folder: Path) -> Picture:
    names = [name for methods in found.values() for name in methods]
    width = max(WIDTH / MOST_ACROSS, PANEL + inches(names))
    across = max(1, min(MOST_ACROSS, len(found), int(WIDTH / width)))
    down = math.ceil(len(found) / across)
    whole = max(width * across, 5.0)
    levels = _levels(found)
    handles = [_key(name, shade) for name, shade in levels.items()]
    heights = [
        0.75
        + ROW
        * max(len(methods) for methods in list(found.values())[row * across : (row + 1) * across])
        for row in range(down)
    ]
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        canvas = Canvas(
            figsize=(whole, sum(heights) + legend_height(handles, whole)), layout="constrained"
        )
        grid = canvas.subplots(down, across, squeeze=False, height_ratios=heights).ravel()
        for axes, (problem, methods) in zip(grid, found.items(), strict=False):
            axes.set_title(literal(folded(problem, 40)))
            _panel(axes, methods, levels)
        for place, axes in enumerate(grid):
            axes.set_xlabel("steps" if len(found) - across <= place < len(found) else "")
            if place >= len(found):
                axes.set_axis_off()
        legend(canvas, handles, whole)
        png = save(canvas, folder, "arrivals")
    runs = sum(levels[-1].runs for methods in found.values() for levels in methods.values())
    bare = [problem for problem, methods in found.items() if not _anybody(methods)]
    none = f"No run reached any level of {listed(bare)}. " if bare else ""
    caption = (
        "Lines: from the first to the last run that arrived (no other band). A target that is one "
        f"of the levels is not shown twice. {none}{runs_note(runs)}"
    )
    return Picture(
        "arrivals", "Which share of the seeds reached which level when", caption, _alt(found), png
    )


def _levels(found: Mapping[str, Methods]) -> dict[str, str]:
    """The shade of each level, by its place among all names of levels, from the easiest to the hardest."""
    longest = max((next(iter(methods.values())) for methods in found.values() if methods), key=len)
    names = list(dict.fromkeys(one.level for one in longest))
    for methods in found.values():
        names += [
            one.level for levels in methods.values() for one in levels if one.level not in names
        ]
    return {
        name: SHADES[max(0, len(SHADES) - len(names)) :][min(place, 4)]
        for place, name in enumerate(dict.fromkeys(names))
    }


def _key(name: str, shade: str) -> Line2D:
    return Line2D([], [], color=shade, marker="o", ls="None", markersize=6, label=literal(name))


def _anybody(methods: Methods) -> bool:
    return any(one.arrived for levels in methods.values() for one in levels)


def _panel(axes: Axes, methods: Methods, levels: Mapping[str, str]) -> None:
    rows = range(len(methods))
    for row, reached in zip(rows, methods.values(), strict=True):
        for place, one in enumerate(reached):
            if one.arrived:
                y = row + 0.16 * (place - (len(reached) - 1) / 2) / max(1, len(reached) - 1) * 2
                _dot(axes, one, y, levels[one.level])
        hardest = reached[-1]
        axes.text(
            1.02,
            row,
            f"{hardest.arrived}/{hardest.runs}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=7.5,
            color="#333333" if hardest.arrived else "#8a8a8a",
        )
    axes.set_yticks(rows, [literal(name) for name in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    spent = [
        value for reached in methods.values() for one in reached for value in (one.first, one.last)
    ]
    finite = [max(value, 1.0) for value in spent if math.isfinite(value)]
    axes.set_xscale("log")
    axes.set_xlim(min(finite, default=1) / 1.4, max(finite, default=10) * 1.4)
    ratio_ticks(axes.xaxis)


def _dot(axes: Axes, one: Arrival, y: float, shade: str) -> None:
    """Steps of zero, a start at the level, count as one, which a logarithmic axis can show."""
    first, seen, last = (max(value, 1.0) for value in (one.first, one.seen, one.last))
    axes.plot([first, last], [y, y], color=shade, lw=1.6, zorder=2)
    fill = shade if one.arrived == one.runs else "white"
    axes.plot(
        [seen],
        [y],
        marker="o",
        color=shade,
        markerfacecolor=fill,
        markersize=5,
        markeredgewidth=1.3,
        zorder=3,
    )


def _alt(found: Mapping[str, Methods]) -> str:
    """For each problem who reaches the hardest level with all seeds, the earliest first."""
    parts = []
    for problem, methods in found.items():
        hardest = {name: levels[-1] for name, levels in methods.items()}
        full = sorted(
            (one.middle, name) for name, one in hardest.items() if one.arrived == one.runs
        )
        words: Sequence[str] = [f"{name} ({count_text(steps)} steps)" for steps, name in full]
        level = next(iter(hardest.values())).level
        parts.append(f"{problem}, {level}, with all seeds: {listed(words, 4) or 'nobody'}")
    return f"Dots of the steps at which methods reach each level. {'; '.join(parts)}."


SECTION = Section("arrivals", "Seeds at each level", {PROBLEM}, 120, section)
