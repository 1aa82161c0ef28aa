"""Contours of a function of two parameters, and trajectories over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, LinearSegmentedColormap
from matplotlib.contour import QuadContourSet
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from suite.report.drawing import lines
from suite.report.drawing.canvas import RC
from suite.report.drawing.style import Look
from suite.report.drawing.surface import Box, Surface
from suite.report.drawing.trajectories import Trajectory

DOTTED = 60  # steps that get a dot each
STAR, CONTOUR = "#ffd84d", "#5d6b7a"
RASTER = 160  # dots per inch of the ground in a PDF
BARE: dict[Any, Any] = {
    **RC,
    "axes.grid": False,
    "axes.spines.top": True,
    "axes.spines.right": True,
}

Array = npt.NDArray[np.float64]


def box_aspect(box: Box) -> float:
    """Height over width of a panel: true to scale unless that makes it too flat or too tall."""
    return float(np.clip((box[3] - box[2]) / (box[1] - box[0]), 0.65, 1.1))


def draw_ground(axes: Axes, ground: Surface) -> QuadContourSet:
    """The contours, and the minimizers as stars."""
    colours = ground_colours()
    norm = BoundaryNorm(ground.levels, colours.N, extend="both")
    height = np.ma.masked_invalid(ground.height)
    filled = axes.contourf(
        ground.x, ground.y, height, ground.levels, cmap=colours, norm=norm, extend="both"
    )
    lines = axes.contour(
        ground.x,
        ground.y,
        height,
        ground.levels,
        colors=CONTOUR,
        linewidths=0.35,
        linestyles="solid",
    )
    filled.set_rasterized(True)  # tens of thousands of corners, which a PDF would keep one by one
    lines.set_rasterized(True)
    if len(ground.minimizers):
        style: dict[str, Any] = {
            "markersize": 15,
            "markerfacecolor": STAR,
            "markeredgecolor": "#000000",
        }
        axes.plot(*ground.minimizers.T, "*", markeredgewidth=0.8, zorder=3, **style)
    axes.set(xlim=ground.box[:2], ylim=ground.box[2:])
    axes.set_box_aspect(box_aspect(ground.box))
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=6)
    axes.ticklabel_format(scilimits=(-3, 4))
    return filled


def ground_colours() -> Colormap:
    """White valleys and blue-grey heights, pale enough for the colours of trajectories."""
    return LinearSegmentedColormap.from_list("ground", ["#ffffff", "#e6ebf0", "#c3ceda", "#9fb0c2"])


def draw_trajectory(axes: Axes, trajectory: Trajectory, look: Look, box: Box) -> None:
    """A trajectory with a white seam, a ring at its start, the optimizer's marker at its end."""
    line = trajectory_line(axes, look)
    points = trajectory.until(math.inf)
    line.set_data(*points.T)
    early = points[: DOTTED + 1]
    axes.plot(*early.T, ".", color=look.colour, markersize=3.5, zorder=4.5)
    start_ring(axes, points[0])
    exit_ = leaves(points, box)
    place, marker = (exit_, "X") if exit_ is not None else (points[-1], look.marker)
    axes.plot(
        *place,
        marker=marker,
        markersize=7,
        color=look.colour,
        markeredgecolor="white",
        markeredgewidth=0.9,
        zorder=6,
        clip_on=False,
    )


def trajectory_line(axes: Axes, look: Look, **style: Any) -> Line2D:
    """An empty line in an optimizer's look, with a white seam to be readable on any ground."""
    seam = [Stroke(linewidth=3.4, foreground="white", alpha=0.9), Normal()]
    (line,) = axes.plot([], [], color=look.colour, lw=1.7, zorder=4, path_effects=seam, **style)
    if look.dashes:
        line.set_dashes(look.dashes)
    return line


def start_ring(axes: Axes, point: Array) -> None:
    """The start of a trajectory."""
    axes.plot(
        *point,
        "o",
        markersize=7,
        markerfacecolor="white",
        markeredgecolor="black",
        markeredgewidth=1.3,
        zorder=5,
    )


def leaves(points: Array, box: Box) -> Array | None:
    """Where a trajectory last leaves the box; None for one that ends inside."""
    low, high = np.array(box[::2]), np.array(box[1::2])
    inside = np.asarray(((points >= low) & (points <= high)).all(axis=1))
    if inside[-1] or not inside.any():
        return None
    last = int(np.flatnonzero(inside)[-1])
    start, step = points[last], points[last + 1] - points[last]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(
            step > 0, (high - start) / step, np.where(step < 0, (low - start) / step, np.inf)
        )
    crossing: Array = start + float(np.clip(reach.min(), 0, 1)) * step
    return crossing


def handle(look: Look, label: str) -> Line2D:
    """The legend's line of one optimizer."""
    return lines.handle(look, label, lw=1.7, markersize=6)
