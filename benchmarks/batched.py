"""What training replicas together saves: 32 trials of a task as one batch against one by one.

Both sides write the same records under the same run_ids, in one process on one thread, and
alternate; reported are medians of wall-clock and of processor seconds of the whole and of the steps
alone (forward, backward, update), each per trial, and the ratios of the medians. Processor seconds
are what other processes disturb least. Nothing here is asserted in tests.

    python benchmarks/batched.py                    all rows, some minutes
    python benchmarks/batched.py quick 32 adamw     one scale, one number of replicas, one optimizer
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from suite.batched import run_batched
from suite.config import resolvers
from suite.config.plan import Plan
from suite.paths import CONFIGS
from suite.training.runner import Outcome, run

ROUNDS = 3
RATES = {
    "sgd": (1e-3, 0.1),
    "momentum": (1e-3, 0.03),
    "adamw": (1e-4, 1e-2),
}  # of the trials, on a logarithmic grid


class Case(NamedTuple):
    """A measurement: `separate` trials run one by one in a round, and stand for all of them."""

    title: str
    optimizer: str
    replicas: int
    separate: int
    overrides: Sequence[str]


TINY = ("scale=quick", "task.image_size=7", "task.hidden=[16]", "task.batch_size=32")
CASES = [
    Case("mlp at 49-16-10, batch 32", "adamw", 32, 8, TINY),
    Case("mlp at quick: 196-64-10", "sgd", 32, 8, ("scale=quick",)),
    Case("mlp at quick: 196-64-10", "adamw", 32, 8, ("scale=quick",)),
    Case("mlp at small: 784-256-10, 100 steps", "sgd", 32, 4, ("scale=small", "steps=100")),
    Case("mlp at small: 784-256-10, 100 steps", "adamw", 32, 4, ("scale=small", "steps=100")),
]


def plans_for(case: Case, folder: Path) -> list[Plan]:
    """The trials: one seed, and the learning rates of the grid."""
    low, high = RATES[case.optimizer]
    plans = []
    for number in range(case.replicas):
        rate = low * (high / low) ** (number / max(1, case.replicas - 1))
        given = [
            f"optimizer={case.optimizer}",
            "task=mlp",
            f"optimizer.lr={rate:.4g}",
            *case.overrides,
        ]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose(
                "config", [*given, "threads=1", "device=cpu", "~tuned", "wandb.mode=disabled"]
            )
        plain: Any = OmegaConf.to_container(config, resolve=True)
        plans.append(Plan(plain, case.optimizer, "mlp", None, folder, "benchmark"))
    return plans


class Spent(NamedTuple):
    """Seconds per trial."""

    wall: float
    processor: float
    steps: float


def spent(execute: Callable[[], Sequence[Outcome]]) -> Spent:
    """What it took, per outcome."""
    wall, processor = time.perf_counter(), time.process_time()
    outcomes = execute()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    steps = sum(outcome.summary["seconds"] for outcome in outcomes)
    return Spent(*(seconds / len(outcomes) for seconds in (wall, processor, steps)))


def one_round(case: Case, costs: Path) -> tuple[Spent, Spent]:
    """The trials one by one, then as a batch, into folders that share what oracles cost."""
    with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as together:
        for folder in (alone, together):
            (Path(folder) / "costs").symlink_to(costs)
        one_by_one = plans_for(case, Path(alone))[:: case.replicas // case.separate]
        batch = plans_for(case, Path(together))
        return spent(lambda: [run(plan) for plan in one_by_one]), spent(lambda: run_batched(batch))


def measured(case: Case) -> list[str]:
    """A line of the table; the first round warms up with a few trials."""
    with tempfile.TemporaryDirectory() as folder:
        costs = Path(folder)
        one_round(case._replace(replicas=2, separate=2), costs)
        rounds = [one_round(case, costs) for _ in range(ROUNDS)]
    alone, batched = (
        Spent(*map(median, zip(*side, strict=True))) for side in zip(*rounds, strict=True)
    )
    cells = [
        f"{1e3 * a:.0f} | {1e3 * b:.0f} ms: {a / b:.2f}x"
        for a, b in zip(alone, batched, strict=True)
    ]
    return [case.title, case.optimizer, str(case.replicas), *cells]


def chosen_cases(arguments: Sequence[str]) -> list[Case]:
    """All rows, or the one that the command line asks for."""
    if not arguments:
        return CASES
    scale, replicas, optimizer = arguments
    return [Case(f"mlp at {scale}", optimizer, int(replicas), int(replicas), (f"scale={scale}",))]


def main() -> None:
    """Print every measurement; the bar is 5x for the whole of 32 trials of mlp."""
    torch.set_num_threads(1)
    table = Table(
        "trials",
        "optimizer",
        "replicas",
        "wall",
        "processor",
        "steps alone (wall)",
        title="one by one | batched",
    )
    for case in chosen_cases(sys.argv[1:]):
        table.add_row(*measured(case))
    Console(width=150).print(table)


if __name__ == "__main__":
    resolvers.register()
    main()
