"""results/reference/findings.csv: what diagonal methods' estimates are worth.

`scripts/methods_page.py` shows it in docs/results/methods.md.

Three measurements: the diagonals that AdaHessian and Sophia keep, beside the true one; the spread
of AdaFisher's preconditioner along a run; how far the Hessian's block of one vector of parameters
is from diagonal (SGD-PH).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from methods_page import FINDINGS, Side, settings, task_of
from sklearn.datasets import load_digits
from torch import nn

from optimizers import Objective
from optimizers.diagonal import AdaHessian, SophiaG, SophiaH
from optimizers.diagonal.probes import agreement, hessian_diagonal, hutchinson

STEPS, BATCH = 400, 128
SEEDS = (0, 1, 2)
KEEPERS = {"adahessian": AdaHessian, "sophia_h": SophiaH, "sophia_g": SophiaG}
SPREAD_AT = (1, 150, 300)
BLOCKS = {"resnet": 14, "mlp": 4}  # steps: a vector a step

Rows = Iterator[dict[str, Any]]


def told(method: str, net: str, seed: int, facts: Mapping[str, float]) -> Rows:
    """A row a fact."""
    for fact, value in facts.items():
        yield {"method": method, "net": net, "seed": seed, "fact": fact, "value": value}


def diagonals(activation: type[nn.Module], seed: int) -> Rows:
    """An MLP 64-32-32-10 on digits trained by each method.

    What it keeps beside the true diagonal on all digits.
    """
    found = load_digits()
    inputs, targets = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
    net = f"{activation.__name__} MLP, digits, after {STEPS} steps"
    for name, make in KEEPERS.items():
        torch.manual_seed(seed)
        layers = [
            nn.Linear(64, 32),
            activation(),
            nn.Linear(32, 32),
            activation(),
            nn.Linear(32, 10),
        ]
        model = nn.Sequential(*layers)
        optimizer = make(model.named_parameters(), lr=3e-3)
        objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets)
        order = torch.Generator().manual_seed(seed)
        for _ in range(STEPS):
            chosen = torch.randperm(len(inputs), generator=order)[:BATCH]
            optimizer.step(objective.on(inputs[chosen], targets[chosen]))
        true = hessian_diagonal(objective.on(inputs, targets))
        kept = optimizer.diagonal()
        assert kept is not None
        yield from told(name, net, seed, agreement(kept, true).as_dict())
        if name == next(iter(KEEPERS)):
            once = hutchinson(objective.on(inputs, targets).hessian(), "rademacher", 1, seed)
            yield from told(
                "one random sign vector, at AdaHessian's end",
                net,
                seed,
                agreement(once, true).as_dict(),
            )


def spreads(net: str, method: str, seed: int) -> Rows:
    """The largest over the smallest number in AdaFisher's preconditioner, as the run goes on."""
    task, _ = task_of(net)
    side = Side(task, settings(method), seed)
    for step in range(1, max(SPREAD_AT) + 1):
        list(side.steps(1))
        if step in SPREAD_AT:
            yield from told(
                method, net, seed, {f"spread, step {step}": side.optimizer.telemetry()["spread"]}
            )


def blocks(net: str, steps: int, seed: int) -> Rows:
    """The exact block of each vector of parameters.

    Its off-diagonal part, and H 1 in place of its diagonal.
    """
    task, _ = task_of(net)
    side = Side(task, settings("sgd_ph") | {"exact_block": True}, seed)
    list(side.steps(steps))
    measured = side.optimizer.telemetry()
    yield from told(
        "sgd_ph", net, seed, {fact: measured[fact] for fact in ("off_diagonal", "ones_error")}
    )


def main() -> None:
    """Measure all and write the table."""
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        for activation in (nn.Tanh, nn.ReLU):
            rows += diagonals(activation, seed)
        for net in ("mlp", "resnet"):
            for method in ("adafisher", "adafisher_released"):
                rows += spreads(net, method, seed)
            rows += blocks(net, BLOCKS[net], seed)
        print(f"seed {seed}: {len(rows)} facts", flush=True)
    pd.DataFrame(rows).to_csv(FINDINGS, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
