"""Pictures over all problems: a heat map of final metrics, bars of time and memory per step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from suite.report.costs import step_times, timed_runs
from suite.report.figures import RC, Picture, save
from suite.report.formats import NOT_RUN
from suite.report.load import TRAINED
from suite.report.outcomes import failure_words, finished_values
from suite.report.records import Records
from suite.report.stats import mean_std
from suite.report.style import Look
from suite.report.table import runs_note

ACROSS = 3
Bars = dict[str, float]


def heat_map(records: Records, folder: Path) -> Picture:
    """Optimizers against problems, coloured from the worst to the best mean of each problem."""
    problems, names = records.problems, records.optimizers
    with mpl.rc_context({**RC, "axes.grid": False}):
        canvas = Canvas(figsize=(2.2 + 1.05 * len(problems), 1.8 + 0.36 * len(names)), layout="constrained")
        axes = canvas.subplots()
        scores = np.column_stack([_scores(records, problem) for problem in problems])
        image = axes.imshow(np.ma.masked_invalid(scores), cmap="Blues", vmin=-0.1, vmax=1.3, aspect="auto")
        for row, name in enumerate(names):
            for column, problem in enumerate(problems):
                _annotate(axes, row, column, records.pair(problem, name), scores[row, column])
        axes.set_xticks(range(len(problems)), problems, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.set_title("Final validation metric")
        bar = canvas.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1], boundaries=np.linspace(0, 1, 65))
        bar.ax.set_yticklabels(["worst", "best"])
        png = save(canvas, folder, "heatmap")
    caption = (
        "Mean final validation metric over finished runs. Colour runs from the worst to the best mean on each problem "
        "(on a log scale where the means span more than two decades above zero), so colours compare within a "
        f"column only. Hatched: no run finished, with the outcome; {NOT_RUN}: not run; * some runs did not finish. "
    )
    alt = f"Heat map of the final validation metric of {len(names)} optimizers on {len(problems)} problems."
    return Picture("heatmap", "Final metric at a glance", caption + runs_note(len(records.frame)), alt, png)


def cost_pictures(records: Records, looks: dict[str, Look], folder: Path) -> list[Picture]:
    """Bars of milliseconds per step and of peak memory, a panel for each problem and kind of hardware."""
    timed = records.frame[timed_runs(records.frame)]
    shared = bool(timed["parallel"].any())
    trained = records.frame[records.frame["status"].isin(TRAINED)]
    times = _picture(
        records, timed, _milliseconds, looks, folder,
        name="time-per-step", title="Time per step", unit="ms per step" + (" (~ shared cores)" if shared else ""),
        caption="Mean milliseconds of one optimizer step; shorter is cheaper. Each panel has its own logarithmic axis. "
        + ("~: the runs shared cores, read them as rough. " if shared else ""),
    )  # fmt: skip
    memory = _picture(
        records, trained[trained["peak_memory_bytes"].notna()], _peak, looks, folder,
        name="memory-per-step", title="Memory per step", unit="MiB",
        caption="Largest high-water mark of memory over one step, in MiB; shorter is cheaper. Each panel has its own "
        "logarithmic axis. ",
    )  # fmt: skip
    return [picture for picture in (times, memory) if picture]


def _picture(
    records: Records,
    runs: pd.DataFrame,
    measure: Callable[[pd.DataFrame], float],
    looks: dict[str, Look],
    folder: Path,
    *,
    name: str,
    title: str,
    unit: str,
    caption: str,
) -> Picture | None:
    panels = _panels(records, runs, measure)
    if not panels:
        return None
    with mpl.rc_context({**RC, "axes.grid.axis": "x"}):
        rows = math.ceil(len(panels) / ACROSS)
        tallest = max(len(bars) for bars in panels.values())
        canvas = Canvas(figsize=(11, rows * (0.75 + 0.2 * tallest)), layout="constrained")
        grid = canvas.subplots(rows, ACROSS, squeeze=False).ravel()
        for axes, (label, bars) in zip(grid, panels.items(), strict=False):
            _bars(axes, label, bars, looks, unit)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        png = save(canvas, folder, name)
    alt = f"{title}: horizontal bars of every optimizer for {', '.join(panels)}."
    return Picture(name, title, caption + runs_note(len(runs)), alt, png)


def _panels(records: Records, runs: pd.DataFrame, measure: Callable[[pd.DataFrame], float]) -> dict[str, Bars]:
    """Bars by panel; the hardware is named where there is more than one."""
    several = len(set(runs["hardware"])) > 1
    panels: dict[str, Bars] = {}
    for (problem, place), group in runs.groupby(["problem", "hardware"], sort=False):
        bars = {name: measure(group[group["optimizer"] == name]) for name in records.optimizers}
        label = f"{problem}\n{place}" if several else str(problem)
        panels[label] = {name: value for name, value in bars.items() if value > 0}
    return {label: bars for label, bars in panels.items() if bars}


def _bars(axes: Axes, label: str, bars: Bars, looks: dict[str, Look], unit: str) -> None:
    places = range(len(bars))
    axes.barh(places, list(bars.values()), color=[looks[name].colour for name in bars], height=0.7)
    axes.set_xscale("log")
    axes.set_xlim(min(bars.values()) / 3, max(bars.values()) * 2.5)
    axes.set_yticks(places, list(bars))
    axes.invert_yaxis()
    axes.set_title(label)
    axes.set_xlabel(unit)
    for place, value in zip(places, bars.values(), strict=True):
        axes.text(value * 1.1, place, f"{value:.3g}", va="center", fontsize=8)


def _milliseconds(runs: pd.DataFrame) -> float:
    values, _ = step_times(runs)
    return 1e3 * mean_std(values)[0] if values else math.nan


def _peak(runs: pd.DataFrame) -> float:
    return float(runs["peak_memory_bytes"].max()) / 2**20


def _scores(records: Records, problem: str) -> npt.NDArray[np.float64]:
    """0 for the worst mean of a problem, 1 for the best, NaN where no run finished."""
    groups = [records.pair(problem, name) for name in records.optimizers]
    values = [finished_values(runs, "final") for runs in groups]
    means = np.array([mean_std(group)[0] if group else math.nan for group in values])
    known = means[np.isfinite(means)]
    positive = known[known > 0]
    if len(positive) and known.min() >= 0 and known.max() / positive.min() > 100:
        means = np.log10(np.maximum(means, positive.min() / 10))
    low, high = (np.nanmin(means), np.nanmax(means)) if len(known) else (math.nan, math.nan)
    scores = (means - low) / (high - low) if high > low else means * 0 + 1
    direction = records.frame.loc[records.frame["problem"] == problem, "direction"].iloc[0]
    return scores if direction == "max" or high == low else 1 - scores


def _annotate(axes: Axes, row: int, column: int, runs: pd.DataFrame, score: float) -> None:
    values = finished_values(runs, "final")
    if values:
        star = "*" if len(values) < len(runs) else ""
        text, colour = f"{mean_std(values)[0]:.3g}{star}", "white" if score > 0.6 else "black"
    else:
        text, colour = failure_words(runs, "final").replace(" · ", "\n"), "#444444"
        hatch = "////" if len(runs) else None
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#f0f0f0", edgecolor="#c8c8c8", hatch=hatch, lw=0)
        )
    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
