"""Telemetry under the loss: the step against the gradient, curvature, the method's own numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import RC, Picture, literal, plain_ticks, save, slugs
from suite.report.drawing.lines import handle
from suite.report.drawing.style import Look
from suite.report.section import PROBLEM, Content, Context, Section
from suite.report.sections.progress.telemetry_panels import FAILURES, LIMITS, LOSS, PREFIX, Panel
from suite.report.sections.progress.telemetry_runs import (
    Line,
    Watched,
    failure_steps,
    panels_with_data,
    shows,
    stability_limit,
    watched_runs,
)
from suite.results.frame import Records, seed_text
from suite.results.learning_curves import SMALLEST
from suite.tables.table import runs_note

LOG_X_FROM = 8.0
LOG_Y_FROM = 20.0
LOG_LOSS_FROM = 4.0
ONE_COLUMN = 5  # panels; more of them stand in two columns, the loss on top of both
MARKS = 9  # on a line
WIDTH = 10.0

Array = npt.NDArray[np.float64]
GUIDE: dict[str, Any] = {"color": "#6b6b6b", "lw": 0.9, "zorder": 1}
HOW_TO_READ = (
    "Runs with telemetry=true: what was measured beside them, under the loss and on the same axis "
    "of steps, one run an optimizer. docs/guide/telemetry.md defines the quantities. Scales are "
    "logarithmic where values span more than a factor of twenty."
)


def section(context: Context) -> Content:
    """The panels; empty where no run recorded telemetry."""
    pictures = telemetry_pictures(context.records, context.styles, context.named_figures)
    return Content([], pictures, HOW_TO_READ if pictures else "")


def telemetry_pictures(records: Records, looks: Mapping[str, Look], folder: Path) -> list[Picture]:
    """A picture for each problem that has runs with telemetry."""
    drawn: list[Picture] = []
    for problem, slug in slugs(records.problems).items():
        watched = watched_runs(records, problem, looks)
        if not watched:
            continue
        panels = panels_with_data(watched)
        with mpl.rc_context(RC):
            png = save(_draw(problem, watched, panels), folder, f"telemetry-{slug}")
        drawn.append(
            Picture(
                f"telemetry-{slug}",
                problem,
                _caption(watched, panels),
                _alt(problem, watched, panels),
                png,
            )
        )
    return drawn


# -- drawing ---------------------------------------------------------------------------------------


def _draw(problem: str, watched: Sequence[Watched], panels: Sequence[Panel]) -> Canvas:
    below = panels[1:]
    columns = 1 if len(below) <= ONE_COLUMN else 2
    rows = math.ceil(len(below) / columns)
    legend = 0.24 * (1 + (len(watched) - 1) // 6) + 0.15
    canvas = Canvas(
        figsize=(WIDTH if columns == 2 else 0.75 * WIDTH, 2.5 + 1.35 * rows + legend),
        layout="constrained",
    )
    axes = canvas.subplots(
        rows + 1, columns, squeeze=False, sharex="col", height_ratios=[1.5] + [1.0] * rows
    )
    for column in range(columns):
        mine = [LOSS, *below[column * rows : (column + 1) * rows]]
        for row, place in enumerate(axes[:, column]):
            if row < len(mine):
                _panel(place, mine[row], watched)
            else:
                place.set_visible(False)
        last = axes[len(mine) - 1][column]
        last.tick_params(axis="x", labelbottom=True)
        last.set_xlabel("steps")
        _scale_steps(list(axes[:, column]), watched)
    canvas.suptitle(literal(problem), fontsize=12)
    handles = [handle(one.look, one.name) for one in watched]
    canvas.legend(
        handles=handles, loc="outside lower center", ncols=min(len(watched), 6), handlelength=3.2
    )
    return canvas


def _scale_steps(axes: Sequence[Axes], watched: Sequence[Watched]) -> None:
    """A logarithmic axis, linear up to step 1, where some runs are much shorter than others."""
    ends = [float(one.history["step"].max()) for one in watched]
    longest, shortest = max(ends), max(1.0, min(ends))
    for place in axes:
        if longest / shortest > LOG_X_FROM:
            place.set_xscale("symlog", linthresh=1, linscale=0.3)
        place.set_xlim(0, longest * (1.1 if longest / shortest > LOG_X_FROM else 1.02))


def _panel(axes: Axes, panel: Panel, watched: Sequence[Watched]) -> None:
    axes.set_title(literal(panel.title), loc="left", fontsize=9)
    if panel is FAILURES:
        _ticks(axes, watched)
        return
    shown = [one for one in watched if panel is LOSS or shows(one, panel)]
    drawn = [(one, _lines(one, panel)) for one in shown]
    limits = _stability_limits(shown) if panel is LIMITS else {}
    every = list(chain.from_iterable(lines for _, lines in drawn))
    _scale_values(axes, panel, every, [*panel.guides, *limits.values()])
    for value in panel.guides:
        axes.axhline(value, ls=(0, (2, 2)), **GUIDE)
    for one, lines in drawn:
        _plot_run(axes, one, lines, limits.get(one.name), crossed=panel is LOSS and one.diverged)
    plain_ticks(axes.yaxis)


def _stability_limits(watched: Sequence[Watched]) -> dict[str, float]:
    return {one.name: stability_limit(one.settings) or 0.0 for one in watched}


def _plot_run(
    axes: Axes, one: Watched, lines: Sequence[Line], limit: float | None, *, crossed: bool
) -> None:
    """A run's lines, the first of them with markers, its stability limit, a cross at its end."""
    for number, line in enumerate(lines):
        _plot(axes, one, line, secondary=number > 0)
    if limit is not None:
        axes.axhline(limit, color=one.look.colour, ls=(0, (2, 2)), lw=1.0, zorder=1)
    if crossed and len(lines[0].steps):
        _cross(axes, one, lines[0])


