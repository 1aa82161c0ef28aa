"""Landscapes: contours of a function of two parameters with the path of each optimizer on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, LinearSegmentedColormap
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from suite.report.drawing import lines
from suite.report.drawing.canvas import RC, Picture, folded, literal, save, slugs
from suite.report.drawing.style import Look
from suite.report.drawing.surface import Box, Surface, surface
from suite.report.drawing.trajectories import Plane, Trail
from suite.tables.formats import number

TOGETHER = 4  # paths that one panel can hold
DOTTED = 60  # steps that get a dot each
SOLVED = 1e-6
WIDTH = 11.0
STAR, CONTOUR = "#ffd84d", "#5d6b7a"
RASTER = 160  # dots per inch of the ground in a PDF
BARE: dict[Any, Any] = {
    **RC,
    "axes.grid": False,
    "axes.spines.top": True,
    "axes.spines.right": True,
}
HOW_TO_READ = (
    "Functions of two parameters seen from above, the lighter the lower, with the path of each "
    "optimizer from the ring "
    "to its marker, and a dot for each of the first steps. Stars are the known minimizers; a cross "
    "at the edge is "
    "where a path leaves the picture."
)

Array = npt.NDArray[np.float64]


def landscape_pictures(
    planes: Sequence[Plane], looks: dict[str, Look], folder: Path
) -> list[Picture]:
    """One picture for each problem of two parameters."""
    names = slugs(plane.problem for plane in planes)
    return [_picture(plane, looks, folder, f"landscape-{names[plane.problem]}") for plane in planes]


def _picture(plane: Plane, looks: dict[str, Look], folder: Path, name: str) -> Picture:
    ground = surface(plane)
    with mpl.rc_context(BARE):
        png = save(_draw(plane, ground, looks), folder, name)
    caption = (
        f"Contours of {ground.quantity} on {plane.problem} and the paths of {plane.seed}. "
        f"From {len(plane.trails)} run{'s' if len(plane.trails) != 1 else ''}."
    )
    said = "; ".join(f"{trail.optimizer}: {fate(plane, ground, trail)}" for trail in plane.trails)
    return Picture(
        name,
        plane.problem,
        caption,
        f"Paths of the optimizers on {plane.problem}, {plane.seed}. {said}.",
        png,
    )


def fate(plane: Plane, ground: Surface, trail: Trail) -> str:
    """Where a path led: when it came within the target of the minimum, or how high it is at its end."""
    heights = plane.values(trail.points) - (ground.minimum or 0.0)
    goal = plane.target or SOLVED
    if ground.minimum is not None and (heights <= goal).any():
        return (
            f"{ground.quantity} < {goal:g} after {_steps(trail.steps[np.argmax(heights <= goal)])}"
        )
    if trail.status == "diverged":
        return f"diverged after {_steps(trail.steps[-1])}"
    said = (
        f"{ground.quantity} = {number(heights[-1])}"
        if math.isfinite(heights[-1])
        else "no finite value"
    )
    return f"{said} after {_steps(trail.steps[-1])}"


def _steps(count: float) -> str:
    return f"{count:,.0f} step{'s' if count != 1 else ''}"


def _draw(plane: Plane, ground: Surface, looks: dict[str, Look]) -> Canvas:
    """One panel for a few paths, else a panel each."""
    together = len(plane.trails) <= TOGETHER
    across = 1 if together else 3 if len(plane.trails) <= 9 else 4
    down = 1 if together else math.ceil(len(plane.trails) / across)
    width = 7.5 if together else WIDTH
    panel = (width - 1.5) / across * box_aspect(ground.box) + (0.6 if together else 0.65)
    canvas = Canvas(figsize=(width, 0.5 + panel * down), dpi=RASTER, layout="constrained")
    grid = canvas.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[: 1 if together else len(plane.trails)]:
        filled = draw_ground(axes, ground)
    for place, trail in enumerate(plane.trails):
        axes = grid[0 if together else place]
        draw_path(axes, trail, looks[trail.optimizer], ground.box)
        if not together:
            axes.set_title(
                literal(f"{folded(trail.optimizer)}\n{fate(plane, ground, trail)}"), fontsize=9
            )
    for axes in grid[1 if together else len(plane.trails) :]:
        axes.set_axis_off()
    bar = canvas.colorbar(
        filled,
        ax=list(grid),
        shrink=0.8,
        pad=0.02,
        aspect=30,
        format=lambda level, _: _height(level),
    )
    bar.set_label(ground.quantity)
    canvas.suptitle(literal(f"{plane.problem}, {plane.seed}"), fontsize=12)
    if together:
        labels = {
            trail.optimizer: f"{trail.optimizer}: {fate(plane, ground, trail)}"
            for trail in plane.trails
        }
        handles = [handle(looks[name], label) for name, label in labels.items()]
        canvas.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=3.2)
    return canvas


def _height(level: float) -> str:
    """A level in a few characters."""
    if abs(level) < 1e-9:
        return "0"
    return f"{level:.0f}" if 100 <= abs(level) < 1e4 else f"{level:.2g}"


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
    """Pale and almost grey, so that every path's colour stands out.

    White valleys, blue-grey heights.
    """
    return LinearSegmentedColormap.from_list("ground", ["#ffffff", "#e6ebf0", "#c3ceda", "#9fb0c2"])


def draw_path(axes: Axes, trail: Trail, look: Look, box: Box) -> None:
    """A path with a white seam, a ring at its start, the optimizer's marker at its end."""
    line = path_line(axes, look)
    points = trail.until(math.inf)
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


def path_line(axes: Axes, look: Look, **style: Any) -> Line2D:
    """An empty line in an optimizer's look, with a white seam that keeps it readable on any ground."""
    seam = [Stroke(linewidth=3.4, foreground="white", alpha=0.9), Normal()]
    (line,) = axes.plot([], [], color=look.colour, lw=1.7, zorder=4, path_effects=seam, **style)
    if look.dashes:
        line.set_dashes(look.dashes)
    return line


def start_ring(axes: Axes, point: Array) -> None:
    """Where a path starts."""
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
    """Where a path that ends outside the box last crosses its edge; None for one that ends inside."""
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
