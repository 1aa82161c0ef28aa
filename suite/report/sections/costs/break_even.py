"""The break-even plane: steps saved against the baseline, and the price of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, literal, save
from suite.report.drawing.lines import columns_that_fit, legend_height, name_points, ratio_ticks
from suite.report.drawing.panels import Panels, panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.report.sections.costs.break_even_plane import Plane, Point, plane
from suite.results.levels import TARGET
from suite.stats import Ratio
from suite.tables.formats import listed, ratio_text
from suite.tables.table import runs_note

ACROSS, HEIGHT = 4, 2.6
BEYOND = 2.2  # times the outermost ratio: the place of methods that did not reach the target
BARE_MARK = 0.45  # inches before a label of a legend without marks
Limits = tuple[float, float, float, float]  # left, right, low, high
ISO = (1 / 16, 1 / 4, 4.0, 16.0)
BARS = "Bars: 95 % intervals of the ratios over seeds, dotted where they have no end."
ARROWS = (
    "An arrow at an edge: half of the method's runs or more never reached the target (right), or "
    "of the baseline's (left)."
)
PERCENTAGES = (
    "A percentage behind a problem: not the target, but the hardest level that all of the "
    "baseline's runs reached."
)
HOW_TO_READ = (
    "A point is a method on a problem (numbered, where there are several): left of 1 it needs "
    "fewer steps to the target than the baseline, above 1 it pays more for each. On the dashed "
    "line both take the same time: a method that needs half the steps at twice the price breaks "
    "even. In the shaded part, below the line, it reaches the target earlier; the thin lines stand "
    "for 1/16, 1/4, 4 and 16 times the baseline's time."
)


def section(context: Context) -> Content:
    """The plane; empty where no two methods of a problem that has levels can be compared."""
    shown = plane(context.records)
    if not shown.points:
        return Content()
    return Content([], [_picture(shown, context.styles, context.figures)], HOW_TO_READ)


def _picture(shown: Plane, styles: Mapping[str, Look], folder: Path) -> Picture:
    problems = list(dict.fromkeys(point.problem for point in shown.every))
    names = [_named(problem, shown.levels[problem]) for problem in problems]
    alone = len(problems) == 1
    numbers = {} if alone else {problem: number for number, problem in enumerate(problems, 1)}
    contents = (
        {names[0]: shown.points}
        if alone
        else {name: {name: points} for name, points in shown.points.items()}
    )
    limits, key = _limits(shown.every), [] if alone else _key(names)
    with mpl.rc_context(RC):
        grid = panels(
            len(contents),
            WIDTH / ACROSS,
            HEIGHT * (1.5 if alone else 1.0),
            most=ACROSS,
            least=6.0,
            margin=lambda width: legend_height(key, width, BARE_MARK),
            shared=True,
        )
        for axes, (title, methods) in zip(grid.axes, contents.items(), strict=True):
            _ground(axes, limits)
            _methods(axes, methods, styles, limits, numbers)
            axes.set_title(literal(folded(title, 30)))
        _label(grid, f"{shown.against[0]}'s" if len(shown.against) == 1 else "the baseline's")
        _legend(grid, key)
        png = save(grid.canvas, folder, "plane")
    title = f"Break-even plane against {listed(shown.against)}"
    return Picture("plane", title, _caption(shown), _alt(shown), png)


def _label(grid: Panels, whose: str) -> None:
    """Name the axes of the outer panels."""
    for place, axes in enumerate(grid.axes):
        if grid.is_lowest(place):
            axes.set_xlabel(literal(f"steps to the target / {whose}"))
            axes.tick_params(labelbottom=True)
        if grid.is_first(place):
            axes.set_ylabel(literal(f"seconds per step / {whose}"))


def _methods(
    axes: Axes,
    methods: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Look],
    limits: Limits,
    numbers: Mapping[str, int],
) -> None:
    """Draw all points of a panel, and write names beside those without a number."""
    labels: dict[str, tuple[float, float]] = {}
    for name, points in methods.items():
        for point, spot in _points(axes, points, styles[name], limits, numbers):
            labels[str(numbers.get(point.problem, name))] = spot
    name_points(axes, labels)


def _legend(grid: Panels, key: Sequence[Line2D]) -> None:
    """The problems behind the numbers, under the panels."""
    if key:
        columns = columns_that_fit([str(one.get_label()) for one in key], grid.width, BARE_MARK)
        grid.canvas.legend(
            handles=list(key),
            loc="outside lower center",
            ncols=columns,
            handlelength=0,
            handletextpad=0,
        )


def _named(problem: str, level: str) -> str:
    return problem if level == TARGET else f"{problem} ({level})"


def _key(problems: Sequence[str]) -> list[Line2D]:
    """The problems behind the numbers beside the points."""
    keys = [Line2D([], [], ls="None") for _ in problems]
    for number, (line, problem) in enumerate(zip(keys, problems, strict=True), 1):
        line.set_label(literal(f"{number} {problem}"))
    return keys


def _limits(points: Sequence[Point]) -> Limits:
    """The ranges of both axes, break-even among them.

    The sides have room for methods that did not reach the target.
    """
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

    An interval counts no further than a decade beyond all middles.
    """
    centres = [value for value in middles if 0 < value < math.inf] or [1.0]
    finite = [value for value in values if 0 < value < math.inf]
    if len(middles) > 1:
        finite = [min(max(value, min(centres) / 10), max(centres) * 10) for value in finite]
    return min([*finite, 0.8]), max([*finite, 1.25])


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

    Returns:
        The points that lack a label, with their places.
    """
    bare: list[tuple[Point, tuple[float, float]]] = []
    for point in points:
        spot = _spot(point, limits)
        _bar(axes, point.cost, look, spot[0], across=False, limits=limits[2:])
        if point.is_finite:
            _bar(axes, point.steps, look, spot[1], across=True, limits=limits[:2])
        _mark(axes, point, spot, look, numbered=bool(numbers))
        if numbers and point.is_finite:
            ink = look.colour if point.shared else "white"
            number = str(numbers[point.problem])
            style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 4}
            axes.text(*spot, number, color=ink, fontsize=6.5, **style)
        else:
            bare.append((point, spot))
    return bare


def _spot(point: Point, limits: Limits) -> tuple[float, float]:
    """Where a point stands; at an edge if one side did not reach the level."""
    x = point.steps.ratio
    if math.isinf(x):
        x = limits[1] / 1.25
    return (x or limits[0] * 1.25), point.cost.ratio


def _mark(
    axes: Axes, point: Point, spot: tuple[float, float], look: Look, *, numbered: bool
) -> None:
    """A marker, hollow where the seconds are rough; an arrow at an edge."""
    style: dict[str, Any] = {
        "color": look.colour,
        "markeredgecolor": look.colour,
        "ls": "None",
        "zorder": 3,
    }
    x, y = spot
    if not point.is_finite:
        arrow = r"$\rightarrow$" if point.steps.ratio else r"$\leftarrow$"
        axes.plot([x], [y], marker=arrow, markersize=9, **style)
        return
    fill = "white" if point.shared else look.colour
    shape, size = ("o", 9.5) if numbered else (look.marker, 6.5)
    axes.plot([x], [y], marker=shape, markersize=size, markerfacecolor=fill, **style)


def _bar(
    axes: Axes, ratio: Ratio, look: Look, place: float, *, across: bool, limits: tuple[float, float]
) -> None:
    """An interval, as far as the panel goes."""
    if math.isnan(ratio.low) or math.isnan(ratio.high):
        return
    ends = [max(ratio.low, limits[0]), min(ratio.high, limits[1])]
    x, y = (ends, [place, place]) if across else ([place, place], ends)
    open_ended = ratio.low <= 0 or math.isinf(ratio.high)
    axes.plot(
        x, y, color=look.colour, lw=1.0, alpha=0.55, ls=(0, (1, 2)) if open_ended else "-", zorder=2
    )


def _caption(shown: Plane) -> str:
    intervals = any(
        not math.isnan(one.low) for point in shown.every for one in (point.steps, point.cost)
    )
    parts = [
        f"Ratios to {listed(shown.against)}, the typical run of each.",
        BARS if intervals else "A single seed: no intervals.",
        *(text for holds, text in _notes(shown) if holds),
        runs_note(shown.runs),
    ]
    return " ".join(parts)


def _notes(shown: Plane) -> list[tuple[bool, str]]:
    """The remarks of the caption, each with whether it applies."""
    left_out = "; ".join(f"{problem} ({why})" for problem, why in shown.left_out.items())
    return [
        (not all(point.is_finite for point in shown.every), ARROWS),
        (bool(set(shown.levels.values()) - {TARGET}), PERCENTAGES),
        (
            any(point.shared for point in shown.every),
            "Hollow: seconds of runs that shared the machine, to be read as rough.",
        ),
        (bool(left_out), f"Left out: {left_out}."),
    ]


def _alt(shown: Plane) -> str:
    """In how many problems each method reaches the target earlier, and its median ratios."""
    parts = []
    for name, points in shown.points.items():
        earlier = sum(point.steps.ratio * point.cost.ratio < 1 for point in points)
        steps, cost = (
            float(np.median([getattr(p, key).ratio for p in points])) for key in ("steps", "cost")
        )
        parts.append(
            f"{name} earlier in {earlier} of {len(points)} (median {_text(steps)} times the steps, "
            f"{_text(cost)} times the cost of a step)"
        )
    against = listed(shown.against)
    return (
        f"Steps to the target against seconds per step, both relative to {against}: "
        f"{listed(parts, 12)}."
    )


def _text(value: float) -> str:
    return "infinitely many" if math.isinf(value) else ratio_text(value)


SECTION = Section("plane", "Break-even plane", {OVERALL}, 80, section)
