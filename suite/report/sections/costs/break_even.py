"""The break-even plane.

How many steps a method saves against the baseline, and how much more it pays for each.
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
from matplotlib.lines import Line2D

from suite.compare.baseline import baselines
from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, literal, save
from suite.report.drawing.lines import columns_that_fit, legend_height, name_points, ratio_ticks
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.frame import Records
from suite.results.levels import TARGET
from suite.results.time_to_target import SHARED, common_level, level_costs, step_seconds
from suite.stats import Ratio, median_with_failures, ratio_interval
from suite.tables.formats import listed, ratio_text
from suite.tables.table import runs_note

ACROSS, HEIGHT = 4, 2.6
BEYOND = 2.2  # times the outermost ratio: where those stand that did not arrive
BARE_MARK = 0.45  # inches before a label of a legend without marks
Limits = tuple[float, float, float, float]  # left, right, low, high
ISO = (1 / 16, 1 / 4, 4.0, 16.0)
HOW_TO_READ = (
    "A point is a method on a problem (numbered, where there are several): left of 1 it needs "
    "fewer steps to the target than the baseline, above 1 it pays more for each. On the dashed "
    "line both take the same time: a method that needs half the steps at twice the price breaks "
    "even. In the shaded part, below the line, it arrives earlier; the thin lines stand for 1/16, "
    "1/4, 4 and 16 times the baseline's time."
)


@dataclass(frozen=True)
class Point:
    """A method on a problem, against the baseline.

    Attributes:
        steps, cost: the ratios of the steps to the level and of the seconds of a step, with their
            intervals; `inf` steps where half of the method's runs did not arrive, 0 where half of
            the baseline's did not.
        shared: whether any of the seconds come from runs that shared the machine.
    """

    problem: str
    steps: Ratio
    cost: Ratio
    shared: bool


@dataclass(frozen=True)
class Plane:
    """All that is shown: the points of each method, against whom, each problem's level, and who has no place."""

    against: list[str]
    points: dict[str, list[Point]]
    levels: dict[str, str]
    left_out: dict[str, str]
    runs: int


def section(context: Context) -> Content:
    """The plane; empty where no two methods of a problem that has levels can be compared."""
    found = plane(context.records)
    if not found.points:
        return Content()
    return Content([], [_picture(found, context.styles, context.figures)], HOW_TO_READ)


def plane(records: Records) -> Plane:
    """The points of every method on every problem where it and the baseline ran on the same hardware."""
    reached = level_costs(records)
    against = baselines(records, reached)
    seconds = step_seconds(records)
    points: dict[str, list[Point]] = {}
    left_out: dict[str, str] = {}
    used: set[str] = set()
    levels: dict[str, str] = {}
    runs = 0
    for problem in records.problems:
        steps = reached[reached["problem"] == problem]
        if steps.empty or problem not in against:
            left_out[problem] = "no target" if steps.empty else "no baseline was run"
            continue
        level = common_level(steps, against[problem])
        steps = steps[steps["level"] == level]
        own_steps, own_seconds = (
            _by_method(steps),
            _by_method(seconds[seconds["problem"] == problem]),
        )
        none = steps.iloc[:0].set_index("seed"), seconds.iloc[:0].set_index("seed")
        cells = {
            name: (own_steps.get(name, none[0]), own_seconds.get(name, none[1]))
            for name in records.optimizers
        }
        theirs = cells[against[problem]]
        found = {
            name: _point(problem, *cells[name], *theirs)
            for name in cells
            if name != against[problem]
        }
        placed = {name: point for name, point in found.items() if point is not None}
        for name, point in placed.items():
            points.setdefault(name, []).append(point)
        if placed:
            used.add(against[problem])
            levels[problem] = str(level)
            runs += sum(len(cells[name][0]) for name in (*placed, against[problem]))
        else:
            left_out[problem] = (
                "nobody reached a level"
                if np.isinf(theirs[0]["steps"]).all()
                else "nobody to compare"
            )
    kept = {name: points[name] for name in records.optimizers if name in points}
    return Plane(
        [name for name in records.optimizers if name in used], kept, levels, left_out, runs
    )


def _by_method(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        str(name): rows.set_index("seed") for name, rows in table.groupby("optimizer", sort=False)
    }


def _point(
    problem: str,
    steps: pd.DataFrame,
    seconds: pd.DataFrame,
    their_steps: pd.DataFrame,
    their_seconds: pd.DataFrame,
) -> Point | None:
    """A method's place; None where nobody arrived, or no seconds come from the same hardware."""
    places = set(seconds["hardware"]) & set(their_seconds["hardware"])
    if (
        not len(steps)
        or len(places) != 1
        or not np.isfinite([*steps["steps"], *their_steps["steps"]]).any()
    ):
        return None
    here, there = (table[table["hardware"].isin(places)] for table in (seconds, their_seconds))
    shared = bool((here["source"] == SHARED).any() or (there["source"] == SHARED).any())
    ratio = _ratio(steps["steps"], their_steps["steps"])
    return (
        None
        if math.isnan(ratio.ratio)
        else Point(problem, ratio, _ratio(here["seconds"], there["seconds"]), shared)
    )


