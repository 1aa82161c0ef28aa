"""What methods with a diagonal curvature do in two processes, each with its share of every
mini-batch, and in one."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from optimizers import Objective
from optimizers.diagonal import SGDPH, SOAA, AdaFisher
from optimizers.distributed import ProcessGroup, SingleProcess
from optimizers.linalg.flat import flatten
from tests.optimizers.cases import MODELS, Problem
from tests.optimizers.ranks import Progress

STEPS = 8
WAYS: dict[str, tuple[Any, str]] = {
    "adafisher": (partial(AdaFisher, lr=0.02, statistics_period=3), "layers"),
    "adafisher average": (
        partial(AdaFisher, lr=1e-3, normalize="average", statistics_period=2),
        "conv",
    ),
    "adafisher released": (partial(AdaFisher, as_released=True, statistics_period=3), "layers"),
    "adafisher sampled": (
        partial(AdaFisher, lr=0.02, fisher="sampled", statistics_period=2),
        "tied",
    ),
    "sgd_ph": (SGDPH, "layers"),
    "sgd_ph exact": (partial(SGDPH, exact_block=True), "layers"),
    "sgd_ph signs": (partial(SGDPH, exact_block=True, max_exact=2, probes=2), "conv"),
    "soaa": (partial(SOAA, lr=0.01, total_steps=STEPS), "layers"),
}


def problem_of(name: str) -> Problem:
    """One of the cases, or a network with a normalisation that looks at an example at a time."""
    torch.manual_seed(0)
    if name != "layers":
        return MODELS[name]()
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    return Problem(
        model, nn.CrossEntropyLoss(), torch.randn(15, 4).double(), torch.randint(3, (15,))
    )


def trained(name: str, ranks: SingleProcess) -> dict[str, Any]:
    """Where some steps lead, and what the method tells then."""
    method, problem = WAYS[name][0], problem_of(WAYS[name][1])
    optimizer = method(problem.model.named_parameters())
    objective = Objective(
        problem.model,
        problem.loss_fn,
        problem.inputs,
        problem.targets,
        l2=0.01,
        ranks=ranks,
        generator=torch.Generator().manual_seed(7),
    )
    start = flatten(problem.params).detach().clone()
    losses = [optimizer.step(objective.on(problem.inputs, problem.targets)) for _ in range(STEPS)]
    end = flatten(problem.params).detach()
    return {
        "start": start,
        "end": end,
        "losses": torch.stack(losses),
        "telemetry": optimizer.telemetry(),
    }


def work(ranks: ProcessGroup, progress: Progress) -> dict[str, Any]:
    """The results of one of the processes."""
    results: dict[str, Any] = {}
    for name in WAYS:
        results[name] = trained(name, ranks)
        progress()
    return results
