"""Runs with telemetry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from suite.training.measures.telemetry import Telemetry
from tasks.task import Task

Train = Callable[..., Any]


LENGTH = ("steps=7", "task.eval_every=3", "log_every=2")


ON = ("telemetry=true", "telemetry_products=12")


# -- what the numbers are --------------------------------------------------------------------------


class Small(Task):
    """A network with batch normalisation and dropout, in float64.

    Everything that could be disturbed.
    """

    metric, direction, dtype = "loss", "min", torch.float64
    offers = frozenset({"hessian"})
    l2 = 0.01

    def __init__(self) -> None:
        super().__init__(steps=1, eval_every=1)
        self.loss_fn = nn.MSELoss()
        generator = torch.Generator().manual_seed(0)
        self.batch = tuple(torch.randn(16, width, generator=generator).double() for width in (3, 2))

    def build(self) -> nn.Module:
        parts = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 2)
        return nn.Sequential(*parts)

    def batches(self, split: str, seed: int, start: int = 0) -> Any:
        while True:
            yield self.batch

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return {"loss": 0.0}


def telemetry(task: Task, model: nn.Module, lr: float = 0.5) -> Telemetry:
    return Telemetry(model, task, torch.optim.SGD(model.parameters(), lr=lr), 0, products=100)
