"""The page of scripts/hessian_free.sh: loss and metric against passes over the training set."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from pages import Archived, archive_for, spread, template, write

from suite.paths import ROOT
from suite.report.drawing.style import colour_of
from suite.results.run import Run

mpl.use("Agg")
from matplotlib import pyplot as plt

TASKS = ("long_memory", "curves_autoencoder", "mnist_autoencoder")
METHODS = ("momentum", "adam", "hessian_free")
PICTURE = ROOT / "docs" / "pictures" / "hessian_free.png"
PAGE = ROOT / "docs" / "results" / "hessian_free.md"


def read(archived: Archived, task: str) -> dict[str, list[Run]]:
    """The runs of every method that has any."""
    by_method = {method: archived.ended(task, method) for method in METHODS}
    return {method: runs for method, runs in by_method.items() if runs}


def histories_of(runs: list[Run]) -> list[pd.DataFrame]:
    """The histories, with a column of passes: gradient-equivalents of all examples."""
    histories = []
    for run in runs:
        last = run.history.iloc[-1]
        histories.append(
            run.history.assign(
                passes=run.history["grad_equivalents"] * last["epoch"] / last["step"]
            )
        )
    return histories


def value_at(history: pd.DataFrame, column: str, passes: float) -> float:
    """The last value of a column that had been seen after so many passes."""
    seen = history.loc[history["passes"] <= passes, column].dropna()
    return float(seen.iloc[-1]) if len(seen) else float("nan")


def median_curve(histories: list[pd.DataFrame], column: str, grid: np.ndarray) -> np.ndarray:
    """The median over the runs of the value last seen, on a grid of passes."""
    return np.median(
        [[value_at(history, column, passes) for passes in grid] for history in histories], axis=0
    )


def draw(folder: Path) -> None:
    """A row of panels a quantity, a column a task."""
    archived = Archived.read(folder)
    figure, axes = plt.subplots(
        2, len(TASKS), figsize=(4.2 * len(TASKS), 6.4), layout="constrained"
    )
    for column, task in enumerate(TASKS):
        for method, runs in read(archived, task).items():
            histories = histories_of(runs)
            metric = f"val/{runs[-1].config['metric']}"
            grid = np.geomspace(1, max(history["passes"].max() for history in histories), 200)
            for row, quantity in enumerate(("loss", metric)):
                axis = axes[row][column]
                for history in histories:
                    rows = history.dropna(subset=[quantity])
                    axis.plot(
                        rows["passes"],
                        rows[quantity],
                        color=colour_of(method),
                        alpha=0.25,
                        linewidth=0.6,
                    )
                curve = median_curve(histories, quantity, grid)
                axis.plot(grid, curve, color=colour_of(method), linewidth=2, label=method)
                axis.set(
                    xscale="log",
                    yscale="log",
                    xlabel="passes over the training set",
                    ylabel=quantity,
                )
                axis.set_xlim(1, None)
        axes[0][column].set_title(task)
    axes[0][0].legend()
    figure.savefig(PICTURE, dpi=110)


def section(archived: Archived, task: str) -> list[str]:
    """The values at the smallest budget that all runs of a task have used up."""
    runs = read(archived, task)
    if not runs:
        return []
    pairs = {method: histories_of(some) for method, some in runs.items()}
    most = min(history["passes"].max() for histories in pairs.values() for history in histories)
    metric = f"val/{next(iter(runs.values()))[-1].config['metric']}"
    lines = [
        f"## {task}",
        "",
        f"After {most:.0f} passes:",
        "",
        f"| optimizer | setting | steps | training loss | {metric} | seconds to there |",
        "|---|---|---|---|---|---|",
    ]
    for method, histories in pairs.items():
        cells = [
            spread([value_at(history, column, most) for history in histories])
            for column in ("loss", metric, "seconds")
        ]
        steps = np.median([value_at(history, "step", most) for history in histories])
        lines.append(
            f"| {method} | {archived.chosen(task, method)} | {steps:.0f} | {' | '.join(cells)} |"
        )
    return [*lines, ""]


def files(folder: Path) -> dict[Path, str]:
    """The page; what the archive says of its runs stands under the picture."""
    archived = Archived.read(folder)
    lines = [
        "# Hessian-free against tuned momentum and Adam",
        "",
        template("hessian_free"),
        "",
        "![Training loss and validation metric against passes over the training "
        "set](../pictures/hessian_free.png)",
        "",
        *(
            [textwrap.fill(archived.about, 120, break_on_hyphens=False), ""]
            if archived.about
            else []
        ),
        "Thin lines are the runs, thick lines their median. Momentum's and Adam's training loss "
        "is a mini-batch's.",
        "",
        *(line for task in TASKS for line in section(archived, task)),
    ]
    return {PAGE: "\n".join(lines)}


def main() -> None:
    """Write the picture and the page."""
    folder = archive_for("hessian_free")
    draw(folder)
    write(files(folder))


if __name__ == "__main__":
    main()
