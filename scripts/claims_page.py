"""docs/results/claims.md and results/reference/claims.csv from the runs of scripts/claims.sh.

Each claim of a paper stands beside the result here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pages import (
    Archived,
    Cells,
    archive_for,
    median_range,
    spread,
    success_count,
    table,
    template,
    write,
)

from suite.compare.intervals import Interval
from suite.compare.intervals import difference as compare_means
from suite.paths import ROOT
from suite.stats import time_to_target

PAGE = ROOT / "docs" / "results" / "claims.md"
TABLE = ROOT / "results" / "reference" / "claims.csv"
TASKS = ("resnet", "char_transformer")
SPARSE = ("structured_sparsity", "structured_sparsity_mlp")


RATES = {
    "resnet": (0.0063, 0.009, 0.013, 0.032),
    "char_transformer": (0.0032, 0.0045, 0.0063, 0.009, 0.013),
}
# rate, title and setting of a control
MIXED = (0.098, "`ramda`, averaging 0.3", "lr 0.098, averaging 0.3")


@dataclass(frozen=True)
class Claim:
    """A paper's claim about a method, and the baselines of its test here.

    Attributes:
        title, methods, paper, says: the method's name, its runs, the paper, its claim in our words.
        against: the baselines, the main one first.
        share: the claimed steps over the baseline's, where the claim is about steps.
    """

    title: str
    methods: tuple[str, ...]
    paper: str
    says: str
    against: tuple[str, ...] = ("adamw", "momentum")
    share: float | None = None


CLAIMS = (
    Claim(
        "AdaHessian",
        ("adahessian",),
        "Yao et al. 2021, arXiv 2006.00719",
        "higher accuracy than Adam (1.8 and 1.45 points for ResNet-20 and 32 on CIFAR-10), and no "
        "worse than SGD",
    ),
    Claim(
        "Sophia",
        ("sophia_g", "sophia_h"),
        "Liu et al. 2024, arXiv 2305.14342",
        "AdamW's loss in half the steps, on language models",
        share=0.5,
    ),
    Claim(
        "SOAA",
        ("soaa",),
        "Vo and Vo 2024, arXiv 2410.02293",
        "faster and more stable convergence than first-order methods (Adam among them) by a "
        "second-order scaling",
    ),
    Claim(
        "AdaFisher",
        ("adafisher", "adafisher_released"),
        "Martins Gomes et al. 2025, arXiv 2405.16397",
        "better accuracy and faster convergence than Adam and others, on images and language",
    ),
    Claim(
        "SGD-PH",
        ("sgd_ph",),
        "Sun and Sun 2024, arXiv 2403.02681",
        "fewer iterations than first-order methods, SGD with momentum among them, at nearly their "
        "cost",
        ("momentum", "adamw"),
    ),
    Claim(
        "OGR",
        ("ogr",),
        "Duda 2019, arXiv 1901.11457",
        "on noisy Beale functions far closer to the minimum than Adam (docs/results/ogr.md); "
        "proposed for networks, no figures",
    ),
)


@dataclass(frozen=True)
class Source:
    """The runs of the comparison with their tuned settings, and `control`: settings by hand."""

    compared: Archived
    control: Cells

    @classmethod
    def read(cls, folder: Path) -> Source:
        """From the archive's folder, in which that of the control lies."""
        return cls(Archived.read(folder), Archived.read(folder / "control").cells)


@dataclass(frozen=True)
class Runs:
    """A method's runs on a task: histories by seed, and the sign that makes larger better."""

    histories: dict[int, pd.DataFrame]
    metric: str
    sign: float
    failed: int

    def final(self, column: str = "") -> dict[int, float]:
        """The last value of a validation metric by seed; a failed run has none."""
        name = f"val/{column or self.metric}"
        return {
            seed: float(history[name].dropna().iloc[-1]) for seed, history in self.histories.items()
        }

    def reached(self, level: float) -> list[float]:
        """The first step at the level or better, by seed; infinite where there is none."""
        mode, metric = "max" if self.sign > 0 else "min", f"val/{self.metric}"
        steps = [
            time_to_target(history, level, mode, metric=metric, unit="step")
            for history in self.histories.values()
        ]
        return steps + [math.inf] * self.failed

    @property
    def cost(self) -> float:
        """Gradient-equivalents per step."""
        return float(
            np.mean(
                [
                    h["grad_equivalents"].iloc[-1] / h["step"].iloc[-1]
                    for h in self.histories.values()
                ]
            )
        )


