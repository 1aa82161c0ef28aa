"""docs/results/results.md: what the experiments of configs/experiment came to, each beside what was
published.

Built from the archives in results/reference, one an experiment; `python scripts/results_page.py`
writes it anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from pages import Cells, setting, spread, table

from suite.paths import ROOT
from suite.reference import REFERENCE
from suite.results.load import load_runs, load_timings
from suite.results.run import Run
from suite.stats import time_to_target
from suite.tables.formats import NOT_RUN

PAGE = ROOT / "docs" / "results" / "results.md"
NEVER = "∞"

HEAD = """# What the experiments came to

Made by `python scripts/results_page.py` from \
[results/reference](../../results/reference). Every \
experiment is one
command, `scripts/experiments.sh NAME` (or `python -m suite -m experiment=NAME` where it is one \
sweep), at the size
that two processor cores allow; what that leaves out is said beside it. *Time* is the sum of the \
seconds of optimizer
steps over all runs of the table, one thread each; the machine was busy and runs were held up at \
times, so a quiet one
needs less, often half. No GPU was at hand: times on one are not known. Published figures are the \
papers' or
repositories' own; set-ups differ as said."""


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
    return f"""SGD, momentum 0.99 and Adam at the learning rates DeepOBS chose.

{table(header, rows)}

Published: the test losses in DeepOBS's baseline files, one seed each (TensorFlow). Noisy \
quadratic: 100 epochs, as
there; our test set is DeepOBS's in double precision. VAE on MNIST and 2c2d on Fashion-MNIST: one \
epoch of DeepOBS's
50 and 100 (the runs to the end would take two processor cores days; `scale=full` is for a GPU), \
trained on 59,000 of
the 60,000 images, the rest being our validation split; networks as there, initialised as torch \
does where DeepOBS
uses truncated normals. On the VAE two of momentum's ten seeds (4 and 7) are still on the plateau \
near 88 that the other
eight have left, for 53.1 to 53.4. *Not run*: the remaining epochs."""


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
    return f"""784-1000-500-250-30 and back, rectified linear units, cross-entropy summed over the \
pixels, batches of
1,000; loss of images that were not trained on, after so many epochs.

{table(["optimizer", "", *(f"epoch {epoch}" for epoch in EPOCHS)], rows)}

Published: the output of the demonstration in the authors' repository (Goldfarb, Ren and Bahamou \
2020, arXiv
2006.08877), its loss on MNIST's 10,000 test images. Here: 1,000 of the 60,000 training images are \
held out and judged
on, so an epoch has 59 steps instead of 60. K-FAC as theirs: rate 1, damping 3 shared equally by \
the factors, momentum
of the gradient, inverses in each of the first 20 steps and every 20 from then on. With this \
suite's defaults in the
last three it diverges at that rate and damping ([natural_gradient.md](natural_gradient.md)). \
K-BFGS at their rate and
damping, 0.3 both; momentum (0.003) and Adam (0.001) at rates of ours. One seed. *Not run*: epochs \
11 to 120."""


NANOGPT_STEPS = 2000
PUBLISHED_RATE, TUNED_RATE = (
    0.001,
    0.00185,
)  # of AdamW: nanoGPT's, and what tuning like the others' found


