"""The page of scripts/hessian_free.sh: training loss and validation metric against passes over the training set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import yaml

from suite.paths import ROOT, results
from suite.report.style import colour_of

mpl.use("Agg")
from matplotlib import pyplot as plt

TASKS = ("long_memory", "curves_autoencoder", "mnist_autoencoder")
METHODS = ("momentum", "adam", "hessian_free")
PICTURE = ROOT / "docs" / "pictures" / "hessian_free.png"
PAGE = ROOT / "docs" / "hessian_free.md"

TEXT = """Two deep autoencoders (`curves_autoencoder`, 784-400-200-100-50-25-6 on 1,000 generated curves, and
`mnist_autoencoder`, 784-1000-500-250-30 on 1,000 digits of MNIST) and a plain RNN on the adding problem (`long_memory`,
50 steps, 2,000 sequences). Each method had six trials of a third of the passes below, then three seeds that the tuning
did not see. A pass is one gradient-equivalent of every training example. Momentum and Adam see mini-batches of 100,
Hessian-free the whole training set at every step, so that it takes few steps in this budget. Made by
`scripts/hessian_free.sh`; seconds are those of the optimizer's steps on a shared machine."""


def read(task: str, method: str) -> tuple[dict[str, Any], list[pd.DataFrame]]:
    """The settings of a pair and its histories, with a column of passes: gradient-equivalents of all examples."""
    found, config = [], {}
    for folder in sorted((results() / "runs" / task / method).glob("*")):
        if not (folder / "summary.json").exists():
            continue
        config = yaml.safe_load((folder / "config.yaml").read_text())
        history = pd.read_csv(folder / "history.csv")
        last = history.iloc[-1]
        history["passes"] = history["grad_equivalents"] * last["epoch"] / last["step"]
        found.append(history)
    return config, found


def value_at(history: pd.DataFrame, column: str, passes: float) -> float:
    """The last value of a column that had been seen after so many passes."""
    seen = history.loc[history["passes"] <= passes, column].dropna()
    return float(seen.iloc[-1]) if len(seen) else float("nan")


def median_curve(histories: list[pd.DataFrame], column: str, grid: np.ndarray) -> np.ndarray:
    """The median over the runs of the value last seen, on a grid of passes."""
    return np.median([[value_at(history, column, passes) for passes in grid] for history in histories], axis=0)


def draw() -> None:
    """A row of panels a quantity, a column a task."""
    figure, axes = plt.subplots(2, len(TASKS), figsize=(4.2 * len(TASKS), 6.4), layout="constrained")
    for column, task in enumerate(TASKS):
        for method in METHODS:
            config, histories = read(task, method)
            if not histories:
                continue
            metric = f"val/{config['metric']}"
            grid = np.geomspace(1, max(history["passes"].max() for history in histories), 200)
            for row, quantity in enumerate(("loss", metric)):
                axis = axes[row][column]
                for history in histories:
                    rows = history.dropna(subset=[quantity])
                    axis.plot(rows["passes"], rows[quantity], color=colour_of(method), alpha=0.25, linewidth=0.6)
                curve = median_curve(histories, quantity, grid)
                axis.plot(grid, curve, color=colour_of(method), linewidth=2, label=method)
                axis.set(xscale="log", yscale="log", xlabel="passes over the training set", ylabel=quantity)
                axis.set_xlim(1, None)
        axes[0][column].set_title(task)
    axes[0][0].legend()
    figure.savefig(PICTURE, dpi=110)


def table(task: str) -> list[str]:
    """The values at the smallest budget that all runs of a task have used up."""
    pairs = {method: read(task, method) for method in METHODS}
    pairs = {method: pair for method, pair in pairs.items() if pair[1]}
    if not pairs:
        return []
    most = min(history["passes"].max() for _, histories in pairs.values() for history in histories)
    metric = f"val/{next(iter(pairs.values()))[0]['metric']}"
    lines = [
        f"## {task}",
        "",
        f"After {most:.0f} passes:",
        "",
        f"| optimizer | setting | steps | training loss | {metric} | seconds to there |",
        "|---|---|---|---|---|---|",
    ]
    for method, (_, histories) in pairs.items():
        cells = []
        for column in ("loss", metric, "seconds"):
            values = [value_at(history, column, most) for history in histories]
            cells.append(f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g} ({len(values)})")
        steps = np.median([value_at(history, "step", most) for history in histories])
        lines.append(f"| {method} | {tuned(task, method)} | {steps:.0f} | {' | '.join(cells)} |")
    return [*lines, ""]


def tuned(task: str, method: str) -> str:
    """What the study found."""
    path: Path = results() / "tuned" / f"{task}_{method}.yaml"
    chosen = yaml.safe_load(path.read_text())["optimizer"] if path.exists() else {}
    return ", ".join(f"{key} {value:g}" for key, value in chosen.items()) or "defaults"


def main() -> None:
    """Write the picture and the page."""
    draw()
    lines = [
        "# Hessian-free against tuned momentum and Adam",
        "",
        TEXT,
        "",
        "![Training loss and validation metric against passes over the training set](pictures/hessian_free.png)",
        "",
        "Thin lines are the runs, thick lines their median. Momentum's and Adam's training loss is a mini-batch's.",
        "",
        *(line for task in TASKS for line in table(task)),
    ]
    PAGE.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
