"""The share of the seeds that reached each level of a problem, and the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, inches, literal, save
from suite.report.drawing.lines import legend, legend_height, ratio_ticks
from suite.report.drawing.panels import panels
from suite.report.section import PROBLEM, Content, Context, Section
from suite.results.frame import Records
from suite.results.time_to_target import level_costs
from suite.stats import median_with_failures
from suite.tables.formats import count_text, listed
from suite.tables.table import runs_note

# from the easiest level to the hardest
SHADES = (
    "#B8D4E8",
    "#7FB2D6",
    "#3B82B8",
    "#0B4F83",
    "#06263F",
)
MOST_ACROSS, PANEL = 3, 2.1  # panels; inches of one beside its labels
ROW = 0.21
HOW_TO_READ = (
    "A row is a method, a dot a level of the problem's metric, the darker the harder: it stands at "
    "the steps that the median run needed, with a line from the first run to the last that reached "
    "the level. Where only some seeds reached it, the dot is hollow, and stands at the median of "
    "those that did. The number at the right counts the seeds that reached the hardest level; a "
    "row without a dark dot never reached it."
)


@dataclass(frozen=True)
class LevelSteps:
    """One method at one level.

    Attributes:
        level: its name.
        reached: how many runs reached it.
        runs: how many there are.
        middle: the steps of the median run; `inf` unless most runs reached the level.
        seen: the median steps of the runs that reached it.
        first: the least steps of a run that reached it.
        last: the most steps of a run that reached it.
    """

    level: str
    reached: int
    runs: int
    middle: float
    seen: float
    first: float
    last: float


Methods = dict[str, list[LevelSteps]]


def section(context: Context) -> Content:
    """A panel for each problem that has levels."""
    contents = level_steps(context.records, level_costs(context.records))
    if not contents:
        return Content()
    return Content([], [_picture(contents, context.figures)], HOW_TO_READ)


def level_steps(records: Records, reached: pd.DataFrame) -> dict[str, Methods]:
    """For each problem and method the levels from the easiest to the hardest.

    Of two levels with the same value, one counts.
    """
    contents: dict[str, Methods] = {}
    for problem, group in reached.groupby("problem", sort=False):
        worst_first = 1 if records.of(str(problem))["direction"].iloc[0] == "max" else -1
        levels = group.drop_duplicates("value").set_index("level")["value"]
        ordered = levels.mul(worst_first).sort_values(kind="stable").index
        cells = dict(list(group.groupby(["optimizer", "level"], sort=False)["steps"]))
        contents[str(problem)] = {
            name: [_level_steps(str(level), cells[name, level]) for level in ordered]
            for name in records.optimizers
            if (name, ordered[0]) in cells
        }
    return contents


def _level_steps(level: str, steps: pd.Series) -> LevelSteps:
    finite = np.sort(steps[np.isfinite(steps)].to_numpy(dtype=float))
    first, seen, last = (
        (finite[0], np.median(finite), finite[-1])
        if len(finite)
        else (math.inf, math.inf, math.inf)
    )
    middle = median_with_failures(finite.tolist(), len(steps))
    return LevelSteps(
        level, len(finite), len(steps), middle, float(seen), float(first), float(last)
    )


def _picture(contents: Mapping[str, Methods], folder: Path) -> Picture:
    names = [name for methods in contents.values() for name in methods]
    levels = _levels(contents)
    handles = [_key(name, shade) for name, shade in levels.items()]
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        grid = panels(
            len(contents),
            max(WIDTH / MOST_ACROSS, PANEL + inches(names)),
            [0.75 + ROW * len(methods) for methods in contents.values()],
            most=MOST_ACROSS,
            least=5.0,
            margin=lambda width: legend_height(handles, width),
        )
        for place, (problem, methods) in enumerate(contents.items()):
            axes = grid.axes[place]
            axes.set_title(literal(folded(problem, 40)))
            _panel(axes, methods, levels)
            axes.set_xlabel("steps" if grid.is_lowest(place) else "")
        legend(grid.canvas, handles, grid.width)
        png = save(grid.canvas, folder, "arrivals")
    title = "Which share of the seeds reached which level when"
    return Picture("arrivals", title, _caption(contents), _alt(contents), png)


def _caption(contents: Mapping[str, Methods]) -> str:
    runs = sum(levels[-1].runs for methods in contents.values() for levels in methods.values())
    bare = [problem for problem, methods in contents.items() if not _anybody(methods)]
    none = f"No run reached any level of {listed(bare)}. " if bare else ""
    return (
        "Lines: from the first to the last run that reached the level (no other band). A target "
        f"that is one of the levels is not shown twice. {none}{runs_note(runs)}"
    )


def _levels(contents: Mapping[str, Methods]) -> dict[str, str]:
    """The shade of each level, by its place among all levels from the easiest to the hardest."""
    ladders = [next(iter(methods.values())) for methods in contents.values() if methods]
    names = [one.level for one in max(ladders, key=len)]
    for methods in contents.values():
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
    return any(one.reached for levels in methods.values() for one in levels)


def _panel(axes: Axes, methods: Methods, levels: Mapping[str, str]) -> None:
    rows = range(len(methods))
    for row, reached in zip(rows, methods.values(), strict=True):
        for place, one in enumerate(reached):
            if one.reached:
                y = row + 0.16 * (place - (len(reached) - 1) / 2) / max(1, len(reached) - 1) * 2
                _dot(axes, one, y, levels[one.level])
        _count(axes, row, reached[-1])
    axes.set_yticks(rows, [literal(name) for name in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    spent = [
        value for reached in methods.values() for one in reached for value in (one.first, one.last)
    ]
    finite = [max(value, 1.0) for value in spent if math.isfinite(value)]
    axes.set_xscale("log")
    axes.set_xlim(min(finite, default=1) / 1.4, max(finite, default=10) * 1.4)
    ratio_ticks(axes.xaxis)


def _count(axes: Axes, row: int, hardest: LevelSteps) -> None:
    """How many seeds reached the hardest level, right of a method's row."""
    axes.text(
        1.02,
        row,
        f"{hardest.reached}/{hardest.runs}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color="#333333" if hardest.reached else "#8a8a8a",
    )


def _dot(axes: Axes, one: LevelSteps, y: float, shade: str) -> None:
    """Steps of zero, a start at the level, count as one, which a logarithmic axis can show."""
    first, seen, last = (max(value, 1.0) for value in (one.first, one.seen, one.last))
    axes.plot([first, last], [y, y], color=shade, lw=1.6, zorder=2)
    fill = shade if one.reached == one.runs else "white"
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


def _alt(contents: Mapping[str, Methods]) -> str:
    """The methods that reach the hardest level with all seeds, by problem, the earliest first."""
    parts = []
    for problem, methods in contents.items():
        hardest = {name: levels[-1] for name, levels in methods.items()}
        full = sorted(
            (one.middle, name) for name, one in hardest.items() if one.reached == one.runs
        )
        words: Sequence[str] = [f"{name} ({count_text(steps)} steps)" for steps, name in full]
        level = next(iter(hardest.values())).level
        parts.append(f"{problem}, {level}, with all seeds: {listed(words, 4) or 'nobody'}")
    return f"Dots of the steps at which methods reach each level. {'; '.join(parts)}."


SECTION = Section("arrivals", "Seeds at each level", {PROBLEM}, 120, section)
