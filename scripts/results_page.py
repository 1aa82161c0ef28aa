"""docs/results/results.md: the experiments of configs/experiment beside published results.

Built from the archives in results/reference, one an experiment; `python scripts/results_page.py`
writes it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from pages import Cells, setting, spread, table, template

from suite.paths import ROOT
from suite.reference import REFERENCE
from suite.results.load import load_runs, load_timings
from suite.results.run import Run
from suite.stats import time_to_target
from suite.tables.formats import NOT_RUN

PAGE = ROOT / "docs" / "results" / "results.md"
NEVER = "∞"


def at_step(run: Run, column: str, step: int) -> float:
    """A column's value at a step."""
    row = run.history.loc[run.history["step"] == step, column].dropna()
    return float(row.iloc[0]) if len(row) else math.nan


# -- the sections ----------------------------------------------------------------------------------

# Test losses in DeepOBS's own baseline files (random seeds 42 to 51 there; here one of them), after
# so many epochs.
DEEPOBS = {
    ("noisy_quadratic", "sgd"): (100, 87.52),
    ("noisy_quadratic", "momentum"): (100, 87.03),
    ("noisy_quadratic", "adam"): (100, 87.07),
    ("vae", "sgd"): (1, 53.16),
    ("vae", "momentum"): (1, 53.16),
    ("vae", "adam"): (1, 37.38),
    ("2c2d", "sgd"): (1, 0.3835),
    ("2c2d", "momentum"): (1, 0.4075),
    ("2c2d", "adam"): (1, 0.4109),
}
DEEPOBS_END = {
    ("vae", "sgd"): 52.92,
    ("vae", "momentum"): 52.92,
    ("vae", "adam"): 27.83,
    ("2c2d", "sgd"): 0.680,
    ("2c2d", "momentum"): 0.742,
    ("2c2d", "adam"): 0.623,
}


def deepobs_small(cells: Cells) -> str:
    """Test losses at DeepOBS's learning rates."""
    rows = []
    for (task, optimizer), (epochs, published) in DEEPOBS.items():
        runs = cells.where(task=task, optimizer=optimizer)
        rate = f"{setting(runs.runs[0], 'optimizer.lr'):.3g}" if runs.runs else NOT_RUN
        end = DEEPOBS_END.get((task, optimizer))
        losses = runs.last("test/loss")
        rows.append(
            [
                task,
                f"`{optimizer}`",
                rate,
                str(epochs),
                spread(losses),
                f"{max(losses):.4g}" if losses else NOT_RUN,
                f"{published:g}",
                f"{end:g}" if end else "the same",
            ]
        )
    header = [
        "task",
        "optimizer",
        "rate",
        "epochs",
        "test loss here",
        "its worst seed",
        "published, same epochs",
        "published, at the end",
    ]
    return template("results/deepobs_small", table=table(header, rows))


KBFGS = {
    "kfac": (182.719, 134.332, 81.846, 73.678, 62.476),
    "kbfgs": (167.848, 108.669, 73.583, 68.228, 60.976),
}
EPOCHS = (1, 2, 4, 5, 10)


def kbfgs_autoencoder(cells: Cells) -> str:
    """Held-out loss after some epochs, beside the authors' demonstration."""
    rows = []
    for optimizer in cells.values("optimizer"):
        run = cells.where(optimizer=optimizer).runs[0]
        per_epoch = 59
        values = [at_step(run, "val/loss", per_epoch * epoch) for epoch in EPOCHS]
        ours = [f"{value:.1f}" if math.isfinite(value) else run.status for value in values]
        rows.append([f"`{optimizer}`", "here", *ours])
        if optimizer in KBFGS:
            rows.append(
                [f"`{optimizer}`", "published", *(f"{value:.1f}" for value in KBFGS[optimizer])]
            )
    header = ["optimizer", "", *(f"epoch {epoch}" for epoch in EPOCHS)]
    return template("results/kbfgs_autoencoder", table=table(header, rows))


NANOGPT_STEPS = 2000
# of AdamW: nanoGPT's, and what tuning like the others' found
PUBLISHED_RATE, TUNED_RATE = (0.001, 0.00185)


