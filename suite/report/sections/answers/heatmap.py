"""The heat map: final metrics of all optimizers on all problems at a glance."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from suite.report.drawing.canvas import RC, Picture, inches, literal, save
from suite.results.frame import Records
from suite.results.outcomes import end_values, failure_words
from suite.stats import mean_std
from suite.tables.formats import NOT_RUN
from suite.tables.table import runs_note


def heat_map(records: Records, folder: Path) -> Picture:
    """Optimizers against problems, coloured from the worst to the best mean of each problem."""
    problems, names = records.problems, records.optimizers
    with mpl.rc_context({**RC, "axes.grid": False}):
        size = (1.2 + inches(names) + 1.05 * len(problems), 1.8 + 0.36 * len(names))
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.subplots()
        scores = np.column_stack([_scores(records, problem) for problem in problems])
        image = axes.imshow(
            np.ma.masked_invalid(scores), cmap="Blues", vmin=-0.1, vmax=1.3, aspect="auto"
        )
        for row, name in enumerate(names):
            for column, problem in enumerate(problems):
                _annotate(axes, row, column, records.pair(problem, name), scores[row, column])
        axes.set_xticks(
            range(len(problems)),
            [literal(label) for label in problems],
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(len(names)), [literal(name) for name in names])
        axes.tick_params(length=0)
        axes.set_title("Final validation metric")
        bar = canvas.colorbar(
            image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1], boundaries=np.linspace(0, 1, 65)
        )
        bar.ax.set_yticklabels(["worst", "best"])
        png = save(canvas, folder, "heatmap")
    caption = (
        "Mean final validation metric. Colour runs from the worst to the best mean on each problem "
        "(on a log scale where the means span more than two decades above zero), so colours "
        f"compare within a column only. Hatched: no run has a value, with the outcome; {NOT_RUN}: "
        "not run; * not all runs have one. "
    )
    alt = (
        f"Heat map of the final validation metric of {len(names)} optimizers on {len(problems)} "
        "problems."
    )
    return Picture(
        "heatmap", "Final metric at a glance", caption + runs_note(len(records.frame)), alt, png
    )


def _scores(records: Records, problem: str) -> npt.NDArray[np.float64]:
    """0 for the worst mean of a problem, 1 for the best, NaN where no run finished."""
    values = [end_values(records.pair(problem, name), "final") for name in records.optimizers]
    means = _spread(np.array([mean_std(group)[0] if group else math.nan for group in values]))
    if np.isnan(means).all():
        return means
    low, high = np.nanmin(means), np.nanmax(means)
    if low == high:
        return means * 0 + 1
    scores = (means - low) / (high - low)
    return scores if records.of(problem)["direction"].iloc[0] == "max" else 1 - scores


def _spread(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The means; their logarithms where they span more than two decades above zero."""
    known = means[np.isfinite(means)]
    positive = known[known > 0]
    if len(positive) and known.min() >= 0 and known.max() / positive.min() > 100:
        logarithms: npt.NDArray[np.float64] = np.log10(np.maximum(means, positive.min() / 10))
        return logarithms
    return means


def _annotate(axes: Axes, row: int, column: int, runs: pd.DataFrame, score: float) -> None:
    values = end_values(runs, "final")
    if values:
        star = "*" if len(values) < len(runs) else ""
        text, colour = f"{mean_std(values)[0]:.3g}{star}", "white" if score > 0.6 else "black"
    else:
        text, colour = failure_words(runs, "final").replace(" · ", "\n"), "#444444"
        hatch = "////" if len(runs) else None
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor="#f0f0f0",
                edgecolor="#c8c8c8",
                hatch=hatch,
                lw=0,
            )
        )
    axes.text(column, row, literal(text), ha="center", va="center", color=colour, fontsize=8)
