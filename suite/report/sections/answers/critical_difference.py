"""Mean ranks over problems with Nemenyi's critical difference, as Demsar (2006) draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from suite.report.drawing.canvas import RC, Picture, inches, literal, save
from suite.report.drawing.panels import panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.aggregate import LABELS, Aggregated, aggregated
from suite.results.time_to_target import level_costs
from suite.stats import Nemenyi, friedman, nemenyi
from suite.tables.formats import listed
from suite.tables.table import runs_note

FEWEST_PROBLEMS, FEWEST_METHODS = 2, 3
ALPHA = 0.05
LINE, HEAD = 0.21, 1.0  # inches: of a method, and of the axis with what stands above it
BASE = 0.72  # inches from the top of a diagram to its axis
INK = "#333333"
MOST_TICKS = 14  # ranks that have their number above the axis
HOW_TO_READ = (
    "On every problem the methods are ranked by what the median run spends to reach the target, 1 "
    "for the least; those that never reach it share the last ranks. The axis shows the means of "
    "these ranks: the best method stands leftmost. Methods under one thick bar cannot be told "
    "apart, since their mean ranks differ by less than the critical difference CD. Few problems "
    "make a long CD: that no difference is seen does not say that there is none."
)


@dataclass(frozen=True)
class Ranking:
    """The ranks of one unit.

    Attributes:
        test: the ranks with the critical difference.
        p_value: of Friedman's test for any difference at all.
        problems: how many there are.
    """

    test: Nemenyi
    p_value: float
    problems: int


def section(context: Context) -> Content:
    """The diagrams in steps, seconds and gradient-equivalents; words where too little is ranked."""
    chosen = aggregated(context.records, level_costs(context.records))
    rankings = {
        unit: one
        for unit, rows in chosen.by_unit.items()
        if (one := ranking(rows, chosen.methods)) is not None
    }
    if not rankings:
        return Content(note=_why_not(chosen))
    return Content([], [_picture(rankings, chosen, context.styles, context.figures)], HOW_TO_READ)


def ranking(rows: pd.DataFrame, methods: Sequence[str]) -> Ranking | None:
    """Ranks of the median costs of those that ran on every problem; None for too few of either.

    Args:
        rows: a row per run: `problem`, `optimizer` and `cost`, `inf` where the target was not
            reached.
        methods: the columns, in their order.
    """
    costs = rows.pivot_table(
        index="problem", columns="optimizer", values="cost", aggfunc="median", sort=False
    )
    costs = costs.reindex(columns=list(methods)).dropna(axis=1)
    if len(costs) < FEWEST_PROBLEMS or len(costs.columns) < FEWEST_METHODS:
        return None
    return Ranking(
        nemenyi(costs, ALPHA, mode="min"), friedman(costs, mode="min").p_value, len(costs)
    )


def _why_not(chosen: Aggregated) -> str:
    problems = max(chosen.ran.values(), default=0)
    complete = [name for name in chosen.methods if chosen.ran[name] == problems]
    if not problems:
        return ""
    return (
        f"Mean ranks need {FEWEST_PROBLEMS} problems with a target and {FEWEST_METHODS} methods "
        f"that ran on all of them; here they are {problems} and {len(complete)}. {chosen.note}"
    ).strip()


def _picture(
    rankings: Mapping[str, Ranking], chosen: Aggregated, styles: Mapping[str, Look], folder: Path
) -> Picture:
    names = [str(name) for name in next(iter(rankings.values())).test.ranks.index]
    side = 0.35 + inches(names)
    heights = [
        HEAD + LINE * ((len(one.test.ranks) + 1) // 2) + 0.09 * len(one.test.groups)
        for one in rankings.values()
    ]
    with mpl.rc_context({**RC, "axes.grid": False}):
        grid = panels(len(rankings), max(7.0, 4.6 + 2 * side), heights, most=1)
        share = side / (grid.width - 2 * side)
        for axes, (unit, one), height in zip(grid.axes, rankings.items(), heights, strict=True):
            _diagram(axes, one, LABELS[unit], styles, height, share)
        png = save(grid.canvas, folder, "ranks")
    caption = _caption(rankings, chosen, names)
    return Picture("ranks", "Critical differences of mean ranks", caption, _alt(rankings), png)


def _caption(rankings: Mapping[str, Ranking], chosen: Aggregated, names: Sequence[str]) -> str:
    problems = [
        f"{one.problems} in {LABELS[unit]} (Friedman p = {one.p_value:.2g})"
        for unit, one in rankings.items()
    ]
    out = [name for name in chosen.methods if name not in names]
    unranked = f"Not ranked, since not run on all problems: {listed(out)}. " if out else ""
    return (
        f"Mean ranks over problems, {listed(problems)}; CD: Nemenyi's critical difference at "
        f"{ALPHA:.0%} (no other band). Medians over seeds. "
        f"{unranked}{_without_the_unrun(chosen)}{runs_note(len(chosen.indices))}"
    )


def _without_the_unrun(chosen: Aggregated) -> str:
    note = chosen.note.partition("Not run on every problem")[0].strip()
    return f"{note} " if note else ""


def _diagram(
    axes: Axes, one: Ranking, title: str, styles: Mapping[str, Look], height: float, side: float
) -> None:
    """Axis, critical difference, names on elbows at both sides, bars.

    X in ranks, y in inches from the top down.
    """
    k = len(one.test.ranks)
    axes.set_axis_off()
    axes.set_ylim(height, 0)
    axes.set_xlim(1 - side * (k - 1), k + side * (k - 1))
    axes.text(
        1, 0.08, f"{title}, {one.problems} problems", ha="left", va="center", fontweight="bold"
    )
    _measure(axes, one.test.difference, k)
    _axis(axes, k)
    _names(axes, one.test, styles)
    _bars(axes, one.test)


def _axis(axes: Axes, k: int) -> None:
    """The line of ranks with its ticks."""
    axes.plot([1, k], [BASE, BASE], color=INK, lw=1)
    for rank in range(1, k + 1):
        axes.plot([rank, rank], [BASE - 0.06, BASE], color=INK, lw=1)
        if (rank - 1) % math.ceil(k / MOST_TICKS) == 0:
            axes.text(rank, BASE - 0.09, str(rank), ha="center", va="bottom", fontsize=8)


def _names(axes: Axes, test: Nemenyi, styles: Mapping[str, Look]) -> None:
    """The better half of the methods at the left, the others at the right."""
    k = len(test.ranks)
    first = BASE + 0.14 + 0.09 * len(test.groups)
    for place, (name, rank) in enumerate(test.ranks.items()):
        left = place < (k + 1) // 2
        line = first + LINE * (place if left else k - 1 - place)
        edge, side = (1, -1) if left else (k, 1)
        _elbow(axes, str(name), float(rank), line, styles, edge=edge, side=side)


def _bars(axes: Axes, test: Nemenyi) -> None:
    """A thick bar over each group of methods that cannot be told apart."""
    reach = 0.012 * (len(test.ranks) - 1)
    for place, group in enumerate(test.groups):
        y = BASE + 0.1 + 0.09 * place
        ends = [test.ranks[group[0]] - reach, test.ranks[group[-1]] + reach]
        axes.plot(ends, [y, y], color=INK, lw=3.2, solid_capstyle="butt")


def _measure(axes: Axes, difference: float, k: int) -> None:
    """The critical difference as a length, right of the title.

    As a number alone where it is longer than the axis.
    """
    length = min(difference, float(k - 1))
    start, y = k - length, 0.38
    axes.plot([start, k], [y, y], color=INK, lw=1)
    for end in (start, k):
        axes.plot([end, end], [y - 0.04, y + 0.04], color=INK, lw=1)
    beyond = " (longer than the axis)" if difference > k - 1 else ""
    axes.text(k, y - 0.12, f"CD = {difference:.2f}{beyond}", ha="right", va="center", fontsize=8)


def _elbow(
    axes: Axes,
    name: str,
    rank: float,
    line: float,
    styles: Mapping[str, Look],
    *,
    edge: float,
    side: int,
) -> None:
    look, reach = styles[name], side * 0.015 * abs(axes.get_xlim()[1] - axes.get_xlim()[0])
    axes.plot([rank, rank, edge + reach], [BASE, line, line], color=look.colour, lw=1.1)
    axes.plot([rank], [BASE], marker=look.marker, color=look.colour, markersize=4.5, zorder=3)
    ha = "right" if side < 0 else "left"
    axes.text(
        edge + 1.5 * reach, line, literal(f"{name}  {rank:.2f}"), ha=ha, va="center", fontsize=8.5
    )


def _alt(rankings: Mapping[str, Ranking]) -> str:
    parts = []
    for unit, one in rankings.items():
        ranks = [f"{name} {rank:.2f}" for name, rank in one.test.ranks.items()]
        best = [group for group in one.test.groups if one.test.ranks.index[0] in group]
        same = f"; the best cannot be told from {listed(best[0][1:], 8)}" if best else ""
        parts.append(f"{LABELS[unit]}, mean ranks from the best: {listed(ranks, 12)}{same}")
    return f"Critical-difference diagram. {'. '.join(parts)}.".replace("\n", " ")


SECTION = Section("ranks", "Mean ranks", {OVERALL}, 50, section)
