"""Every oracle call is counted, exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from optimizers import Objective
from tests.optimizers.cases import CASES

COUNTS: dict[str, tuple[Callable[[Objective], object], dict[str, int]]] = {
    "call": (lambda o: o(), {"value": 1, "grad": 1}),
    "value": (lambda o: o.value(), {"value": 1}),
    "trial": (lambda o: o.value(torch.zeros(43).double()), {"value": 1}),
    "gradient": (lambda o: o.gradient(), {}),
    "hessian": (lambda o: o.hessian(), {"value": 1, "grad": 1}),
    "hessian products": (lambda o: _twice(o.hessian()), {"value": 1, "grad": 1, "hvp": 2}),
    "hessian dense": (lambda o: o.hessian().dense(chunk=10), {"value": 1, "grad": 1, "hvp": 43}),
    "ggn": (lambda o: o.ggn(), {"value": 1, "grad": 1}),
    "ggn products": (lambda o: _twice(o.ggn()), {"value": 1, "grad": 1, "ggnvp": 2}),
    "ggn dense": (lambda o: o.ggn().dense(), {"value": 1, "grad": 1, "ggnvp": 43}),
    "jacobian": (lambda o: o.jacobian(), {"value": 1, "jac": 1}),
    "per_example_grads": (lambda o: o.per_example_grads(), {"examples": 6}),
    "capture": (lambda o: _capture(o), {"value": 1, "grad": 1}),
    "sampled": (lambda o: o.sampled(), {}),
    "sampled call": (lambda o: o.sampled()(), {"value": 1, "grad": 1}),
    "sampled per example": (lambda o: o.sampled().per_example_grads(), {"value": 1, "examples": 6}),
    "scores": (lambda o: o.scores(), {"value": 1, "grad": 2}),
    "scores exact": (lambda o: o.scores(fisher="exact"), {"value": 1, "grad": 4}),
    "scores empirical": (lambda o: o.scores(fisher="empirical"), {"value": 1, "grad": 1}),
    "scores alone": (lambda o: o.scores(gradient=False), {"value": 1, "grad": 1}),
    "half": (lambda o: o.subset(torch.arange(3)).value(), {"value": 0.5}),
    "half products": (
        lambda o: _twice(o.subset(torch.arange(3)).ggn()),
        {"value": 0.5, "grad": 0.5, "ggnvp": 1.0},
    ),
    "joined": (lambda o: o.joined(3)(), {"value": 3, "grad": 3}),
    "fresh": (lambda o: o.fresh(), {}),
    "fresh call": (lambda o: o.fresh()(), {"value": 1, "grad": 1}),
}


def _twice(curvature: Callable[[torch.Tensor], torch.Tensor]) -> None:
    vector = torch.ones(43).double()
    curvature(vector)
    curvature(vector)


def _capture(objective: Objective) -> None:
    with objective.capture():
        objective()


@pytest.mark.parametrize("oracle", COUNTS)
def test_counts(oracle: str) -> None:
    problem = CASES["mlp_mse"]()
    objective = problem.objective(sampler=lambda: (problem.inputs, problem.targets))
    call, expected = COUNTS[oracle]
    call(objective)
    assert dict(objective.counts) == expected
    call(objective)
    assert dict(objective.counts) == {name: 2 * number for name, number in expected.items()}


def test_one_counter_for_all_steps_and_derived_objectives() -> None:
    problem = CASES["mlp_mse"]()
    objective = problem.objective()
    objective()
    following = objective.on(problem.inputs, problem.targets)
    following()
    following.sampled()()
    assert following.counts is objective.counts
    assert objective.counts["grad"] == 3