def _ratio(own: pd.Series, theirs: pd.Series) -> Ratio:
    """The ratio of typical costs, paired by seed where both have the same ones.

    Where runs failed it is that of the medians, failures as `inf`; a start at the level costs one
    step.
    """
    paired = len(own) == len(theirs) and set(own.index) == set(theirs.index) and own.index.is_unique
    ordered = (own.sort_index(), theirs.sort_index()) if paired else (own, theirs)
    a, b = (
        np.maximum(side.to_numpy(dtype=float), 1.0 if side.name == "steps" else 0.0)
        for side in ordered
    )
    found = ratio_interval(a, b, paired=paired)
    if np.isfinite(a).all() and np.isfinite(b).all():
        return found
    middles = [median_with_failures(side[np.isfinite(side)].tolist(), len(side)) for side in (a, b)]
    return found._replace(
        ratio=middles[0] / middles[1] if math.isfinite(min(middles)) else math.nan
    )


def _picture(found: Plane, styles: Mapping[str, Look], folder: Path) -> Picture:
    problems = list(
        dict.fromkeys(point.problem for points in found.points.values() for point in points)
    )
    alone = len(problems) == 1
    numbers = {} if alone else {problem: number for number, problem in enumerate(problems, 1)}
    title = _named(problems[0], found.levels[problems[0]])
    panels = (
        {title: found.points}
        if alone
        else {name: {name: found.points[name]} for name in found.points}
    )
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    width = max(WIDTH * across / ACROSS, 6.0)
    limits = _limits([point for points in found.points.values() for point in points])
    key = [] if alone else _key([_named(problem, found.levels[problem]) for problem in problems])
    with mpl.rc_context(RC):
        high = HEIGHT * (1.5 if alone else 1.0)
        canvas = Canvas(
            figsize=(width, down * high + legend_height(key, width, BARE_MARK)),
            layout="constrained",
        )
        grid = canvas.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        whose = f"{found.against[0]}'s" if len(found.against) == 1 else "the baseline's"
        for place, (axes, (title, methods)) in enumerate(zip(grid, panels.items(), strict=False)):
            _ground(axes, limits)
            if place + across >= len(panels):
                axes.set_xlabel(literal(f"steps to the target / {whose}"))
                axes.tick_params(labelbottom=True)
            if place % across == 0:
                axes.set_ylabel(literal(f"seconds per step / {whose}"))
            labels: dict[str, tuple[float, float]] = {}
            for name, points in methods.items():
                for point, spot in _points(axes, points, styles[name], limits, numbers):
                    labels[str(numbers.get(point.problem, name))] = spot
            name_points(axes, labels)
            axes.set_title(literal(folded(title, 30)))
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if key:
            columns = columns_that_fit([str(one.get_label()) for one in key], width, BARE_MARK)
            canvas.legend(
                handles=key,
                loc="outside lower center",
                ncols=columns,
                handlelength=0,
                handletextpad=0,
            )
        png = save(canvas, folder, "plane")
    return Picture(
        "plane",
        f"Break-even plane against {listed(found.against)}",
        _caption(found),
        _alt(found),
        png,
    )


def _named(problem: str, level: str) -> str:
    return problem if level == TARGET else f"{problem} ({level})"


def _key(problems: Sequence[str]) -> list[Line2D]:
    """What the numbers beside the points stand for."""
    keys = [Line2D([], [], ls="None") for _ in problems]
    for number, (line, problem) in enumerate(zip(keys, problems, strict=True), 1):
        line.set_label(literal(f"{number} {problem}"))
    return keys


def _limits(points: Sequence[Point]) -> Limits:
    """The ranges of both axes, break-even among them, with room at the sides for those that did not arrive."""
    x = [value for p in points for value in (p.steps.ratio, p.steps.low, p.steps.high)]
    y = [value for p in points for value in (p.cost.ratio, p.cost.low, p.cost.high)]
    middles = [p.steps.ratio for p in points]
    (left, right), (low, high) = (
        _range(values, centre) for values, centre in ((x, middles), (y, [1.0]))
    )
    left = left / BEYOND if any(value == 0 for value in middles) else left
    right = right * BEYOND if any(math.isinf(value) for value in middles) else right
    return left / 1.3, right * 1.3, low / 1.3, high * 1.3


