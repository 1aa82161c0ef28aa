"""Oracles of an objective, and which problem can answer which."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from optimizers import Objective
from tests.optimizers.cases import Problem

Oracle = Callable[[Objective], object]


ORACLES: dict[str, Oracle] = {
    "call": lambda o: o(),
    "value": lambda o: o.value(),
    "value(step)": lambda o: o.value(
        torch.full((sum(p.numel() for p in o.params),), 0.1, dtype=torch.float64)
    ),
    "hessian": lambda o: o.hessian()(o.hessian().gradient),
    "hessian.dense": lambda o: o.hessian().dense(),
    "ggn": lambda o: o.ggn()(o.ggn().gradient),
    "ggn.dense": lambda o: o.ggn().dense(),
    "jacobian": lambda o: o.jacobian(),
    "per_example_grads": lambda o: o.per_example_grads(),
    "sampled": lambda o: o.sampled()(),
    "scores": lambda o: o.scores(),
    "scores.exact": lambda o: o.scores(fisher="exact", gradient=False),
    "capture": lambda o: captured_rows(o),
}


def captured_rows(objective: Objective) -> None:
    with objective.capture():
        objective()


def allowed(oracle: str, problem: Problem) -> bool:
    """Whether the problem can answer.

    No Jacobian without squares, no example's gradient under batch normalisation.
    """
    coupled = any(isinstance(m, nn.BatchNorm2d) for m in problem.model.modules())
    if oracle == "jacobian":
        return isinstance(problem.loss_fn, nn.MSELoss)
    return oracle != "per_example_grads" or not coupled
