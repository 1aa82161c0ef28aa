"""The page of scripts/pinn.sh: the error of every run, and the distance to Adam's."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from pages import Archived, archive_for, setting, template, write

from suite.paths import ROOT
from suite.report.drawing.style import colour_of
from suite.results.run import Run

mpl.use("Agg")
from matplotlib import pyplot as plt

TASK, BASELINE, FACTOR = "pinn_poisson", "adam", 100
METHODS = (BASELINE, "bfgs", "gauss_newton", "hessian_free", "levenberg_marquardt")
METRIC = "val/relative_error"
PICTURE, PAGE = ROOT / "docs" / "pictures" / "pinn.png", ROOT / "docs" / "results" / "pinn.md"
LENGTHS = {
    "adam": 20000,
    "levenberg_marquardt": 1000,
    "gauss_newton": 200,
    "bfgs": 5000,
    "hessian_free": 2000,
}


def read(folder: Path) -> dict[str, list[Run]]:
    """Every method's runs of the script's length."""
    archived = Archived.read(folder)
    by_method = {}
    for method in METHODS:
        runs = [
            run for run in archived.ended(TASK, method) if run.config["steps"] == LENGTHS[method]
        ]
        by_method[method] = [run for run in runs if not run.config["max_seconds"]]
    return {method: runs for method, runs in by_method.items() if runs}


def histories_of(runs: list[Run]) -> dict[int, pd.DataFrame]:
    """The evaluated rows of every run, by seed."""
    return {run.seed: run.history.dropna(subset=[METRIC]) for run in runs}


def draw(folder: Path) -> None:
    """Error against gradient-equivalents and against seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for method, runs in read(folder).items():
        for number, history in enumerate(histories_of(runs).values()):
            for axis, column in zip(axes, ("grad_equivalents", "seconds"), strict=True):
                label = method if number == 0 else None
                shown = history[history[column] > 0]
                axis.plot(
                    shown[column],
                    shown[METRIC],
                    color=colour_of(method),
                    alpha=0.8,
                    linewidth=1,
                    label=label,
                )
    for axis, title in zip(axes, ("gradient-equivalents", "seconds of steps"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=title)
    axes[0].set_ylabel("relative L2 error")
    axes[0].legend()
    figure.savefig(PICTURE, dpi=110)


def row(method: str, histories: dict[int, pd.DataFrame], baseline: dict[int, pd.DataFrame]) -> str:
    """The final errors, their cost, and the number of seeds far below the baseline."""
    errors = {seed: float(history[METRIC].iloc[-1]) for seed, history in histories.items()}
    last = pd.DataFrame([history.iloc[-1] for history in histories.values()])
    factors = [float(baseline[seed][METRIC].iloc[-1]) / error for seed, error in errors.items()]
    below = sum(factor >= FACTOR for factor in factors)
    cells = [
        method,
        f"{last['step'].median():.0f}",
        *(f"{errors[seed]:.2e}" if seed in errors else "—" for seed in range(5)),
        "" if method == BASELINE else f"{np.median(factors):.3g}",
        "" if method == BASELINE else f"{below} of {len(factors)}",
        f"{last['grad_equivalents'].median():.0f}",
        f"{last['seconds'].median():.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def files(folder: Path) -> dict[Path, str]:
    """The page."""
    runs = read(folder)
    baseline = histories_of(runs[BASELINE])
    rate = setting(runs[BASELINE][0], "optimizer.lr")
    head = ["method", "steps", *(f"seed {seed}" for seed in range(5)), "times below Adam (median)"]
    head += [f"at least {FACTOR} times", "gradient-equivalents", "seconds"]
    lines = [
        "# A physics-informed network",
        "",
        template("pinn", rate=rate),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(row(method, histories_of(own), baseline) for method, own in runs.items()),
        "",
        "![Relative error against gradient-equivalents and seconds](../pictures/pinn.png)",
        "",
    ]
    return {PAGE: "\n".join(lines)}


def main() -> None:
    """Write the picture and the page."""
    folder = archive_for("pinn")
    draw(folder)
    write(files(folder))


if __name__ == "__main__":
    main()