def _range(values: Sequence[float], middles: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest.

    Of intervals that reach more than a decade beyond all middles, only that.
    """
    centres = [value for value in middles if 0 < value < math.inf] or [1.0]
    kept = [value for value in values if 0 < value < math.inf]
    if len(middles) > 1:
        kept = [min(max(value, min(centres) / 10), max(centres) * 10) for value in kept]
    return min([*kept, 0.8]), max([*kept, 1.25])


def _ground(axes: Axes, limits: Limits) -> None:
    left, right, low, high = limits
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
    x = np.geomspace(left, right, 2)
    axes.fill_between(
        x, np.full(2, low), np.clip(1 / x, None, None), color="#eef4ee", lw=0, zorder=0
    )
    axes.plot(x, 1 / x, color="#444444", lw=1.1, ls=(0, (5, 3)), zorder=1)
    for factor in ISO:
        axes.plot(x, factor / x, color="#b5b5b5", lw=0.6, zorder=0.9)
    for ruler in (axes.xaxis, axes.yaxis):
        ratio_ticks(ruler)


def _points(
    axes: Axes, points: Sequence[Point], look: Look, limits: Limits, numbers: Mapping[str, int]
) -> list[tuple[Point, tuple[float, float]]]:
    """Draw a method's points with their intervals, numbered if they have numbers.

    Give back which lack a label.
    """
    bare: list[tuple[Point, tuple[float, float]]] = []
    for point in points:
        x, y = point.steps.ratio, point.cost.ratio
        beyond = not 0 < x < math.inf
        x = limits[1] / 1.25 if math.isinf(x) else limits[0] * 1.25 if x == 0 else x
        _bar(axes, point.cost, look, x, across=False, limits=limits[2:])
        style: dict[str, Any] = {
            "color": look.colour,
            "markeredgecolor": look.colour,
            "ls": "None",
            "zorder": 3,
        }
        fill = "white" if point.shared else look.colour
        if beyond:
            arrow = r"$\rightarrow$" if point.steps.ratio else r"$\leftarrow$"
            axes.plot([x], [y], marker=arrow, markersize=9, **style)
        else:
            _bar(axes, point.steps, look, y, across=True, limits=limits[:2])
            shape, size = ("o", 9.5) if numbers else (look.marker, 6.5)
            axes.plot([x], [y], marker=shape, markersize=size, markerfacecolor=fill, **style)
        if numbers and not beyond:
            ink = look.colour if point.shared else "white"
            number = str(numbers[point.problem])
            axes.text(
                x, y, number, color=ink, fontsize=6.5, ha="center", va="center_baseline", zorder=4
            )
        else:
            bare.append((point, (x, y)))
    return bare


def _bar(
    axes: Axes, ratio: Ratio, look: Look, place: float, *, across: bool, limits: tuple[float, float]
) -> None:
    """An interval, as far as the panel goes; none where there is none."""
    if math.isnan(ratio.low) or math.isnan(ratio.high):
        return
    ends = [max(ratio.low, limits[0]), min(ratio.high, limits[1])]
    x, y = (ends, [place, place]) if across else ([place, place], ends)
    open_ended = ratio.low <= 0 or math.isinf(ratio.high)
    axes.plot(
        x, y, color=look.colour, lw=1.0, alpha=0.55, ls=(0, (1, 2)) if open_ended else "-", zorder=2
    )


def _caption(found: Plane) -> str:
    every = [point for points in found.points.values() for point in points]
    intervals = any(not math.isnan(one.low) for point in every for one in (point.steps, point.cost))
    bars = "Bars: 95 % intervals of the ratios over seeds, dotted where they have no end."
    parts = [
        f"Ratios to {listed(found.against)}, the typical run of each.",
        bars if intervals else "A single seed: no intervals.",
        "An arrow at an edge: half of the method's runs or more never arrived (right), or of the "
        "baseline's (left)."
        if any(not 0 < point.steps.ratio < math.inf for point in every)
        else "",
        "A percentage behind a problem: not the target, but the hardest level that all of the "
        "baseline's runs reached."
        if set(found.levels.values()) - {TARGET}
        else "",
        "Hollow: seconds of runs that shared the machine, to be read as rough."
        if any(p.shared for p in every)
        else "",
        f"Left out: {'; '.join(f'{problem} ({why})' for problem, why in found.left_out.items())}."
        if found.left_out
        else "",
        runs_note(found.runs),
    ]
    return " ".join(part for part in parts if part)


def _alt(found: Plane) -> str:
    """In how many problems each method arrives earlier, and its median ratios."""
    said = []
    for name, points in found.points.items():
        earlier = sum(point.steps.ratio * point.cost.ratio < 1 for point in points)
        steps, cost = (
            float(np.median([getattr(p, key).ratio for p in points])) for key in ("steps", "cost")
        )
        said.append(
            f"{name} earlier in {earlier} of {len(points)} (median {_text(steps)} times the steps, "
            f"{_text(cost)} times the cost of a step)"
        )
    return f"Steps to the target against seconds per step, both relative to {listed(found.against)}: {listed(said, 12)}."


def _text(value: float) -> str:
    return "infinitely many" if math.isinf(value) else ratio_text(value)


SECTION = Section("plane", "Break-even plane", {OVERALL}, 80, section)
