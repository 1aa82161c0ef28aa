"""docs/results/methods.md and results/reference/methods.csv.

The page describes every optimizer of the registry and measures its costs.

Give names to measure these only; the others keep the rows they have.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from omegaconf import OmegaConf
from pages import table, template

from optimizers import Objective, UnsupportedError
from optimizers.method import Method
from suite.config import registry
from suite.config.compose import compose_config
from suite.config.instantiate import construct, locate
from suite.errors import ConfigError
from suite.paths import ROOT
from suite.training.measures import oracle_costs
from suite.training.measures.memory import state_bytes
from suite.training.progress import ProgressLine
from tasks.task import Batch, Task

SEEDS = 3  # of scripts/findings.py
NETS = ("mlp", "resnet", "char_transformer")
STEPS = 100
WINDOW = 5  # steps of one side before the other has its turn
SECONDS = 2.5  # after which no window begins
TABLE = ROOT / "results" / "reference" / "methods.csv"
FINDINGS = ROOT / "results" / "reference" / "findings.csv"
PAGE = ROOT / "docs" / "results" / "methods.md"
COMMON = ("damping", "reduction_ratio", "condition", "age", "preconditioned", "failures/")

AGREEMENT = ("sign", "weighted", "positive", "correlation", "ratio")
# heading, how to read it, methods; none: all with a compared diagonal
FINDINGS_OF: list[tuple[str, str, list[str]]] = [
    (
        "Whose diagonal has the sign of the true one",
        template("methods/diagonal"),
        [],
    ),
    (
        "How far AdaFisher is from a scalar",
        "`spread` is the largest over the smallest number by which the momentum is divided: at 1 "
        "the method is SGD with momentum.",
        ["adafisher", "adafisher_released"],
    ),
    (
        "Whether the Hessian's block of a vector is diagonal",
        template("methods/block"),
        ["sgd_ph"],
    ),
]


def task_of(name: str) -> tuple[Task, Batch]:
    """A task at its quick size, and its first mini-batch."""
    task: Task = construct(_composed(f"task={name}")["task"])
    return task, next(task.batches("train", 0))


def settings(optimizer: str) -> dict[str, Any]:
    """An optimizer's node as a run sees it."""
    return dict(_composed(f"optimizer={optimizer}")["optimizer"])


def _composed(choice: str) -> dict[str, Any]:
    config, _ = compose_config([choice, "scale=quick", "~tuned"])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


class Side:
    """An optimizer on a model of its own, fed the same mini-batches as every other side."""

    def __init__(self, task: Task, node: dict[str, Any], seed: int = 0) -> None:
        self.batches = task.batches("train", seed)
        self.model = task.model(seed)
        self.counts: Counter[str] = Counter()
        fresh = task.batches("train", seed + 1)
        generator = torch.Generator().manual_seed(seed)
        self.objective = Objective(
            self.model,
            task.loss_fn,
            *next(self.batches),
            l2=task.l2,
            counts=self.counts,
            generator=generator,
            sampler=lambda: next(fresh),
        )
        torch.manual_seed(seed)
        self.optimizer = construct(node, list(self.model.named_parameters()))
        missing = getattr(self.optimizer, "needs", frozenset()) - task.offers
        if missing:
            raise UnsupportedError(f"needs {', '.join(sorted(missing))}")
        if isinstance(self.optimizer, Method):
            self.optimizer.expect(STEPS, task.steps_per_epoch)
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()

    def steps(self, number: int) -> Iterator[float]:
        """Take steps; the processor seconds of each."""
        for _ in range(number):
            objective = self.objective.on(*next(self.batches))
            start = time.process_time()
            self.loss = float(self.optimizer.step(objective))
            yield time.process_time() - start


def measured(name: str, net: str, task: Task, weights: oracle_costs.Costs) -> dict[str, Any]:
    """A row of the table: an optimizer on a net."""
    row: dict[str, Any] = {"optimizer": name, "net": net, "status": "done"}
    try:
        side, sgd = Side(task, settings(name)), Side(task, settings("sgd"))
        list(sgd.steps(2))
        seconds, reference = timed(side, sgd)
    except UnsupportedError as error:
        return row | {"status": f"unsupported: {error}"}
    later = seconds[1:] or seconds  # the first step allocates
    return row | {
        "status": "done" if math.isfinite(side.loss) else "diverged",
        "steps": len(seconds),
        "grad_equivalents": oracle_costs.grad_equivalents(side.counts, weights) / len(seconds),
        "seconds_ratio": fmean(later) / fmean(reference[1:]),
        "words": state_bytes(side.optimizer) / 4 / sum(p.numel() for p in side.model.parameters()),
        "telemetry": telemetry_text(side.optimizer),
    }


def timed(side: Side, sgd: Side) -> tuple[list[float], list[float]]:
    """Seconds of the steps of an optimizer and of SGD, in turn, until the time is up."""
    seconds: list[float] = []
    reference: list[float] = []
    end = time.process_time() + SECONDS
    while len(seconds) < STEPS and (not seconds or time.process_time() < end):
        reference += sgd.steps(WINDOW)
        for taken in side.steps(WINDOW):
            seconds.append(taken)
            if time.process_time() > end:
                break
    return seconds, reference


def telemetry_text(optimizer: torch.optim.Optimizer) -> str:
    """What a method of this project measures of itself beside the common names."""
    numbers = optimizer.telemetry() if isinstance(optimizer, Method) else {}
    own = ((name, value) for name, value in sorted(numbers.items()) if not name.startswith(COMMON))
    return "; ".join(f"{name}={value:.4g}" for name, value in own)


