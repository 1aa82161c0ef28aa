"""The page of scripts/autoencoder.sh: the costs to three levels of the training loss."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from pages import Archived, archive_for, median_range, success_count, template, write

from suite.paths import ROOT
from suite.report.drawing.style import colour_of
from suite.results.run import Run
from suite.stats import time_to_target

mpl.use("Agg")
from matplotlib import pyplot as plt

TASK, BASELINE = "autoencoder", "adam"
METHODS = ("momentum", "adam", "kfac", "kfac_adaptive")
SHARES = (0.9, 0.99, 1.0)
COSTS = {"step": "steps", "grad_equivalents": "gradient-equivalents", "seconds": "seconds"}
LAST = "| optimizer | setting | steps a run | last training loss | last squared error, validation |"
PICTURE = ROOT / "docs" / "pictures" / "autoencoder.png"
PAGE = ROOT / "docs" / "results" / "autoencoder.md"


def read(archived: Archived) -> dict[str, list[Run]]:
    """The runs of every method, by seed."""
    return {
        method: sorted(archived.ended(TASK, method), key=lambda run: run.seed) for method in METHODS
    }


def histories_of(runs: list[Run]) -> list[pd.DataFrame]:
    """The histories without their first row, which is before training."""
    return [run.history.iloc[1:] for run in runs]


def levels(adam: list[pd.DataFrame]) -> list[float]:
    """The training losses that count as targets."""
    first = float(np.median([history["loss"].iloc[0] for history in adam]))
    last = float(np.median([history["loss"].iloc[-1] for history in adam]))
    return [first - share * (first - last) for share in SHARES]


def cell(values: list[float]) -> str:
    """Median [smallest, largest], and in how many runs where not in all."""
    text = median_range(values, ".0f" if min(values) >= 100 else ".3g")
    return text if np.isfinite(values).all() else f"{text} {success_count(values)}"


def draw(folder: Path) -> None:
    """The training loss against each cost, a line a seed."""
    runs = {method: histories_of(own) for method, own in read(Archived.read(folder)).items()}
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for axis, (column, label) in zip(axes, COSTS.items(), strict=True):
        for method, histories in runs.items():
            for number, history in enumerate(histories):
                name = method if number == 0 else None
                axis.plot(
                    history[column],
                    history["loss"],
                    color=colour_of(method),
                    lw=0.9,
                    alpha=0.8,
                    label=name,
                )
        for level in levels(runs[BASELINE]):
            axis.axhline(level, color="0.6", lw=0.7, ls=":")
        axis.set(xlabel=label, xscale="log", yscale="log")
    axes[0].set(ylabel="training loss")
    axes[0].legend(frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


def files(folder: Path) -> dict[Path, str]:
    """The page."""
    archived = Archived.read(folder)
    recorded = read(archived)
    runs = {method: histories_of(own) for method, own in recorded.items()}
    targets = levels(runs[BASELINE])
    shares = ", ".join(f"{100 * share:g} %" for share in SHARES)
    lines = [
        "# K-FAC against momentum and Adam on the deep autoencoder",
        "",
        template("autoencoder", shares=shares),
        "",
    ]
    lines += [
        "![Training loss against steps, gradient-equivalents and "
        "seconds](../pictures/autoencoder.png)",
        "",
    ]
    lines += ["One line a run; dotted: the three levels.", "", LAST, "|---|---|---|---|---|"]
    for method, histories in runs.items():
        last = cell([float(history["loss"].iloc[-1]) for history in histories])
        error = cell(
            [float(history["val/squared_error"].dropna().iloc[-1]) for history in histories]
        )
        steps = recorded[method][0].config["steps"]
        lines.append(f"| {method} | {archived.chosen(TASK, method)} | {steps} | {last} | {error} |")
    lines += [
        "",
        "All of this is about the training loss: the validation errors order the methods in "
        "another way.",
    ]
    for column, label in COSTS.items():
        lines += [
            "",
            f"## {label[0].upper()}{label[1:]} to a training loss",
            "",
            *costs(runs, targets, column),
        ]
    return {PAGE: "\n".join(lines) + "\n"}


def costs(runs: dict[str, list[pd.DataFrame]], targets: list[float], column: str) -> list[str]:
    """The table of one cost: to each level, a row a method."""
    head = " | ".join(
        f"{100 * share:g} % ({level:.2f})" for share, level in zip(SHARES, targets, strict=True)
    )
    lines = [f"| optimizer | {head} |", "|---|" + "---|" * len(targets)]
    for method, histories in runs.items():
        cells = [
            cell(
                [
                    time_to_target(history, level, "min", metric="loss", unit=column)
                    for history in histories
                ]
            )
            for level in targets
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Write page and picture."""
    folder = archive_for("autoencoder")
    draw(folder)
    write(files(folder))


if __name__ == "__main__":
    main()
