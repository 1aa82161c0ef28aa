"""The accuracy of diagonal methods' estimates, written to results/reference/findings.csv.

`scripts/methods_page.py` shows the table in docs/results/methods.md. Three measurements: the
diagonals of AdaHessian and Sophia beside the true one; the spread of AdaFisher's preconditioner
along a run; the off-diagonal part of the Hessian's block of one vector of parameters (SGD-PH).
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
BLOCKS = {"resnet": 14, "mlp": 4}  # steps, one for each vector

Rows = Iterator[dict[str, Any]]


def facts_of(method: str, net: str, seed: int, facts: Mapping[str, float]) -> Rows:
    """The facts of a run, a row each."""
    for fact, value in facts.items():
        yield {"method": method, "net": net, "seed": seed, "fact": fact, "value": value}


def diagonals(activation: type[nn.Module], seed: int) -> Rows:
    """Each method's diagonal beside the true one, after training an MLP 64-32-32-10 on digits."""
    digits = load_digits()
    inputs = torch.tensor(digits.data / 16, dtype=torch.float32)
    targets = torch.tensor(digits.target)
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
        estimate = optimizer.diagonal()
        assert estimate is not None
        yield from facts_of(name, net, seed, agreement(estimate, true).as_dict())
        if name == next(iter(KEEPERS)):
            once = hutchinson(objective.on(inputs, targets).hessian(), "rademacher", 1, seed)
            yield from facts_of(
                "one random sign vector, at AdaHessian's end",
                net,
                seed,
                agreement(once, true).as_dict(),
            )


def spreads(net: str, method: str, seed: int) -> Rows:
    """The largest over the smallest number in AdaFisher's preconditioner along a run."""
    task, _ = task_of(net)
    side = Side(task, settings(method), seed)
    for step in range(1, max(SPREAD_AT) + 1):
        list(side.steps(1))
        if step in SPREAD_AT:
            yield from facts_of(
                method, net, seed, {f"spread, step {step}": side.optimizer.telemetry()["spread"]}
            )


def blocks(net: str, steps: int, seed: int) -> Rows:
    """The off-diagonal part of each vector's exact block, and the error of H 1 as its diagonal."""
    task, _ = task_of(net)
    side = Side(task, settings("sgd_ph") | {"exact_block": True}, seed)
    list(side.steps(steps))
    measured = side.optimizer.telemetry()
    yield from facts_of(
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