def measure(names: list[str]) -> None:
    """Measure these optimizers on all nets and put their rows into the table."""
    rows = []
    weights: dict[str, oracle_costs.Costs] = {}
    with ProgressLine("methods", len(NETS) * len(names), enabled=True) as progress:
        done = count(1)
        for net in NETS:
            task, batch = task_of(net)
            weights[net] = oracle_costs.measure(
                task, Objective(task.model(0), task.loss_fn, *batch), time.process_time
            )
            for name in names:
                rows.append(measured(name, net, task, weights[net]))
                progress.update(next(done), f"{name} on {net}: {rows[-1]['status']}")
    fresh = pd.DataFrame(rows)
    if TABLE.exists():
        old = pd.read_csv(TABLE)
        fresh = pd.concat([old[~old["optimizer"].isin(names)], fresh])
    known = fresh[fresh["optimizer"].isin(registry.names("optimizer"))]
    known.sort_values(["optimizer", "net"]).to_csv(TABLE, index=False, float_format="%.4g")


# -- the page --------------------------------------------------------------------------------------


def needs(node: dict[str, Any]) -> str:
    """What an optimizer's class declares."""
    try:
        declared = getattr(locate(str(node["_target_"])), "needs", frozenset())
    except ConfigError as error:
        return str(error)
    return ", ".join(sorted(declared)) or "—"


def description_tables(families: dict[str, list[str]]) -> str:
    """For each family the methods: idea, paper, needs, state, what they were checked against."""
    parts = []
    for family, names in families.items():
        rows = []
        for name in names:
            node = registry.read("optimizer", name)
            about = registry.about(node)
            state = f"`{about.get('state', '—')}`"
            described = registry.description("optimizer", name)
            checked = str(about.get("verified", "—"))
            rows.append(
                [f"`{name}`", described, str(about.get("paper", "—")), needs(node), state, checked]
            )
        header = ["name", "what it computes", "paper", "needs", "state", "verified against"]
        parts.append(f"### {family.capitalize()}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def cost_table(frame: pd.DataFrame, families: dict[str, list[str]]) -> str:
    """A row an optimizer: words, gradient-equivalents and seconds on each net."""
    names = [name for members in families.values() for name in members]
    rows = [cost_cells(name, frame[frame["optimizer"] == name]) for name in names]
    header = [
        "name",
        "words",
        *(f"GE, {net}" for net in NETS),
        *(f"seconds, {net}" for net in NETS),
        "fewest steps",
    ]
    return table(header, rows)


def cost_cells(name: str, measured_rows: pd.DataFrame) -> list[str]:
    """An optimizer's row of the table of costs."""
    by_net = measured_rows.drop_duplicates("net", keep="last").set_index("net").reindex(NETS)
    words = by_net["words"].iloc[0]
    steps = by_net["steps"][by_net["steps"] > 0]
    fewest = steps.min() if len(steps) else STEPS
    ratios = [*by_net["grad_equivalents"], *by_net["seconds_ratio"]]
    numbers = ["—" if math.isnan(value) else f"{value:.2f}" for value in (words, *ratios)]
    return [f"`{name}`", *numbers, str(int(fewest)) if fewest < STEPS else ""]


def telemetry_table(frame: pd.DataFrame) -> str:
    """What methods measure of themselves, after the last of these steps."""
    telemetry = frame[frame["telemetry"].notna()]
    rows = [[f"`{row.optimizer}`", row.net, str(row.telemetry)] for row in telemetry.itertuples()]
    return table(["name", "net", "after the last step"], rows)


def finding_tables() -> str:
    """The findings, the seeds' smallest, median and largest value in a cell."""
    frame = pd.read_csv(FINDINGS)
    parts = []
    for heading, text, methods in FINDINGS_OF:
        chosen = (
            frame[frame["method"].isin(methods)]
            if methods
            else frame[frame["fact"].isin(AGREEMENT)]
        )
        facts = list(dict.fromkeys(chosen["fact"]))
        rows = []
        for (net, method), group in chosen.groupby(["net", "method"], sort=False):
            cells = []
            for fact in facts:
                values = group.loc[group["fact"] == fact, "value"]
                cells.append(
                    f"{values.median():.3g} [{values.min():.3g}, {values.max():.3g}]"
                    if len(values)
                    else "—"
                )
            rows.append([f"`{method}`" if "," not in method else method, net, *cells])
        parts.append(f"### {heading}\n\n{text}\n\n{table(['method', 'net', *facts], rows)}")
    return "\n\n".join(parts)


def write() -> None:
    """Write the page from the table."""
    frame = pd.read_csv(TABLE)
    families: dict[str, list[str]] = {}
    for name in registry.names("optimizer"):
        families.setdefault(registry.family(registry.read("optimizer", name)), []).append(name)
    order = dict(sorted(families.items(), key=lambda item: (item[0] != "first order", item[0])))
    when = f"torch {torch.__version__.partition('+')[0]}"
    parts = [
        template("methods/introduction", when=when, steps=STEPS, seconds=SECONDS),
        f"## What they are\n\n{description_tables(order)}",
        f"## What they cost\n\n{cost_table(frame, order)}",
        f"## What we found\n\nMade by `python scripts/findings.py`: the median over {SEEDS} seeds "
        f"[smallest, largest]. "
        f"The claims of their papers are tested in [claims.md](claims.md).\n\n{finding_tables()}",
        template("methods/telemetry", table=telemetry_table(frame)),
        template("methods/absent"),
    ]
    PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="optimizers to measure again (default: all)")
    parser.add_argument(
        "--write-only", action="store_true", help="write the page from the table there is"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.write_only:
        measure(given.names or registry.names("optimizer"))
    write()


if __name__ == "__main__":
    main()