def nanogpt_char(cells: Cells) -> str:
    """Validation loss in nats after 2,000 steps, and when each method is where the tuned AdamW
    ends."""
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
    return f"""nanoGPT's character model of Shakespeare in its setting for a CPU: 4 layers, 4 \
heads, width 128,
context 64, batch 12, 2,000 steps, gradients clipped at 1, 100 steps of warm-up.

{table(header, rows)}

Published: nanoGPT's README, for its AdamW at rate {PUBLISHED_RATE:g} with beta2 0.99 and weight \
decay 0.1, as in the
first row here. All others, AdamW in its second row too, have what twelve trials on the quick \
`char_transformer` (Moby
Dick, a smaller network) found; for `sophia_g` that was its default. Nobody was tuned on this \
text. Our cosine ends at
zero, nanoGPT's at a tenth; weight decay here acts on all parameters; the validation loss is that \
of 1,000 windows of
the last tenth of the text, looked at every 250 steps. *The tuned AdamW's end* is the median of \
its seeds; steps are
medians over the seeds, and the time is these steps at the seconds of `suite.time`, divided by \
AdamW's 2,000 at its
own."""


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
    return f"""Small copies of the deep autoencoders, full batches, at most 1,500 \
gradient-equivalents a run; every
method with the best of eight trials of 500 gradient-equivalents.

{table(header, rows)}

Published (Sutskever et al. 2013, table 1, quoted from a secondary source): training errors on the \
whole sets with
networks of 784-400-200-100-50-25-6 and 784-1000-500-250-30. Here the networks are 100-50-25-6 and \
100-50-30 wide on
1,000 images, CURVES is a look-alike (the published set is not to be had), so orders may be \
compared and values may not.
The digits' problem has no published figure. docs/results/hessian_free.md has larger ones. \
*Not run*: the published sizes."""


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
    return f"""Poisson's equation on the unit square, a network of 32 tanh units in float64.

{table(header, rows)}

Adam's rate was tuned over eight trials, the others run at their defaults; [pinn.md](pinn.md) has \
every seed. There is
no published figure for this very problem."""


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
    return f"""Steps to a gap of 1e-6 on a quadratic in 100 dimensions (at most 20,000 steps; \
{NEVER}: not within
these), for the best setting of a method's grid at each condition number, chosen afterwards: kind \
to those with
something to choose.

{table(["optimizer", *(f"{number:.0e}" for number in numbers), "settings tried"], rows)}

Theory: gradient descent needs a number of steps in proportion to the condition number, momentum \
to its square root,
Newton's method one; quasi-Newton methods at most about the dimension with exact line searches."""


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
    return f"""Steps to the accuracy of the tuned AdamW on the quick `mlp`, median of three seeds, \
at the best of five
rates for each method and size (the rate in brackets); at most 3,000 steps.

{table(["optimizer", *(f"batch {size}" for size in sizes)], rows)}

Published (Shallue et al. 2019, arXiv 1811.03600; Zhang et al. 2019, arXiv 1907.04164): steps \
halve as the batch
doubles, up to a size beyond which they do not fall any more, and that size is larger for momentum \
and for K-FAC than
for plain SGD."""


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
    return f"""Final accuracy of the quick `mlp` at nine learning rates from 1e-4 to 1, everything \
else at its
default, mean of three seeds; a run that failed counts as 0.

{table(header, rows)}

The same grid for all: for a method whose good rates lie at its edge the width is a lower bound. \
The claim that
second-order methods need less tuning (Martens and Grosse 2015 and others) would show as more \
rates within 0.02."""


def saddles(cells: Cells) -> str:
    """Who leaves a saddle."""
    names = cells.values("task.name")
    rows = []
    for optimizer in cells.values("optimizer"):
        row = [f"`{optimizer}`"]
        for name in names:
            runs = cells.where(optimizer=optimizer, task__name=name).runs
            left = [reached(run, leaves(name)) for run in runs]
            escaped = [steps for steps in left if math.isfinite(steps)]
            row.append(
                f"{len(escaped)} of {len(runs)}"
                + (f", {median(escaped):.0f} steps" if escaped else "")
            )
        rows.append(row)
    return f"""Ten starts close to the ridge of a saddle point at the origin. Left: the value is \
half a unit below the
saddle's; the steps are the median over the runs that left.

{table(["optimizer", *names], rows)}

Published (Dauphin et al. 2014, arXiv 1406.2572): Newton's method is drawn to saddle points, \
saddle-free Newton leaves
them in a few steps."""


def leaves(name: str) -> float:
    """The gap that is half a unit below the saddle's value."""
    return 0.5


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
    parts, absent = [HEAD], []
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