def _lines(one: Watched, panel: Panel) -> list[Line]:
    if panel is LOSS:
        return [one.line("loss")]
    lines = [one.line(PREFIX + column) for column in panel.columns]
    if panel.band and all(len(line.steps) for line in lines):
        low, middle, high = lines
        return [Line(middle.steps, middle.heights, low.heights, high.heights)]
    return lines


def _scale_values(axes: Axes, panel: Panel, lines: Sequence[Line], guides: Sequence[float]) -> None:
    """Logarithmic where positive values span much.

    Values outside the panel's range are drawn at its edge.
    """
    values = _finite_values(lines)
    if not len(values):
        return
    low, high = _range(panel, values, lines)
    positive = float(values[values > 0].min(initial=math.inf))
    if panel.logarithmic and _is_wide(panel, values, positive):
        axes.set_yscale("log")
        low = max(low, positive, high * SMALLEST)  # zeros are drawn at the edge
        factor = (high / low) ** 0.06 * 1.05
        axes.set_ylim(low / factor, high * factor)
        return
    shown = [value for value in guides if value <= 2 * max(abs(low), abs(high))]
    low, high = min([low, *shown]), max([high, *shown])
    margin = 0.07 * (high - low) or 0.07 * abs(high) or 0.07
    axes.set_ylim(low - margin, high + margin)


def _finite_values(lines: Sequence[Line]) -> Array:
    """All finite heights of lines and of the edges of their bands."""
    parts = [
        part for line in lines for part in (line.heights, line.low, line.high) if part is not None
    ]
    values = np.concatenate(parts) if parts else np.empty(0)
    return values[np.isfinite(values)]


def _is_wide(panel: Panel, values: Array, positive: float) -> bool:
    """Whether values without a negative one span so much that a logarithm shows more."""
    most = LOG_LOSS_FROM if panel is LOSS else LOG_Y_FROM
    return bool(values.min() >= 0 and values.max() / positive > most)


def _range(panel: Panel, values: Array, lines: Sequence[Line]) -> tuple[float, float]:
    """The least and the largest value that are shown."""
    low, high = float(values.min()), float(values.max())
    if panel is LOSS:  # an explosion is not worth the rest of the panel
        first = max(float(line.heights[0]) for line in lines if len(line.heights))
        high = min(high, 10 * first) if first > 0 else high
    if panel.range is not None:
        low, high = max(low, panel.range[0]), min(high, panel.range[1])
        low, high = min(low, high), max(low, high)
    return low, high


def _plot(axes: Axes, one: Watched, line: Line, *, secondary: bool) -> None:
    low, high = axes.get_ylim()
    values = np.clip(line.heights, low, high)
    every = max(1, len(values) // MARKS)
    marks: dict[str, Any] = (
        {}
        if secondary
        else {"marker": one.look.marker, "markersize": 3.5, "markevery": (every // 2, every)}
    )
    width, order = (0.8, 2) if secondary else (1.3, 3)
    (drawn,) = axes.plot(line.steps, values, color=one.look.colour, lw=width, zorder=order, **marks)
    if secondary:
        drawn.set_dashes((1, 1.2))
    elif one.look.dashes:
        drawn.set_dashes(one.look.dashes)
    if line.low is not None and line.high is not None:
        bottom, top = np.clip(line.low, low, high), np.clip(line.high, low, high)
        axes.fill_between(line.steps, bottom, top, color=one.look.colour, alpha=0.15, lw=0)


def _cross(axes: Axes, one: Watched, line: Line) -> None:
    end = float(np.clip(line.heights[-1], *axes.get_ylim()))
    style: dict[str, Any] = {"markersize": 8, "markeredgewidth": 1.8, "clip_on": False}
    axes.plot([line.steps[-1]], [end], color=one.look.colour, marker="x", **style)


def _ticks(axes: Axes, watched: Sequence[Watched]) -> None:
    """A row for each optimizer that had failures, a tick at each step that had one."""
    failing = [one for one in watched if len(failure_steps(one.history))]
    for row, one in enumerate(failing):
        steps = failure_steps(one.history)
        axes.plot(
            steps, np.full(len(steps), row), ls="", marker="|", markersize=9, color=one.look.colour
        )
    axes.set_yticks(range(len(failing)), [literal(one.name) for one in failing], fontsize=7)
    axes.set_ylim(len(failing) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


# -- words -----------------------------------------------------------------------------------------


def _caption(watched: Sequence[Watched], panels: Sequence[Panel]) -> str:
    runs = pd.concat([one.run for one in watched])
    crossed = "A cross marks divergence. " if any(one.diverged for one in watched) else ""
    readings = " ".join(f"{panel.title.capitalize()}: {panel.reading}" for panel in panels[1:])
    return (
        f"{seed_text(runs).capitalize()}, training loss on top. {crossed}{readings} "
        f"{runs_note(len(watched))}"
    )


def _alt(problem: str, watched: Sequence[Watched], panels: Sequence[Panel]) -> str:
    names = ", ".join(one.name for one in watched)
    titles = ", ".join(panel.title for panel in panels[1:])
    return f"Telemetry of {names} on {problem}, under the training loss: {titles}."


SECTION = Section("telemetry", "Telemetry", {PROBLEM}, 130, section)