def load(source: Source, task: str, method: str, control: float | None = None) -> Runs | None:
    """The runs of a pair, or those of its control at a learning rate; None without any."""
    if control is None:
        runs = source.compared.cells.where(task=task, optimizer=method).runs
    else:
        runs = source.control.where(task=task, optimizer=method, optimizer__lr=control).runs
    if not runs:
        return None
    histories = {run.seed: run.history for run in runs if run.status == "done"}
    sign = 1.0 if runs[0].config["direction"] == "max" else -1.0
    return Runs(histories, runs[0].config["metric"], sign, len(runs) - len(histories))


def difference(one: Runs, other: Runs, column: str = "", sign: float | None = None) -> Interval:
    """The paired differences of final values, positive where `one` is better.

    NaN below two pairs.
    """
    mine, theirs = one.final(column), other.final(column)
    seeds = [seed for seed in mine if seed in theirs]
    if len(seeds) < 2:
        return Interval(math.nan, math.nan, math.nan)
    direction = one.sign if sign is None else sign
    first, second = (
        direction * np.array([values[seed] for seed in seeds]) for values in (mine, theirs)
    )
    return compare_means(first, second, paired=True)


def relation(interval: Interval) -> str:
    """Better or worse, where the whole interval lies on one side."""
    if not interval.known:
        return "not measured"
    return ("worse", "cannot be told", "better")[interval.side_of(0.0) + 1]


def in_numbers(interval: Interval, style: str = ".3g") -> str:
    """A difference with its interval, each with its sign."""
    value, low, high = (f"{one:+{style}}" for one in interval[:3])
    return f"{value} [{low}, {high}]"


def steps_share(one: Runs, other: Runs) -> str:
    """Steps to the other's final value over the other's length."""
    level = float(np.median(list(other.final().values())))
    length = max(float(history["step"].iloc[-1]) for history in other.histories.values())
    shares = [step / length for step in one.reached(level)]
    return f"{median_range(shares, '.2f')} {success_count(shares)}"


def section(source: Source, claim: Claim) -> tuple[str, list[list[str]]]:
    """The heading, the claim and the table of a method; and rows for the summary."""
    rows, summary = [], []
    for task in TASKS:
        for method in claim.methods:
            runs = load(source, task, method)
            if runs is None:
                continue
            for place, baseline in enumerate(claim.against):
                other = load(source, task, baseline)
                if other is None:
                    continue
                interval = difference(runs, other)
                verdict, gap = relation(interval), in_numbers(interval)
                value = spread(list(runs.final().values()))
                share = steps_share(runs, other)
                rows.append(
                    [f"`{method}`", task, value, baseline, gap, share, f"{runs.cost:.2f}", verdict]
                )
                if place == 0:
                    steps = f"; steps {share}, claimed {claim.share:g}" if claim.share else ""
                    summary.append(
                        [claim.title, f"`{method}`", task, baseline, f"{verdict}: {gap}{steps}"]
                    )
    header = [
        "run",
        "task",
        "final, mean ± std (n)",
        "against",
        "difference",
        "steps",
        "cost",
        "verdict",
    ]
    text = f"## {claim.title}\n\n*Claimed* ({claim.paper}): {claim.says}.\n\n{table(header, rows)}"
    return text, summary


def best_of_finer(source: Source, task: str) -> tuple[float, Runs] | None:
    """The best learning rate of AdamW on the finer grid, chosen on these very seeds; its runs."""
    by_rate = {
        rate: runs
        for rate in RATES[task]
        if (runs := load(source, task, "adamw", rate)) is not None
    }
    if not by_rate:
        return None
    best = max(
        by_rate,
        key=lambda rate: by_rate[rate].sign * float(np.mean(list(by_rate[rate].final().values()))),
    )
    return best, by_rate[best]


def concluded(words: list[str]) -> str:
    """One word for the judgements of all tasks."""
    better, worse = words.count("better"), words.count("worse")
    if better == len(words):
        return "holds here"
    if better:
        return "holds in part"
    return "does not hold here" if worse else "not shown here"


def in_words(source: Source, claim: Claim, method: str) -> list[str]:
    """A row: the claim, and the results against its baseline and against AdamW's finer grid."""
    results: dict[str, list[str]] = {claim.against[0]: [], "AdamW, finer grid": []}
    words: dict[str, list[str]] = {name: [] for name in results}
    for task in TASKS:
        runs = load(source, task, method)
        fine = best_of_finer(source, task)
        others = {
            claim.against[0]: load(source, task, claim.against[0]),
            "AdamW, finer grid": fine[1] if fine else None,
        }
        for name, other in others.items():
            if runs is None or other is None:
                continue
            interval = difference(runs, other)
            words[name].append(relation(interval))
            results[name].append(f"{task} {relation(interval)} ({in_numbers(interval)})")
    cells = [f"{concluded(words[name])}: {'; '.join(results[name])}" for name in results]
    cost = ", ".join(
        f"{runs.cost:.2f}" for task in TASKS if (runs := load(source, task, method)) is not None
    )
    return [
        claim.title,
        f"`{method}`",
        claim.says,
        f"{claim.against[0]}: {cells[0]}",
        cells[1],
        cost,
    ]


