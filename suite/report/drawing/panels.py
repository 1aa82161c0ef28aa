"""A grid of panels, as many in a row as the width of a page holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import WIDTH


@dataclass(frozen=True)
class Panels:
    """The panels of a picture, row by row, without the empty places of the last row.

    Attributes:
        canvas: the picture.
        axes: the panels.
        across: how many stand in a row.
        width: of the picture, in inches.
    """

    canvas: Canvas
    axes: Sequence[Axes]
    across: int
    width: float

    def is_lowest(self, place: int) -> bool:
        """Whether no panel stands below this one, so that it needs a label under its axis."""
        return place + self.across >= len(self.axes)

    def is_first(self, place: int) -> bool:
        """Whether no panel stands left of this one."""
        return place % self.across == 0


def shape_of(count: int, width: float, most: int) -> tuple[int, int]:
    """The panels in a row and the number of rows.

    Args:
        count: of panels.
        width: of a panel, in inches.
        most: panels in a row.
    """
    across = max(1, min(most, count, int(WIDTH / width)))
    return across, math.ceil(count / across)


def panels(
    count: int,
    width: float,
    height: float | Sequence[float],
    *,
    most: int,
    least: float = 0.0,
    margin: Callable[[float], float] = lambda width: 0.0,
    shared: bool = False,
    dpi: float | None = None,
) -> Panels:
    """An empty grid for a number of panels.

    Args:
        count: of panels.
        width: of a panel, in inches.
        height: of a panel, or of each; a row is as tall as its tallest panel.
        most: panels in a row.
        least: the least width of the picture.
        margin: the inches above and below the grid, by the width of the picture.
        shared: whether all panels have the same axes.
        dpi: dots an inch of what is drawn as pixels within a PDF.
    """
    across, down = shape_of(count, width, most)
    whole = max(width * across, least)
    if isinstance(height, float):
        tall, ratios = down * height, None
    else:
        ratios = [max(height[row * across : (row + 1) * across]) for row in range(down)]
        tall = sum(ratios)
    canvas = Canvas(figsize=(whole, tall + margin(whole)), dpi=dpi, layout="constrained")
    grid = canvas.subplots(
        down, across, squeeze=False, sharex=shared, sharey=shared, height_ratios=ratios
    ).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return Panels(canvas, list(grid[:count]), across, whole)
