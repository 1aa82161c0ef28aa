"""Muon against torch's, by hand on matrices and flattened kernels, with AdamW for the rest."""

from __future__ import annotations

from functools import partial
from math import sqrt

import pytest
import torch
from torch import nn

from optimizers import UnsupportedError
from optimizers.matrix import Muon
from tests.optimizers.cases import CASES, Problem, TiedEmbedding, mlp
from tests.optimizers.matrix_cases import (
    classifier,
    distance,
    kernels,
    linear_layers,
    train,
    train_by_hand,
)


def convolutional() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    return Problem(model, nn.CrossEntropyLoss(), torch.randn(30, 2, 4, 4), torch.randint(3, (30,)))


CASES_BY_ROLE = {
    "matrices": (partial(classifier, torch.float32), {"0.weight", "2.weight", "4.weight"}),
    "kernels": (convolutional, {"0.weight", "3.weight"}),
}


def by_hand(problem: Problem, hidden: set[str], steps: int, **options: object) -> None:
    """torch's Muon on the flattened hidden matrices, torch's AdamW on everything else."""
    named = dict(problem.model.named_parameters())
    matrices = {key: nn.Parameter(named[key].detach().flatten(1).clone()) for key in sorted(hidden)}
    muon = torch.optim.Muon(matrices.values(), lr=0.02, **options)  # type: ignore[arg-type]
    decay = muon.defaults["weight_decay"]
    adamw = torch.optim.AdamW(
        [p for key, p in named.items() if key not in hidden], lr=0.01, weight_decay=decay
    )

    def step() -> None:
        for key, matrix in matrices.items():
            grad = named[key].grad
            assert grad is not None
            matrix.grad = grad.flatten(1)
        muon.step()
        adamw.step()
        for key, matrix in matrices.items():
            named[key].copy_(matrix.view_as(named[key]))

    train_by_hand(problem, step, steps)


@pytest.mark.parametrize("name", CASES_BY_ROLE)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_in_bfloat16_it_is_torchs_muon_and_adamw(name: str, nesterov: bool, adjust: str) -> None:
    """The rounding of bfloat16 is the same, so that six steps agree as float32's do."""
    make, hidden = CASES_BY_ROLE[name]
    problem, twin = make(), make()
    muon = Muon(
        problem.model.named_parameters(),
        nesterov=nesterov,
        adjust=adjust,
        precision="bfloat16",
        weight_decay=0.1,
        fallback_lr=0.01,
    )
    train(problem, muon, 6)
    by_hand(twin, hidden, 6, nesterov=nesterov, adjust_lr_fn=adjust, weight_decay=0.1)
    assert distance(problem, twin) < 1e-5


def test_full_precision_differs_from_torchs_by_the_rounding_of_bfloat16() -> None:
    make, hidden = CASES_BY_ROLE["matrices"]
    problem, twin, start = make(), make(), make()
    train(problem, Muon(problem.model.named_parameters(), fallback_lr=0.01), 10)
    by_hand(twin, hidden, 10, weight_decay=0.0)
    moved = float((problem.model[2].weight - start.model[2].weight).detach().norm())
    apart = float((problem.model[2].weight - twin.model[2].weight).detach().norm())
    assert 0 < apart < 0.03 * moved


def test_a_step_has_the_spectral_norm_that_the_rate_says() -> None:
    problem, start = linear_layers(6, 12, 5, 6), linear_layers(6, 12, 5, 6)
    train(problem, Muon(problem.model.named_parameters(), lr=0.02), 1)
    for layer, scale in ((0, sqrt(2)), (2, 1.0)):
        moved = problem.model[layer].weight - start.model[layer].weight
        values = torch.linalg.svdvals(moved.detach()) / (0.02 * scale)
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_a_kernel_that_is_not_contiguous_is_moved_all_the_same() -> None:
    problem, twin = kernels(), kernels()
    problem.model.to(memory_format=torch.channels_last)
    assert not problem.model[0].weight.is_contiguous()
    for each in (problem, twin):
        train(each, Muon(each.model.named_parameters()), 3)
    assert distance(problem, twin) < 1e-10
    assert not problem.model[0].weight.is_contiguous()


def test_a_parameter_whose_storage_was_exchanged_is_still_the_one_that_moves() -> None:
    problem, twin = classifier(), classifier()
    optimizer = Muon(problem.model.named_parameters())
    for each in (problem, twin):
        for parameter in each.params:
            parameter.data = 2 * parameter.data
    train(problem, optimizer, 1)
    train(twin, Muon(twin.model.named_parameters()), 1)
    assert distance(problem, twin) == 0


def test_needs_a_hidden_matrix() -> None:
    torch.manual_seed(0)
    for model in (mlp((4, 3)), CASES["rosenbrock"]().model):
        with pytest.raises(UnsupportedError, match="of the roles hidden"):
            Muon(model.named_parameters())
    assert Muon.needs == {"matrices"}


def test_embeddings_head_and_vectors_go_to_the_fallback() -> None:
    model = TiedEmbedding()
    model.head = nn.Linear(3, 5)
    assert Muon(model.named_parameters(), fallback="sgd").layer_coverage() == {
        "embedding.weight": "sgd",
        "hidden.weight": "muon",
        "hidden.bias": "sgd",
        "head.weight": "sgd",
        "head.bias": "sgd",
    }


def test_a_schedule_moves_both_parts() -> None:
    """At a quarter of the rate both move a quarter as far.

    AdamW's and Muon's first steps are proportional to it.
    """
    moved = []
    for factor in (1.0, 0.25):
        problem, start = classifier(), classifier()
        optimizer = Muon(problem.model.named_parameters())
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step, factor=factor: factor)
        train(problem, optimizer, 1)
        moved.append([(a - b).detach() for a, b in zip(problem.params, start.params, strict=True)])
    for whole, quarter in zip(*moved, strict=True):
        torch.testing.assert_close(quarter, whole / 4, rtol=1e-9, atol=1e-12)
