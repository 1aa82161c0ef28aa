"""Pictures and computed paragraphs of docs/guide/telemetry.md, from scripts/telemetry.sh."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pages import template

from suite.paths import ROOT, results

PAGE = ROOT / "docs" / "guide" / "telemetry.md"
FIGURES = {
    "autoencoder": "telemetry-autoencoder",
    "rosenbrock": "telemetry-test-function-name-rosenbrock",
    "saddle": "telemetry-test-function-name-quartic-saddle",
}

WIDTH = 139
# the largest eigenvalue at the minimum of Rosenbrock's function, 501 + 250601^(1/2), rounded
SHARPEST = 1002


def read(task: str, optimizer: str, **settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """History and configuration of the run with these settings of its task.

    Columns of telemetry have no prefix.
    """
    for folder in sorted((results() / "runs" / task / optimizer).glob("*")):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        if (folder / "summary.json").exists() and settings.items() <= config["task"].items():
            history = pd.read_csv(folder / "history.csv")
            return history.rename(columns=lambda name: str(name).removeprefix("telemetry/")), config
    raise SystemExit(f"no run of {optimizer} on {task} in {results()}; run scripts/telemetry.sh")


def late(history: pd.DataFrame, column: str, share: float = 0.5) -> pd.Series:
    """The values of a column in the last part of a run's steps."""
    return history.loc[history["step"] > (1 - share) * history["step"].max(), column].dropna()


def first(history: pd.DataFrame, column: str, below: float) -> pd.Series:
    """The first row in which a column is at most so large."""
    return history[history[column] <= below].iloc[0]


def win() -> str:
    """Gauss-Newton against tuned momentum on the autoencoder at equal gradient-equivalents."""
    metric = "val/squared_error"
    slow, config = read("autoencoder", "momentum")
    fast, _ = read("autoencoder", "ggn_cg")
    budget = min(slow["grad_equivalents"].max(), fast["grad_equivalents"].max())
    end, ahead = (
        one[one["grad_equivalents"] <= budget].dropna(subset=[metric]).iloc[-1]
        for one in (slow, fast)
    )
    same = first(fast, metric, end[metric])
    lr, momentum = config["optimizer"]["lr"], config["optimizer"]["momentum"]
    limit, pinned = 2 * (1 + momentum), late(slow, "lr_sharpness")
    flat, sharp = late(fast, "update_curvature").median(), late(fast, "eigenvalue_1").median()
    dull = late(slow, "eigenvalue_1").median()
    return template(
        "telemetry/win",
        budget=budget,
        error=ahead[metric],
        other=end[metric],
        lr=lr,
        momentum=momentum,
        limit=limit,
        calls=same["grad_equivalents"],
        steps=same["step"],
        seconds=same["seconds"],
        other_steps=end["step"],
        other_seconds=end["seconds"],
        by_calls=end["grad_equivalents"] / same["grad_equivalents"],
        by_seconds=end["seconds"] / same["seconds"],
        pinned=pinned.median(),
        near=100 * ((pinned / limit - 1).abs() < 0.1).mean(),
        held=limit / lr,
        dull=dull,
        overshoot=late(slow, "overshoot").median(),
        steep=late(slow, "update_curvature").median(),
        other_cosine=late(slow, "cosine").median(),
        cosine=late(fast, "cosine").median(),
        sharp=sharp,
        times=sharp / dull,
        flat=flat,
        flatter=float(f"{sharp / flat:.2g}"),
        change=100 * late(fast, "update_ratio_median").median(),
        other_change=100 * late(slow, "update_ratio_median").median(),
    )


def instability() -> str:
    """Gradient descent on Rosenbrock's function with a step that the valley's end does not bear."""
    history, config = read("test_function", "sgd", name="rosenbrock")
    lowest = history.loc[history["loss"].idxmin()]
    known = history.dropna(subset=["lr_sharpness"])
    calm = known[known["lr_sharpness"] < 1].iloc[-1]["step"]
    crossing = known[(known["step"] > calm) & (known["lr_sharpness"] > 2)].iloc[0]
    before = history[history["step"].between(calm, lowest["step"])]
    return template(
        "telemetry/instability",
        lr=config["optimizer"]["lr"],
        lowest=lowest["loss"],
        at=lowest["step"],
        crossing=crossing["step"],
        overshoot=before["overshoot"].median(),
        would=SHARPEST * config["optimizer"]["lr"],
        sharpest=SHARPEST,
        ahead=lowest["step"] - crossing["step"],
        growth=before["lr_sharpness"].max() - 1,
        end=history["loss"].iloc[-1],
        times=history["loss"].iloc[-1] / lowest["loss"],
        last_overshoot=late(history, "overshoot", 0.25).median(),
        last_limit=late(history, "lr_sharpness", 0.25).median(),
        enough=2 / SHARPEST,
    )


def saddle() -> str:
    """The textbook's Newton method at a saddle point."""
    pulled, _ = read("test_function", "newton", name="quartic_saddle")
    freed, _ = read("test_function", "saddle_free_newton", name="quartic_saddle")
    end = pulled.dropna(subset=["negative_mass"]).iloc[-1]
    uphill = pulled[pulled["cosine"] < 0].iloc[0]
    return template(
        "telemetry/saddle",
        still=first(pulled, "gradient_norm", 1e-12)["step"],
        loss=end["loss"],
        mass=end["negative_mass"],
        share=100 * end["negative_share"],
        smallest=end["eigenvalue_min"],
        uphill=uphill["step"],
        cosine=uphill["cosine"],
        left=first(freed, "negative_mass", 0)["step"],
        freed=freed["loss"].iloc[-1],
        overshoot=freed.loc[freed["step"].between(3, 7), "overshoot"].median(),
    )


def wrapped(text: str) -> str:
    """The paragraphs in lines of the page's width."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(
        textwrap.fill(one, WIDTH, break_long_words=False, break_on_hyphens=False)
        for one in paragraphs
    )


def main() -> None:
    """Copy the pictures and put each paragraph between its markers."""
    page = PAGE.read_text()
    for name, text in (("win", win()), ("instability", instability()), ("saddle", saddle())):
        marked = re.compile(rf"<!-- {name} -->.*<!-- /{name} -->", re.DOTALL)
        if not marked.search(page):
            raise SystemExit(f"{PAGE} has no place <!-- {name} --> ... <!-- /{name} -->")
        page = marked.sub(f"<!-- {name} -->\n{wrapped(text)}\n<!-- /{name} -->", page)
    PAGE.write_text(page)
    figures: Path = results() / "report" / "figures"
    for name, figure in FIGURES.items():
        shutil.copy(figures / f"{figure}.png", ROOT / "docs" / "pictures" / f"telemetry_{name}.png")


if __name__ == "__main__":
    main()