def nanogpt_char(cells: Cells) -> str:
    """Validation loss in nats after 2,000 steps, and the cost to the end of the tuned AdamW."""
    rows = []
    rival = cells.where(optimizer="adamw", optimizer__lr=TUNED_RATE)
    target = median(rival.last("val/bits_per_char"))
    for optimizer, rate in sorted(
        {(run.optimizer, setting(run, "optimizer.lr")) for run in cells.runs}
    ):
        own = cells.where(optimizer=optimizer, optimizer__lr=rate)
        nats = [bits * math.log(2) for bits in own.last("val/bits_per_char")]
        work = median(own.last("grad_equivalents")) / NANOGPT_STEPS
        published = "1.88" if (optimizer, rate) == ("adamw", PUBLISHED_RATE) else NOT_RUN
        steps = median(reached(run, target) for run in own.runs)
        time = own.seconds_per_step
        share = steps * time / (NANOGPT_STEPS * rival.seconds_per_step)
        rows.append(
            [
                f"`{optimizer}`",
                f"{rate:.3g}",
                spread(nats),
                published,
                f"{work:.2f}",
                milliseconds(time),
                shown(steps),
                NEVER if math.isinf(share) else NOT_RUN if math.isnan(share) else f"{share:.2f}x",
            ]
        )
    header = [
        "optimizer",
        "rate",
        "validation loss here (nats)",
        "published",
        "gradient-equivalents a step",
        "a step alone on the machine",
        "steps to the tuned AdamW's end",
        "time to there / AdamW's",
    ]
    return template(
        "results/nanogpt_char", published_rate=PUBLISHED_RATE, table=table(header, rows)
    )


def milliseconds(seconds: float) -> str:
    """A step's time."""
    return f"{1000 * seconds:.0f} ms" if math.isfinite(seconds) else NOT_RUN


SUTSKEVER = {
    "curves_autoencoder": {"sgd": 0.48, "nesterov": 0.074, "hessian_free": 0.058},
    "mnist_autoencoder": {"sgd": 2.1, "nesterov": 0.73, "hessian_free": 0.69},
}


def autoencoder_classics(cells: Cells) -> str:
    """Squared errors within the same gradient-equivalents."""
    rows = []
    for task in cells.values("task"):
        for optimizer in ("sgd", "nesterov", "lbfgs", "hessian_free", "kfac"):
            runs = cells.where(task=task, optimizer=optimizer)
            published = SUTSKEVER.get(task, {}).get(optimizer)
            failed = sum(run.status not in ("done", "timeout") for run in runs.runs)
            steps = [run.number("steps") for run in runs.runs]
            rows.append(
                [
                    task,
                    f"`{optimizer}`",
                    spread(runs.last("loss")),
                    spread(runs.last("val/squared_error")),
                    f"{median(steps):.0f}" if steps else NOT_RUN,
                    f"{failed}" if failed else "none",
                    f"{published:g}" if published else NOT_RUN,
                ]
            )
    header = [
        "task",
        "optimizer",
        "last training loss",
        "validation squared error",
        "steps",
        "failed",
        "published training squared error",
    ]
    return template("results/autoencoder_classics", table=table(header, rows))


def pinn(cells: Cells) -> str:
    """Relative errors of the physics-informed network."""
    rows = []
    for optimizer in cells.values("optimizer"):
        runs = cells.where(optimizer=optimizer)
        errors = runs.last("val/relative_error")
        work = runs.last("grad_equivalents")
        steps = median(run.number("steps") for run in runs.runs)
        rows.append(
            [
                f"`{optimizer}`",
                f"{steps:.0f}",
                f"{median(errors):.2e} [{min(errors):.1e}, {max(errors):.1e}]",
                f"{median(work):.0f}",
                str(len(errors)),
            ]
        )
    header = [
        "optimizer",
        "steps",
        "relative error, median [smallest, largest]",
        "gradient-equivalents",
        "seeds",
    ]
    return template("results/pinn", table=table(header, rows))


def conditioning(cells: Cells) -> str:
    """Steps to the target against the condition number, the best setting of each method's grid."""
    numbers = cells.values("task.condition")
    rows = []
    for optimizer in cells.values("optimizer"):
        row = [f"`{optimizer}`"]
        for number in numbers:
            runs = cells.where(optimizer=optimizer, task__condition=number).runs
            steps = [reached(run) for run in runs]
            row.append(shown(min(steps, default=math.nan)))
        settings = {setting_text(run) for run in cells.where(optimizer=optimizer).runs}
        rows.append([*row, str(len(settings))])
    header = ["optimizer", *(f"{number:.0e}" for number in numbers), "settings tried"]
    return template("results/conditioning", never=NEVER, table=table(header, rows))


