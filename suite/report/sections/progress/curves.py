"""Training loss and validation metric against steps, seconds and gradient-equivalents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import RC, WIDTH, Picture, literal, plain_ticks, save, slugs
from suite.report.drawing.lines import handle, legend, legend_height, marked_line
from suite.report.drawing.style import Look
from suite.report.section import PROBLEM, Content, Context, Section
from suite.results.frame import Records, metric_columns
from suite.results.learning_curves import (
    AXES,
    DETAIL,
    Curve,
    Strand,
    curve,
    is_logarithmic,
    limits,
    spread,
    window,
)
from suite.tables.table import runs_note

LOG_X_FROM = 8.0
HOW_TO_READ = (
    "Each row of panels shows one quantity against steps, seconds of the optimizer's steps, and "
    "gradient-equivalents (oracle calls weighted by their measured cost relative to one forward "
    "and backward): further left is cheaper. The median over runs is taken at the same step and "
    "drawn as far as half of the runs go. Scales are logarithmic where values span more than a "
    "decade, or costs differ more than eightfold; values below 1e-16 of the top are then drawn at "
    "the lower edge. The line style is the optimizer's family."
)
UNFINISHED_STRANDS = (
    "Thin lines are runs that failed on the way, drawn to their last finite value, at the panel's "
    "edge where that lies outside: a cross marks divergence, a bar any other end."
)


def section(context: Context) -> Content:
    """The curves, with words on how to read them."""
    pictures = curve_pictures(context.records, context.styles, context.named_figures)
    return Content([], pictures, HOW_TO_READ)


def curve_pictures(records: Records, looks: Mapping[str, Look], folder: Path) -> list[Picture]:
    """One picture for each problem that has anything to draw."""
    drawn: list[Picture] = []
    for problem, slug in slugs(records.problems).items():
        runs = records.of(problem)
        histories = {index: records.histories[index] for index in runs.index}
        steps = window(list(histories.values()))
        metric = str(runs["metric"].iloc[0])
        columns = {"training loss": "loss", f"validation {metric}": metric_columns(metric)["val"]}
        quantities = {
            name: _curves(runs, histories, column, steps) for name, column in columns.items()
        }
        if not any(quantities.values()):
            continue
        with mpl.rc_context(RC):
            canvas = _draw(problem, runs, quantities, looks)
            png = save(canvas, folder, f"curves-{slug}")
        drawn.append(
            Picture(
                f"curves-{slug}",
                problem,
                _caption(runs, quantities, steps),
                _alt(problem, runs),
                png,
            )
        )
    return drawn


def _curves(
    runs: pd.DataFrame, histories: dict[int, pd.DataFrame], column: str, steps: int
) -> dict[str, Curve]:
    """The curves of those optimizers that have any value."""
    curves = {
        str(name): curve(group, histories, column, steps)
        for name, group in runs.groupby("optimizer", sort=False)
    }
    return {name: one for name, one in curves.items() if one.runs or one.strands}


def _draw(
    problem: str,
    runs: pd.DataFrame,
    quantities: dict[str, dict[str, Curve]],
    looks: Mapping[str, Look],
) -> Canvas:
    names = list(dict.fromkeys(name for curves in quantities.values() for name in curves))
    handles = [handle(looks[name], name) for name in names]
    canvas = Canvas(figsize=(WIDTH, 5.8 + legend_height(handles)), layout="constrained")
    axes = canvas.subplots(len(quantities), len(AXES), squeeze=False)
    for row, (quantity, curves) in enumerate(quantities.items()):
        shown = list(curves.values())
        log_y = is_logarithmic(shown)
        reach = limits(shown, "min" if row == 0 else str(runs["direction"].iloc[0]), log=log_y)
        for column, axis in enumerate(AXES):
            _panel(axes[row][column], curves, axis, reach, looks, log_y=log_y)
            axes[row][column].set_xlabel(_axis_label(axis, runs))
        axes[row][0].set_ylabel(literal(quantity))
    canvas.suptitle(literal(problem), fontsize=12)
    legend(canvas, handles)
    return canvas


def _panel(
    axes: Axes,
    curves: dict[str, Curve],
    axis: str,
    shown: tuple[float, float] | None,
    looks: Mapping[str, Look],
    *,
    log_y: bool,
) -> None:
    log_x = axis != "step" and spread(list(curves.values()), axis) > LOG_X_FROM
    axes.set_yscale("log" if log_y else "linear")
    axes.set_xscale("log" if log_x else "linear")
    if shown:
        axes.set_ylim(*_with_margin(*shown, log=log_y))
    for number, (name, one) in enumerate(curves.items()):
        _plot_middle(
            axes, one, axis, looks[name], number, floor=shown[0] if shown and log_y else -math.inf
        )
        for strand in one.strands:
            _plot_strand(axes, strand, axis, looks[name])
    for ruler in (axes.xaxis, axes.yaxis):
        plain_ticks(ruler)


def _with_margin(low: float, high: float, *, log: bool) -> tuple[float, float]:
    """Limits a little wider than the values, so that no line lies on the frame."""
    if log:
        factor = (high / low) ** 0.04 * 1.05
        return low / factor, high * factor
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _on_axis(axes: Axes, points: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The points that a logarithmic axis can show: the start, at zero cost, is not among them."""
    return points[points[axis] > 0] if axes.get_xscale() == "log" else points