def finer(source: Source) -> str:
    """Every method against AdamW at the best rate of a finer grid, chosen on these very seeds."""
    rows = []
    for task in TASKS:
        fine = best_of_finer(source, task)
        if fine is None:
            continue
        rate, other = fine
        names = dict.fromkeys(name for claim in CLAIMS for name in claim.methods)
        for name in ("adamw", *names):
            runs = load(source, task, name)
            if runs is not None:
                interval = difference(runs, other)
                rows.append(
                    [f"`{name}`", task, f"{rate:g}", in_numbers(interval), relation(interval)]
                )
    header = ["run", "task", "best lr of AdamW", "difference", "verdict"]
    return f"{template('claims/finer_grid')}\n\n{table(header, rows)}"


def against(title: str, ramda: Runs, task: str, method: str, other: Runs) -> list[str]:
    """A row of the summary: RAMDA's accuracy and zero groups beside a rival's."""
    words = []
    for name, label in (("accuracy", "accuracy"), ("group_sparsity", "zero groups")):
        interval = difference(ramda, other, name, 1.0)
        words.append(f"{label} {relation(interval)}: {in_numbers(interval, '.3f')}")
    return ["RAMDA", title, task, method, "; ".join(words)]


def sparsity_cells(runs: Runs) -> list[str]:
    """Accuracy and share of zero groups, mean and deviation over seeds."""
    finals = [list(runs.final(name).values()) for name in ("accuracy", "group_sparsity")]
    return [f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.2g} ({len(v)})" for v in finals]


def sparsity(source: Source) -> tuple[str, list[list[str]]]:
    """RAMDA beside its rivals: accuracy and zero groups."""
    rows, summary = [], []
    for task in SPARSE:
        ramda = load(source, task, "ramda")
        sparse = load(source, task, "ramda", MIXED[0])
        variants = {"`ramda`": ramda, MIXED[1]: sparse}
        pairs = [
            (name, load(source, task, name))
            for name in ("adamw", "prox_sgd", "prox_adamw", "ramda")
        ]
        for method, runs in [*pairs, (MIXED[1], sparse)]:
            if runs is None:
                continue
            setting = MIXED[2] if runs is sparse else source.compared.chosen(task, method)
            name = method if runs is sparse else f"`{method}`"
            rows.append([name, task, *sparsity_cells(runs), setting])
            if method.startswith("prox"):
                summary += [
                    against(title, one, task, method, runs)
                    for title, one in variants.items()
                    if one is not None
                ]
    header = ["run", "task", "accuracy", "share of zero groups", "tuned"]
    text = template("claims/sparsity", table=table(header, rows))
    return text, summary


def tuned(source: Source) -> str:
    """What tuning chose for every pair."""
    names = dict.fromkeys(name for claim in CLAIMS for name in (*claim.against, *claim.methods))
    rows = [
        [f"`{name}`", *(source.compared.chosen(task, name) for task in TASKS)]
        for name in names
        if load(source, TASKS[0], name)
    ]
    return f"## What tuning chose\n\n{table(['run', *TASKS], rows)}"


def files(folder: Path) -> dict[Path, str]:
    """Page and table."""
    source = Source.read(folder)
    sections, summary = zip(
        *[*(section(source, claim) for claim in CLAIMS), sparsity(source)], strict=True
    )
    rows = [row for part in summary for row in part]
    names = ["claim", "run", "task", "against", "result"]
    verdicts = [in_words(source, claim, method) for claim in CLAIMS for method in claim.methods]
    words = table(
        [
            "claim",
            "run",
            "claimed",
            "against the baseline",
            "against AdamW on a finer grid",
            "cost",
        ],
        verdicts,
    )
    verdict = f"## Verdicts\n\n{template('claims/verdicts')}\n\n{words}"
    head = f"## Every comparison\n\n{table(names, rows)}"
    parts = [
        template("claims/introduction"),
        verdict,
        head,
        finer(source),
        *sections,
        tuned(source),
    ]
    return {
        PAGE: "\n\n".join(parts) + "\n",
        TABLE: pd.DataFrame(rows, columns=names).to_csv(index=False),
    }


def main() -> None:
    """Write page and table."""
    write(files(archive_for("claims")))


if __name__ == "__main__":
    main()
