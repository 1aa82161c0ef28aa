"""Animations: the paths over a function of two parameters, growing step by step, as one GIF for each problem."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from PIL import Image

from suite.report.drawing.canvas import Picture, folded, literal, slugs
from suite.report.drawing.contours import (
    BARE,
    CONTOUR,
    STAR,
    box_aspect,
    draw_ground,
    ground_colours,
    handle,
    path_line,
    start_ring,
)
from suite.report.drawing.style import Look
from suite.report.drawing.surface import Surface, surface
from suite.report.drawing.trajectories import Plane, Trail

FRAMES = 45
TOGETHER = 8  # paths that can race in one panel
DPI = 80
FIRST, EACH, LAST = 700, 130, 2500  # milliseconds

Colours = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runner:
    """One path on its panel: what it draws of itself grows with the step."""

    trail: Trail
    axes: Axes
    line: Line2D
    head: Line2D

    def move_to(self, step: int) -> None:
        """Show the path up to a step, as far as it is finite, and the marker where it stands."""
        points = self.trail.until(step)
        self.line.set_data(*points.T)
        self.head.set_data(*points[-1:].T)


def animations(planes: Sequence[Plane], looks: Mapping[str, Look], folder: Path) -> list[Picture]:
    """One GIF for each problem of two parameters."""
    names = slugs(plane.problem for plane in planes)
    return [
        _animation(plane, looks, folder / f"animation-{names[plane.problem]}.gif")
        for plane in planes
    ]


def frame_steps(last: int) -> list[int]:
    """Steps 0, 1, ... to the last, evenly spaced in their logarithm, so that fast and slow methods are both seen."""
    return [0, *map(int, np.unique(np.geomspace(1, last, FRAMES).round()))] if last else [0]


def _animation(plane: Plane, looks: Mapping[str, Look], file: Path) -> Picture:
    last = int(max(trail.steps[-1] for trail in plane.trails))
    ground = surface(plane)
    with mpl.rc_context(BARE):
        palette = _palette(ground, [looks[trail.optimizer] for trail in plane.trails])
        _write(
            file,
            [
                _indexed(frame, palette)
                for frame in _frames(plane, ground, looks, frame_steps(last))
            ],
        )
    names = ", ".join(trail.optimizer for trail in plane.trails)
    caption = (
        f"The same paths in motion, {plane.seed}. The frames' steps are evenly spaced in their "
        f"logarithm up to step {last:,}; a step costs more for some than for others. From "
        f"{len(plane.trails)} run{'s' if len(plane.trails) != 1 else ''}."
    )
    alt = f"Animation of the paths of {names} on {plane.problem}; the landscape above shows them complete."
    return Picture(file.stem, f"{plane.problem}, step by step", caption, alt, file)


def _frames(
    plane: Plane, ground: Surface, looks: Mapping[str, Look], steps: list[int]
) -> Iterator[Image.Image]:
    """The ground is drawn once; each frame adds what has changed."""
    canvas, runners = _stage(plane, ground, looks)
    said = canvas.text(
        0.985, 0.985, "", ha="right", va="top", fontsize=12, family="monospace", animated=True
    )
    agg: Any = FigureCanvasAgg(canvas)
    agg.draw()
    background = agg.copy_from_bbox(canvas.bbox)
    for step in steps:
        agg.restore_region(background)
        for runner in runners:
            runner.move_to(step)
            runner.axes.draw_artist(runner.line)
        for runner in runners:  # no path runs over a marker
            runner.axes.draw_artist(runner.head)
        said.set_text(f"step {step:>{len(str(steps[-1]))}}")
        canvas.draw_artist(said)
        yield Image.fromarray(np.asarray(agg.buffer_rgba())).convert("RGB")


def _stage(plane: Plane, ground: Surface, looks: Mapping[str, Look]) -> tuple[Canvas, list[Runner]]:
    together = len(plane.trails) <= TOGETHER
    across = 1 if together else 4
    down = 1 if together else math.ceil(len(plane.trails) / across)
    width, panel = (8.0, 5.4) if together else (9.0, 2.1)
    height = panel * box_aspect(ground.box) + (0.0 if together else 0.3)
    canvas = Canvas(figsize=(width, 0.7 + height * down), dpi=DPI, layout="constrained")
    grid = canvas.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[: 1 if together else len(plane.trails)]:
        draw_ground(axes, ground)
    for axes in grid[1 if together else len(plane.trails) :]:
        axes.set_axis_off()
    canvas.suptitle(literal(f"{plane.problem}, {plane.seed}"), fontsize=12, x=0.02, ha="left")
    runners = [
        _runner(grid[0 if together else place], trail, looks)
        for place, trail in enumerate(plane.trails)
    ]
    if together:
        handles = [
            handle(looks[trail.optimizer], folded(trail.optimizer, 22)) for trail in plane.trails
        ]
        canvas.legend(handles=handles, loc="outside right center", handlelength=3.2, fontsize=10)
    else:
        for runner in runners:
            runner.axes.set_title(literal(folded(runner.trail.optimizer)), fontsize=9)
    return canvas, runners


def _runner(axes: Axes, trail: Trail, looks: Mapping[str, Look]) -> Runner:
    look = looks[trail.optimizer]
    start_ring(axes, trail.points[0])
    line = path_line(axes, look, animated=True)
    style: dict[str, Any] = {
        "markeredgecolor": "white",
        "markeredgewidth": 1.0,
        "zorder": 7,
        "animated": True,
    }
    (head,) = axes.plot([], [], look.marker, color=look.colour, markersize=9, **style)
    return Runner(trail, axes, line, head)


def _palette(ground: Surface, looks: Sequence[Look]) -> Colours:
    """At most 256 colours, `(n, 3)`, for all frames.

    Those that were drawn with and their blends at the edges of lines.

    A palette found by counting would spend itself on the ground and bend the colours by which the
    paths are told.
    """
    inks = np.array(
        [to_rgb(colour) for colour in dict.fromkeys([*(look.colour for look in looks), STAR])]
    )
    grounds = ground_colours()(np.linspace(0, 1, len(ground.levels) + 1))[:, :3]
    contour = np.array(to_rgb(CONTOUR))
    mixed = [
        *grounds,
        *(0.75 * grounds + 0.25 * contour),
        *(0.5 * grounds + 0.5 * contour),
        *(share * np.ones(3) for share in np.linspace(0, 1, 17)),
        *(share * np.ones(3) + (1 - share) * ink for ink in inks for share in (0, 0.25, 0.5, 0.75)),
        *(0.6 * ink for ink in inks),
    ]
    palette: Colours = (255 * np.array(mixed[:256])).round().astype(np.int64)
    return palette


def _indexed(frame: Image.Image, palette: Colours) -> Image.Image:
    """The frame with each pixel's nearest colour of the palette."""
    pixels = np.asarray(frame).astype(np.int64)
    packed, place = np.unique(pixels @ [65536, 256, 1], return_inverse=True)
    colours = np.stack([packed // 65536, packed // 256 % 256, packed % 256], axis=1)
    distances = (palette**2).sum(
        1
    ) - 2 * colours @ palette.T  # but for a term that all of a row share
    nearest = distances.argmin(1).astype(np.uint8)
    image = Image.fromarray(nearest[place].reshape(pixels.shape[:2]), mode="P")
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


def _write(file: Path, images: Sequence[Image.Image]) -> None:
    """As all have one palette, only what moves is stored of each."""
    durations = [FIRST, *[EACH] * (len(images) - 2), LAST][: len(images)]
    file.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        file, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True
    )