def _plot_middle(
    axes: Axes, one: Curve, axis: str, look: Look, number: int, *, floor: float
) -> None:
    """Median line and band; the markers of different optimizers are staggered."""
    points = _on_axis(axes, one.middle, axis)
    value, low, high = (points[key].clip(lower=floor) for key in ("value", "low", "high"))
    marked_line(axes, points[axis].to_numpy(), value.to_numpy(), look, number)
    if one.runs > 1:
        axes.fill_between(points[axis], low, high, color=look.colour, alpha=0.15, lw=0)


def _plot_strand(axes: Axes, strand: Strand, axis: str, look: Look) -> None:
    """A thin line to the last finite value, its end marked, at the edge if it lies outside."""
    bottom, top = axes.get_ylim()
    points = _on_axis(axes, strand.points, axis)
    if not len(points):
        return
    axes.plot(points[axis], points["value"], color=look.colour, lw=0.8, alpha=0.6)
    end = float(np.clip(points["value"].iloc[-1], bottom, top))
    marker = "x" if strand.status == "diverged" else "|"
    style: dict[str, Any] = {
        "color": look.colour,
        "markersize": 8,
        "markeredgewidth": 1.8,
        "clip_on": False,
    }
    axes.plot([points[axis].iloc[-1]], [end], marker=marker, **style)


def _axis_label(axis: str, runs: pd.DataFrame) -> str:
    if axis != "seconds":
        return AXES[axis]
    notes = ["~ shared cores"] if runs["parallel"].any() else []
    trained = runs[runs["seconds_per_step"].notna()]
    notes += ["several machines"] if len(set(trained["hardware"])) > 1 else []
    return f"{AXES[axis]} ({', '.join(notes)})" if notes else AXES[axis]


def _caption(runs: pd.DataFrame, quantities: dict[str, dict[str, Curve]], steps: int) -> str:
    seeds = len(set(runs["seed"]))
    families = ", ".join(dict.fromkeys(str(family).replace("_", " ") for family in runs["family"]))
    strands = any(one.strands for curves in quantities.values() for one in curves.values())
    parts = [
        f"Lines: median over the runs of {seeds} seed{'s' if seeds != 1 else ''}; band: minimum "
        "to maximum.",
        f"From step {DETAIL} on each point is the median of {steps} steps." if steps > 1 else "",
        UNFINISHED_STRANDS if strands else "",
        "~ These seconds come from runs that shared cores: read them as rough."
        if runs["parallel"].any()
        else "",
        f"Line styles: {families}.",
        runs_note(len(runs)),
    ]
    return " ".join(part for part in parts if part)


def _alt(problem: str, runs: pd.DataFrame) -> str:
    """In words: the methods, and the one with the lowest training loss at the end."""
    names = ", ".join(dict.fromkeys(runs["optimizer"]))
    finals = runs.groupby("optimizer")["final_loss"].median().dropna()
    lowest = (
        f" Lowest median final training loss: {finals.idxmin()} ({finals.min():.4g})."
        if len(finals)
        else ""
    )
    axes = "steps, seconds and gradient-equivalents"
    return f"Training loss and validation metric on {problem} against {axes}: {names}.{lowest}"


SECTION = Section("curves", "Curves", {PROBLEM}, 100, section)
