"""Shares against cost as step functions: a panel a unit, bands, a marked place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import RC, WIDTH, save
from suite.report.drawing.lines import (
    MOST_BANDS,
    band,
    end_labels,
    handle,
    legend,
    legend_height,
    ratio_ticks,
    stairs,
)
from suite.report.drawing.style import Look
from suite.results.aggregate import LABELS
from suite.stats import at

Array = npt.NDArray[np.float64]
Bands = Mapping[str, tuple[Array, Array, Array]]  # places, low, high


def unit_panels(
    folder: Path,
    name: str,
    ran: Mapping[str, int],
    methods: Sequence[str],
    styles: Mapping[str, Look],
    panel: Callable[[Axes, str], None],
    x: str,
    y: str,
) -> Path:
    """A panel for each unit of cost over a legend.

    Args:
        folder: of the picture.
        name: of the picture's files.
        ran: the number of problems that each method ran on; the legend marks those with fewer.
        methods: in their order.
        styles: the look of each method.
        panel: draws a unit into a panel.
        x: the name of the axis of costs.
        y: the name of the axis of shares.
    """
    most = max(ran.values())
    handles = [
        handle(styles[one], one if ran[one] == most else f"{one} (ran on {ran[one]})")
        for one in methods
    ]
    with mpl.rc_context(RC):
        canvas = Canvas(figsize=(WIDTH, 3.7 + legend_height(handles)), layout="constrained")
        row = canvas.subplots(1, len(LABELS), sharey=True)
        for axes, unit in zip(row, LABELS, strict=True):
            axes.set(title=LABELS[unit], ylim=(-0.02, 1.04))
            panel(axes, unit)
            axes.set_xlabel(x)
        row[0].set_ylabel(y)
        legend(canvas, handles)
        return save(canvas, folder, name)


def share_lines(
    axes: Axes,
    shares: pd.DataFrame,
    grid: Array,
    bands: Bands,
    mark: float,
    styles: Mapping[str, Look],
) -> None:
    """Each method's share as a step function.

    Args:
        axes: the panel.
        shares: index cost, a column a method.
        grid: the places at which the functions are drawn.
        bands: of the methods; drawn only where the methods are few.
        mark: the place of a dotted line.
        styles: the look of each method.
    """
    few = len(shares.columns) <= MOST_BANDS
    ends: dict[str, float] = {}
    for number, name in enumerate(shares.columns):
        height = at(shares[[name]], grid)[name].to_numpy()
        stairs(axes, grid, height, styles[name], number)
        if few and name in bands:
            band(axes, *bands[name], styles[name], among=len(bands))
        ends[name] = float(height[-1])
    axes.axvline(mark, color="#9a9a9a", lw=0.8, ls=(0, (1, 2)))
    ratio_ticks(axes.xaxis)
    if few:
        end_labels(axes, ends, styles)
