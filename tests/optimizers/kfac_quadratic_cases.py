"""K-FAC with a quadratic model: settings and their dampings."""

from __future__ import annotations

from torch import Tensor

from optimizers.linalg.flat import flatten
from tests.optimizers.cases import Problem

EVERY: dict[str, object] = {"fisher": "exact", "statistics_period": 1, "inverse_period": 1}


QUADRATIC: dict[str, object] = {**EVERY, "step_rule": "exact"}


ADAPTED: dict[str, object] = {"damping_rule": "adaptive", "damping_period": 1, "damping_decay": 0.8}


def flat(problem: Problem) -> Tensor:
    return flatten(problem.params).detach()


def scale_of(problem: Problem) -> float:
    objective = problem.objective()
    objective.value()
    return objective.scale
