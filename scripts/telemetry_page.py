"""The pictures and the computed paragraphs of docs/guide/telemetry.md, from the runs of
scripts/telemetry.sh."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

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

WIN = """After {budget:.0f} gradient-equivalents `ggn_cg` (its default settings) has a validation \
error of
{error:.3g}, momentum (lr {lr:g}, tuned for 200 steps) {other:.3g}. `ggn_cg` is as far as that \
after {calls:.0f}
gradient-equivalents, in {steps:.0f} steps and {seconds:.1f} s against {other_steps:.0f} steps and
{other_seconds:.1f} s: a win by {by_calls:.1f} in gradient-equivalents, by {by_seconds:.1f} in \
seconds.

Why: momentum is held by the sharpest direction. `lr x largest eigenvalue` rises to the limit 2 (1 \
+ {momentum:g}) =
{limit:g} and stays there: {pinned:.2f} in the median of the second half, and within a tenth of \
the limit at
{near:.0f} % of its evaluations. The largest eigenvalue hovers at {limit:g} / lr = {held:.0f} \
(median {dull:.0f}),
and the steps go back and forth across the valley: their overshoot has the median {overshoot:.2f}, \
they lead along a
curvature of {steep:.3g}, and the cosine with the gradient is {other_cosine:.2f}. `ggn_cg` goes \
where momentum
cannot: in the second half of its steps the largest eigenvalue is {sharp:.0f}, {times:.0f} times \
as large, and its
steps lead along directions of curvature {flat:.2g}, {flatter:,.0f} times flatter than the \
sharpest one, at a cosine
of {cosine:.2f} with the gradient (medians). A step changes the weights by {change:.2g} % in the \
median, one of
momentum's by {other_change:.2g} %."""

INSTABILITY = """Gradient descent with lr = {lr:g} from about (-1.2, 1). For {at:.0f} steps all \
seems well: after the
first few the loss falls steadily, to {lowest:.3g}, with a cosine of 1 and an overshoot of \
{overshoot:.2g} in the
median. But the valley gets sharper towards the minimum at (1, 1), where the largest eigenvalue is \
{sharpest} and lr
times it would be {would:.2g}. `lr x largest eigenvalue` passes 2 at step {crossing:.0f}, \
{ahead:.0f} steps before
anything is to be seen in the loss: from there on what little there is of the error across the \
valley grows in each
step, by the factor lr x eigenvalue - 1, {growth:.2f} at most. Then the loss jumps, and it ends at \
{end:.2g},
{times:.0f} times its lowest value. In the last quarter the overshoot is {last_overshoot:.2f} and \
`lr x largest
eigenvalue` {last_limit:.2f} in the median: the run hangs where the valley is just flat enough for \
its step. The loss
alone does not say what is wrong; the panel does, and says by how much: at the minimum a step up \
to 2 / {sharpest} =
{enough:.4f} is stable."""

SADDLE = """Newton's method as the textbook has it (`optimizer.modification=none`). The gradient \
is below 1e-12 from
step {still:.0f} on and the loss stands still at {loss:.3g}, which looks like convergence. The \
share of negative
curvature does not: {mass:.2f} to the end, {share:.0f} % of the eigenvalues negative, the smallest \
{smallest:.2g}.
And step {uphill:.0f} went straight uphill, to the saddle (cosine {cosine:.0f}). The saddle-free \
method has the same
gradient to look at, but its steps follow the negative curvature (an overshoot of {overshoot:.1f}: \
the loss falls
faster than its slope says) until at step {left:.0f} no eigenvalue is negative; it ends at \
{freed:.3g}."""


def read(task: str, optimizer: str, **settings: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The history of the run with these settings of its task, without telemetry's prefix, and its
    configuration."""
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
    """Gauss-Newton steps against tuned momentum on the autoencoder, at equal
    gradient-equivalents."""
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
    return WIN.format(
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
    return INSTABILITY.format(
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
    return SADDLE.format(
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
