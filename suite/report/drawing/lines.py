"""Lines in an optimizer's look, bands, legends, labels at the ends of lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from suite.config import registry
from suite.config.registry import OTHER
from suite.report.drawing.canvas import FEW_DECADES, WIDTH, literal, plain_ticks
from suite.report.drawing.style import Look, looks
from suite.results.frame import Records

MOST_COLUMNS = 8
MOST_BANDS = 14  # lines that can have bands, and names at their ends
LEGEND_ROW = 0.24  # inches
NEVER_HERE = r"$\rightarrow$"  # the marker of what lies beyond the panel
CHARACTER, LINE = 0.062, 0.125  # inches that a small letter takes, and a line of them

Array = npt.NDArray[np.float64]


def handle(look: Look, label: str, **style: Any) -> Line2D:
    """A line of a legend."""
    line = Line2D(
        [], [], **{"color": look.colour, "lw": 1.5, "marker": look.marker, "markersize": 4, **style}
    )
    line.set_label(literal(label))
    if look.dashes and line.get_linestyle() != "None":
        line.set_dashes(look.dashes)
    return line


def columns_that_fit(labels: Sequence[str], width: float = WIDTH, mark: float = 0.75) -> int:
    """The most columns of a legend whose labels fit into the picture.

    Args:
        labels: of the legend.
        width: of the picture, in inches.
        mark: the inches of the mark before each label.
    """
    lengths = np.array([len(label) for label in labels])
    for columns in range(min(len(labels), MOST_COLUMNS), 1, -1):
        widths = [mark + 0.075 * int(part.max()) for part in np.array_split(lengths, columns)]
        if sum(widths) <= width:
            return columns
    return 1


def legend_height(handles: Sequence[Line2D], width: float = WIDTH, mark: float = 0.75) -> float:
    """The inches that a legend under a picture takes."""
    labels = [str(one.get_label()) for one in handles]
    return (
        LEGEND_ROW * math.ceil(len(labels) / columns_that_fit(labels, width, mark)) + 0.15
        if labels
        else 0.0
    )


def legend(canvas: Canvas, handles: Sequence[Line2D], width: float = WIDTH) -> None:
    """A legend under the picture, no wider than the picture."""
    if handles:
        columns = columns_that_fit([str(one.get_label()) for one in handles], width)
        canvas.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, handlelength=3.2
        )


def marked_line(
    axes: Axes, x: Array, y: Array, look: Look, number: int, *, marks: int = 6, **style: Any
) -> None:
    """A line with about `marks` markers; those of lines with other numbers are staggered."""
    every = max(1, len(x) // marks)
    (line,) = axes.plot(
        x,
        y,
        color=look.colour,
        lw=1.5,
        marker=look.marker,
        markersize=4,
        markevery=(number % every, every),
        **style,
    )
    if look.dashes:
        line.set_dashes(look.dashes)


def stairs(axes: Axes, x: Array, y: Array, look: Look, number: int) -> None:
    """A right-continuous step function; the markers of different lines are staggered."""
    marked_line(axes, x, y, look, number, drawstyle="steps-post")


def band(
    axes: Axes, x: Array, low: Array, high: Array, look: Look, *, among: int = 1, steps: bool = True
) -> None:
    """The interval around a line; the fainter, the more lines there are."""
    kind: Any = "post" if steps else None
    axes.fill_between(
        x, low, high, step=kind, color=look.colour, alpha=max(0.05, 0.16 - 0.012 * among), lw=0
    )


def end_labels(axes: Axes, ends: Mapping[str, float], looks: Mapping[str, Look]) -> None:
    """Names right of a panel, at the heights of their lines' ends, moved apart if they touch."""
    low, high = axes.get_ylim()
    log = axes.get_yscale() == "log"
    heights = {
        name: (math.log(end / low) / math.log(high / low) if log else (end - low) / (high - low))
        for name, end in ends.items()
        if math.isfinite(end)
    }
    for name, place in moved_apart(heights, LINE / _panel_inches(axes)[1]).items():
        axes.annotate(
            literal(name),
            (1, min(max(heights[name], 0), 1)),
            (1.045, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=looks[name].colour,
            fontsize=7.5,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": looks[name].colour,
                "lw": 0.5,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def moved_apart(heights: Mapping[str, float], least: float) -> dict[str, float]:
    """Heights in [0, 1] at least so far from each other, in the same order.

    Labels that touch join a block around their mean height; blocks that touch join in turn.
    """
    ordered = sorted(heights, key=lambda name: heights[name])
    blocks: list[tuple[float, list[str]]] = []
    for name in ordered:
        centre, members = heights[name], [name]
        while blocks and centre - blocks[-1][0] < least * (len(members) + len(blocks[-1][1])) / 2:
            other, earlier = blocks.pop()
            members = earlier + members
            centre = (other * len(earlier) + centre * (len(members) - len(earlier))) / len(members)
            half = least * (len(members) - 1) / 2
            centre = min(max(centre, half), max(1 - half, half))
        blocks.append((centre, members))
    return {
        name: centre + least * (place - (len(members) - 1) / 2)
        for centre, members in blocks
        for place, name in enumerate(members)
    }


def name_points(
    axes: Axes, points: Mapping[str, tuple[float, float]], colour: str = "#333333"
) -> None:
    """Names beside points, each moved up until it touches no other name.

    The limits of the panel have to be set before.
    """
    placed: list[tuple[float, float, float]] = []
    to_panel = axes.transData + axes.transAxes.inverted()
    wide, high = CHARACTER / _panel_inches(axes)[0], LINE / _panel_inches(axes)[1]
    for name, point in sorted(points.items(), key=lambda item: item[1][1]):
        x, y = (float(value) for value in to_panel.transform(point))
        left = min(x + 0.02, 1.0 - wide * len(name))
        place = y + 0.6 * high
        while any(
            abs(place - other) < high and left < end and left + wide * len(name) > start
            for start, end, other in placed
        ):
            place += 0.25 * high
        placed.append((left, left + wide * len(name), place))
        axes.text(
            left,
            place,
            literal(name),
            transform=axes.transAxes,
            fontsize=7.5,
            color=colour,
            va="center",
        )


def _panel_inches(axes: Axes) -> tuple[float, float]:
    """The approximate size of a panel, from its grid."""
    width, height = axes.get_figure().get_size_inches()  # type: ignore[union-attr]
    grid = axes.get_subplotspec()
    rows, columns = grid.get_gridspec().get_geometry() if grid is not None else (1, 1)
    return 0.8 * width / columns, 0.75 * height / rows


def ratio_ticks(ruler: Axis) -> None:
    """Plain numbers on a logarithmic axis: 0.1, 1, 10 if it is wide, 0.5, 1, 2 if narrow."""
    plain_ticks(ruler)
    low, high = ruler.get_view_interval()
    if high / low >= FEW_DECADES:
        ruler.set_major_locator(LogLocator(numticks=7))
        ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ruler.set_minor_formatter(NullFormatter())


def empty_note(axes: Axes, text: str) -> None:
    """Words in the middle of a panel that has nothing to show; its axis of x has no ticks."""
    axes.set_xticks([])
    axes.set_xticks([], minor=True)
    axes.text(
        0.5, 0.5, literal(text), ha="center", va="center", transform=axes.transAxes, color="#444444"
    )


def named_looks(
    names: Iterable[str], styles: Mapping[str, Look], records: Records
) -> dict[str, Look]:
    """Looks for the names of optimizers: of their label in the report, or new ones."""
    wanted = list(names)
    labels = records.frame.drop_duplicates("name").set_index("name")["optimizer"]
    known = {
        name: styles[str(labels.get(name, name))]
        for name in wanted
        if str(labels.get(name, name)) in styles
    }
    unlabelled = [(name, name, _family(name)) for name in wanted if name not in known]
    fresh = looks([*((f"{label} ", label, OTHER) for label in styles), *unlabelled])
    return {name: known.get(name) or fresh[name] for name in wanted}


def _family(name: str) -> str:
    return (
        registry.family(registry.read("optimizer", name))
        if name in registry.names("optimizer")
        else OTHER
    )
