"""Contours of a function of two parameters with the trajectory of each optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import WIDTH, Picture, folded, literal, save, slugs
from suite.report.drawing.contours import (
    BARE,
    RASTER,
    box_aspect,
    draw_ground,
    draw_trajectory,
    handle,
)
from suite.report.drawing.panels import Panels, panels
from suite.report.drawing.style import Look
from suite.report.drawing.surface import Surface, surface
from suite.report.drawing.trajectories import Landscape, Trajectory, landscapes
from suite.report.section import PROBLEM, Content, Context, Section
from suite.report.sections.progress.animations import animations
from suite.tables.formats import number

TOGETHER = 4  # trajectories that one panel can hold
SOLVED = 1e-6
HOW_TO_READ = (
    "Functions of two parameters seen from above, the lighter the lower, with the trajectory of "
    "each optimizer from the ring to its marker, and a dot for each of the first steps. Stars are "
    "the known minimizers; a cross at the edge is where a trajectory leaves the picture."
)


def section(context: Context) -> Content:
    """The landscapes, each followed by its animation; empty where no run recorded a trajectory."""
    grounds = landscapes(context.records, context.allow)
    skipped = f" Not drawn: {'; '.join(grounds.skipped)}." if grounds.skipped else ""
    note = f"{HOW_TO_READ}{skipped}" if grounds.drawn or skipped else ""
    still = landscape_pictures(grounds.drawn, context.styles, context.named_figures)
    moving = animations(grounds.drawn, context.styles, context.named_figures)
    pictures = [picture for pair in zip(still, moving, strict=True) for picture in pair]
    return Content([], pictures, note)


def landscape_pictures(
    landscapes: Sequence[Landscape], looks: Mapping[str, Look], folder: Path
) -> list[Picture]:
    """One picture for each problem of two parameters."""
    names = slugs(landscape.problem for landscape in landscapes)
    return [
        _picture(landscape, looks, folder, f"landscape-{names[landscape.problem]}")
        for landscape in landscapes
    ]


def _picture(landscape: Landscape, looks: Mapping[str, Look], folder: Path, name: str) -> Picture:
    ground = surface(landscape)
    with mpl.rc_context(BARE):
        png = save(_draw(landscape, ground, looks), folder, name)
    count = len(landscape.trajectories)
    caption = (
        f"Contours of {ground.quantity} on {landscape.problem} and the trajectories of "
        f"{landscape.seed}. From {count} run{'s' if count != 1 else ''}."
    )
    fates = "; ".join(
        f"{one.optimizer}: {fate(landscape, ground, one)}" for one in landscape.trajectories
    )
    alt = f"Trajectories of the optimizers on {landscape.problem}, {landscape.seed}. {fates}."
    return Picture(name, landscape.problem, caption, alt, png)


def fate(landscape: Landscape, ground: Surface, trajectory: Trajectory) -> str:
    """When a trajectory came within the target of the minimum, or how high its end is."""
    heights = landscape.values(trajectory.points) - (ground.minimum or 0.0)
    goal, steps = landscape.target or SOLVED, trajectory.steps
    if ground.minimum is not None and (heights <= goal).any():
        return f"{ground.quantity} < {goal:g} after {_steps(steps[np.argmax(heights <= goal)])}"
    if trajectory.status == "diverged":
        return f"diverged after {_steps(steps[-1])}"
    end = (
        f"{ground.quantity} = {number(heights[-1])}"
        if math.isfinite(heights[-1])
        else "no finite value"
    )
    return f"{end} after {_steps(steps[-1])}"


def _steps(count: float) -> str:
    return f"{count:,.0f} step{'s' if count != 1 else ''}"


def _draw(landscape: Landscape, ground: Surface, looks: Mapping[str, Look]) -> Canvas:
    """One panel for a few trajectories, else a panel each."""
    together = len(landscape.trajectories) <= TOGETHER
    grid = _grid(len(landscape.trajectories), ground, together=together)
    for axes in grid.axes:
        filled = draw_ground(axes, ground)
    for place, trajectory in enumerate(landscape.trajectories):
        axes = grid.axes[0 if together else place]
        draw_trajectory(axes, trajectory, looks[trajectory.optimizer], ground.box)
        if not together:
            words = fate(landscape, ground, trajectory)
            axes.set_title(literal(f"{folded(trajectory.optimizer)}\n{words}"), fontsize=9)
    _scale(grid, filled, ground.quantity)
    grid.canvas.suptitle(literal(f"{landscape.problem}, {landscape.seed}"), fontsize=12)
    if together:
        handles = [
            handle(looks[one.optimizer], f"{one.optimizer}: {fate(landscape, ground, one)}")
            for one in landscape.trajectories
        ]
        grid.canvas.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=3.2)
    return grid.canvas


def _grid(count: int, ground: Surface, *, together: bool) -> Panels:
    across = 1 if together else 3 if count <= 9 else 4
    width = 7.5 if together else WIDTH
    height = (width - 1.5) / across * box_aspect(ground.box) + (0.6 if together else 0.65)
    return panels(
        1 if together else count,
        width / across,
        height,
        most=across,
        margin=lambda width: 0.5,
        shared=True,
        dpi=RASTER,
    )


def _scale(grid: Panels, filled: QuadContourSet, quantity: str) -> None:
    """The heights that the colours stand for."""
    bar = grid.canvas.colorbar(
        filled,
        ax=list(grid.canvas.axes),
        shrink=0.8,
        pad=0.02,
        aspect=30,
        format=lambda level, _: _height(level),
    )
    bar.set_label(quantity)


def _height(level: float) -> str:
    """A level in a few characters."""
    if abs(level) < 1e-9:
        return "0"
    return f"{level:.0f}" if 100 <= abs(level) < 1e4 else f"{level:.2g}"


SECTION = Section("landscapes", "Landscapes", {PROBLEM}, 140, section)
