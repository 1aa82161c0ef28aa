"""Hessian and Gauss-Newton products against curvlinops, an implementation that is not ours."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.optimizers.cases import CASES, COUPLED, RANDOM, close

curvlinops = pytest.importorskip("curvlinops")

STANDARD = [
    name
    for name in CASES
    if CASES[name]().loss_fn.reduction in ("mean", "sum") and name not in RANDOM
]
OPERATORS = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("kind", OPERATORS)
def test_against_curvlinops(name: str, kind: str) -> None:
    problem = CASES[name]()
    # torch.func gets second derivatives of batch statistics wrong (2.13)
    problem.model.train(name not in COUPLED)
    ours = getattr(problem.objective(), kind)()
    with sdpa_kernel(SDPBackend.MATH):
        batches = [(problem.inputs, problem.targets)]
        theirs = OPERATORS[kind](
            problem.model, problem.loss_fn, problem.params, batches, check_deterministic=False
        )
        vectors = torch.randn(ours.gradient.numel(), 3, dtype=torch.float64)
        expected = theirs @ vectors
    for i in range(3):
        close(ours(vectors[:, i]), expected[:, i])
    close(ours.dense() @ vectors, expected)
