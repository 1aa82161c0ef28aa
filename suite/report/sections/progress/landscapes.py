"""Landscapes: contours of a function of two parameters with the path of each optimizer on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import Picture, folded, literal, save, slugs
from suite.report.drawing.contours import (
    BARE,
    RASTER,
    box_aspect,
    draw_ground,
    draw_path,
    handle,
)
from suite.report.drawing.style import Look
from suite.report.drawing.surface import Surface, surface
from suite.report.drawing.trajectories import Plane, Trail, planes
from suite.report.section import PROBLEM, Content, Context, Section
from suite.report.sections.progress.animations import animations
from suite.tables.formats import number

TOGETHER = 4  # paths that one panel can hold
SOLVED = 1e-6
WIDTH = 11.0
HOW_TO_READ = (
    "Functions of two parameters seen from above, the lighter the lower, with the path of each "
    "optimizer from the ring to its marker, and a dot for each of the first steps. Stars are the "
    "known minimizers; a cross at the edge is where a path leaves the picture."
)


def section(context: Context) -> Content:
    """The landscapes, each followed by its animation; empty where no run recorded a trajectory."""
    grounds = planes(context.records, context.allow)
    skipped = f" Not drawn: {'; '.join(grounds.skipped)}." if grounds.skipped else ""
    note = f"{HOW_TO_READ}{skipped}" if grounds.drawn or skipped else ""
    still = landscape_pictures(grounds.drawn, context.styles, context.named_figures)
    moving = animations(grounds.drawn, context.styles, context.named_figures)
    pictures = [picture for pair in zip(still, moving, strict=True) for picture in pair]
    return Content([], pictures, note)


def landscape_pictures(
    planes: Sequence[Plane], looks: Mapping[str, Look], folder: Path
) -> list[Picture]:
    """One picture for each problem of two parameters."""
    names = slugs(plane.problem for plane in planes)
    return [_picture(plane, looks, folder, f"landscape-{names[plane.problem]}") for plane in planes]


def _picture(plane: Plane, looks: Mapping[str, Look], folder: Path, name: str) -> Picture:
    ground = surface(plane)
    with mpl.rc_context(BARE):
        png = save(_draw(plane, ground, looks), folder, name)
    caption = (
        f"Contours of {ground.quantity} on {plane.problem} and the paths of {plane.seed}. From "
        f"{len(plane.trails)} run{'s' if len(plane.trails) != 1 else ''}."
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


def _draw(plane: Plane, ground: Surface, looks: Mapping[str, Look]) -> Canvas:
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


SECTION = Section("landscapes", "Landscapes", {PROBLEM}, 140, section)
