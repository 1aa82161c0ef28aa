"""Trajectories over a function of two parameters, growing step by step, as a GIF a problem."""

from __future__ import annotations

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
    start_ring,
    trajectory_line,
)
from suite.report.drawing.panels import Panels, panels
from suite.report.drawing.style import Look
from suite.report.drawing.surface import Surface, surface
from suite.report.drawing.trajectories import Landscape, Trajectory

FRAMES = 45
TOGETHER = 8  # trajectories that can race in one panel
DPI = 80
FIRST, EACH, LAST = 700, 130, 2500  # milliseconds

Colours = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runner:
    """One trajectory on its panel, drawn as far as a step."""

    trajectory: Trajectory
    axes: Axes
    line: Line2D
    head: Line2D

    def move_to(self, step: int) -> None:
        """Show the trajectory up to a step, as far as it is finite, and the marker at its end."""
        points = self.trajectory.until(step)
        self.line.set_data(*points.T)
        self.head.set_data(*points[-1:].T)


def animations(
    landscapes: Sequence[Landscape], looks: Mapping[str, Look], folder: Path
) -> list[Picture]:
    """One GIF for each problem of two parameters."""
    names = slugs(landscape.problem for landscape in landscapes)
    return [
        _animation(landscape, looks, folder / f"animation-{names[landscape.problem]}.gif")
        for landscape in landscapes
    ]


def frame_steps(last: int) -> list[int]:
    """Steps from 0 to the last, evenly spaced in their logarithm, for fast and slow methods."""
    return [0, *map(int, np.unique(np.geomspace(1, last, FRAMES).round()))] if last else [0]


def _animation(landscape: Landscape, looks: Mapping[str, Look], file: Path) -> Picture:
    last = int(max(trajectory.steps[-1] for trajectory in landscape.trajectories))
    ground = surface(landscape)
    with mpl.rc_context(BARE):
        palette = _palette(ground, [looks[one.optimizer] for one in landscape.trajectories])
        frames = _frames(landscape, ground, looks, frame_steps(last))
        _write(file, [_indexed(frame, palette) for frame in frames])
    names = ", ".join(trajectory.optimizer for trajectory in landscape.trajectories)
    count = len(landscape.trajectories)
    caption = (
        f"The same trajectories in motion, {landscape.seed}. The frames' steps are evenly spaced "
        f"in their logarithm up to step {last:,}; a step costs more for some than for others. From "
        f"{count} run{'s' if count != 1 else ''}."
    )
    alt = (
        f"Animation of the trajectories of {names} on {landscape.problem}; the landscape above "
        "shows them complete."
    )
    return Picture(file.stem, f"{landscape.problem}, step by step", caption, alt, file)


def _frames(
    landscape: Landscape, ground: Surface, looks: Mapping[str, Look], steps: list[int]
) -> Iterator[Image.Image]:
    """The frames, over a ground that is drawn once."""
    canvas, runners = _stage(landscape, ground, looks)
    counter = canvas.text(
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
        for runner in runners:  # no trajectory runs over a marker
            runner.axes.draw_artist(runner.head)
        counter.set_text(f"step {step:>{len(str(steps[-1]))}}")
        canvas.draw_artist(counter)
        yield Image.fromarray(np.asarray(agg.buffer_rgba())).convert("RGB")


def _stage(
    landscape: Landscape, ground: Surface, looks: Mapping[str, Look]
) -> tuple[Canvas, list[Runner]]:
    together = len(landscape.trajectories) <= TOGETHER
    grid = _grid(len(landscape.trajectories), ground, together=together)
    for axes in grid.axes:
        draw_ground(axes, ground)
    title = literal(f"{landscape.problem}, {landscape.seed}")
    grid.canvas.suptitle(title, fontsize=12, x=0.02, ha="left")
    runners = [
        _runner(grid.axes[0 if together else place], trajectory, looks)
        for place, trajectory in enumerate(landscape.trajectories)
    ]
    _name(grid.canvas, runners, looks, together=together)
    return grid.canvas, runners


def _grid(count: int, ground: Surface, *, together: bool) -> Panels:
    across, width, panel = (1, 8.0, 5.4) if together else (4, 9.0, 2.1)
    height = panel * box_aspect(ground.box) + (0.0 if together else 0.3)
    return panels(
        1 if together else count,
        width / across,
        height,
        most=across,
        least=width,
        margin=lambda width: 0.7,
        shared=True,
        dpi=DPI,
    )


def _name(
    canvas: Canvas, runners: Sequence[Runner], looks: Mapping[str, Look], *, together: bool
) -> None:
    """A legend beside a panel of all trajectories, else a title on each panel."""
    names = [runner.trajectory.optimizer for runner in runners]
    if together:
        handles = [handle(looks[name], folded(name, 22)) for name in names]
        canvas.legend(handles=handles, loc="outside right center", handlelength=3.2, fontsize=10)
        return
    for name, runner in zip(names, runners, strict=True):
        runner.axes.set_title(literal(folded(name)), fontsize=9)


def _runner(axes: Axes, trajectory: Trajectory, looks: Mapping[str, Look]) -> Runner:
    look = looks[trajectory.optimizer]
    start_ring(axes, trajectory.points[0])
    line = trajectory_line(axes, look, animated=True)
    style: dict[str, Any] = {
        "markeredgecolor": "white",
        "markeredgewidth": 1.0,
        "zorder": 7,
        "animated": True,
    }
    (head,) = axes.plot([], [], look.marker, color=look.colour, markersize=9, **style)
    return Runner(trajectory, axes, line, head)


def _palette(ground: Surface, looks: Sequence[Look]) -> Colours:
    """At most 256 colours, `(n, 3)`, for all frames.

    They are the colours of the drawing and their blends at the edges of lines. A palette by
    frequency would spend itself on the ground and bend the colours of the trajectories.
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
    """Write the GIF; with one palette for all frames, only changes are stored."""
    durations = [FIRST, *[EACH] * (len(images) - 2), LAST][: len(images)]
    file.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        file, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True
    )