def batch_size(cells: Cells) -> str:
    """Median steps to the target at the best rate of the grid, by batch size."""
    sizes = cells.values("task.batch_size")
    rows = []
    for optimizer in cells.values("optimizer"):
        row = [f"`{optimizer}`"]
        for size in sizes:
            best = (math.inf, "")
            for rate in cells.where(optimizer=optimizer).values("optimizer.lr"):
                runs = cells.where(
                    optimizer=optimizer, task__batch_size=size, optimizer__lr=rate
                ).runs
                steps = [reached(run) for run in runs]
                if steps:
                    best = min(best, (median(steps), f"{rate:g}"))
            row.append(f"{shown(best[0])} (lr {best[1]})" if best[1] else shown(best[0]))
        rows.append(row)
    header = ["optimizer", *(f"batch {size}" for size in sizes)]
    return template("results/batch_size", table=table(header, rows))


def sensitivity(cells: Cells) -> str:
    """How wide the good region of the learning rate is."""
    rows = []
    for optimizer in cells.values("optimizer"):
        means = {}
        for rate in cells.where(optimizer=optimizer).values("optimizer.lr"):
            runs = cells.where(optimizer=optimizer, optimizer__lr=rate).runs
            finals = [run.number("final_accuracy") for run in runs]
            means[rate] = float(np.mean([0.0 if math.isnan(value) else value for value in finals]))
        best_rate = max(means, key=lambda rate: means[rate])
        good = [rate for rate, value in means.items() if value >= means[best_rate] - 0.02]
        rows.append(
            [
                f"`{optimizer}`",
                f"{means[best_rate]:.3f}",
                f"{best_rate:g}",
                f"{len(good)} of {len(means)}",
                f"{math.log10(max(good) / min(good)):.1f}",
                f"{min(means.values()):.3f}",
            ]
        )
    header = [
        "optimizer",
        "best accuracy",
        "at rate",
        "rates within 0.02 of it",
        "decades from first to last of these",
        "worst accuracy",
    ]
    return template("results/sensitivity", table=table(header, rows))


BELOW_SADDLE = 0.5  # the gap at half a unit below the saddle's value


def saddles(cells: Cells) -> str:
    """Who leaves a saddle."""
    names = cells.values("task.name")
    rows = []
    for optimizer in cells.values("optimizer"):
        row = [f"`{optimizer}`"]
        for name in names:
            runs = cells.where(optimizer=optimizer, task__name=name).runs
            left = [reached(run, BELOW_SADDLE) for run in runs]
            escaped = [steps for steps in left if math.isfinite(steps)]
            row.append(
                f"{len(escaped)} of {len(runs)}"
                + (f", {median(escaped):.0f} steps" if escaped else "")
            )
        rows.append(row)
    return template("results/saddles", table=table(["optimizer", *names], rows))


def reached(run: Run, target: float | None = None) -> float:
    """Steps to the target, the run's own where none is given; infinite where it was not reached."""
    if target is None:
        steps = run.number("target_step")
        return steps if steps == steps else math.inf
    metric = f"val/{run.config['metric']}"
    if metric not in run.history:
        return math.inf
    return time_to_target(run.history, target, run.config["direction"], metric=metric, unit="step")


def setting_text(run: Run) -> str:
    """An optimizer's settings as text, to count different ones."""
    return str(sorted((key, str(value)) for key, value in run.config["optimizer"].items()))


def shown(steps: float) -> str:
    """A number of steps, or that it was never."""
    return NOT_RUN if math.isnan(steps) else NEVER if math.isinf(steps) else f"{steps:.0f}"


SECTIONS: dict[str, tuple[str, Callable[[Cells], str]]] = {
    "deepobs_small": ("DeepOBS's small benchmark", deepobs_small),
    "autoencoder_classics": ("Deep autoencoders, 2010 to 2015", autoencoder_classics),
    "kbfgs_autoencoder": ("The autoencoder of K-BFGS", kbfgs_autoencoder),
    "nanogpt_char": ("nanoGPT on a CPU", nanogpt_char),
    "pinn": ("A physics-informed network", pinn),
    "conditioning": ("Condition numbers from 10 to a million", conditioning),
    "batch_size": ("Batch sizes", batch_size),
    "sensitivity": ("Sensitivity to the learning rate", sensitivity),
    "saddles": ("Saddle points", saddles),
}


def page(reference: Path = REFERENCE) -> str:
    """The whole page; an experiment without an archive is listed as not run."""
    parts, absent = [template("results/introduction")], []
    for name, (title, section) in SECTIONS.items():
        runs, _ = load_runs(reference / name) if (reference / name).exists() else ([], [])
        if not runs:
            absent.append(name)
            continue
        cells = Cells(runs, load_timings(reference / name))
        parts.append(
            f"## {title}\n\n`{name}`: {len(runs)} runs. Time: {cells.time}.\n\n{section(cells)}"
        )
    if absent:
        parts.append(f"## Not run\n\n{', '.join(f'`{name}`' for name in absent)}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
