"""The estimates of AdaHessian's probes, and its memory."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn

from optimizers.diagonal import AdaHessian, SophiaG, SophiaH, agreement, hessian_diagonal
from optimizers.diagonal.probes import hutchinson, probe
from optimizers.method import Method
from tests.optimizers.cases import CASES, Problem, Reference, close, mlp

# -- what the probe estimates ----------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("name", ["mlp_ce", "conv_bn", "lstm"])
def test_the_mean_over_probes_is_the_true_diagonal(name: str, distribution: str) -> None:
    problem = CASES[name]()
    hessian = Reference(problem).hessian()
    probes = 600
    estimate = hutchinson(problem.objective().hessian(), distribution, probes, seed=0)
    diagonal = hessian.diagonal()
    variance = hessian.square().sum(1) - diagonal.square()
    if distribution == "gaussian":
        variance = variance + 2 * diagonal.square()
    error = (estimate - diagonal).abs()
    assert bool((error <= 5 * (variance / probes).sqrt() + 1e-12).all())


def test_what_it_squares_estimates_the_norm_of_a_row_not_the_diagonal() -> None:
    """E[(z o Hz)_i^2] is sum_j H_ij^2 for random signs.

    Here it is several times the squared diagonal.
    """
    problem = CASES["mlp_ce"]()
    hessian = Reference(problem).hessian()
    curvature = problem.objective().hessian()
    size = len(curvature.gradient)
    samples = torch.stack(
        [curvature(probe(curvature.gradient, "rademacher", seed)).square() for seed in range(800)]
    )
    error = (samples.mean(0) - hessian.square().sum(1)).abs()
    assert bool((error <= 5 * samples.std(0) / math.sqrt(800) + 1e-12).all())
    inflated = (hessian.square().sum(1) / hessian.diagonal().square()).sqrt()
    assert size == 43
    assert float(inflated.median()) > 2


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_probes_have_mean_zero_variance_one_and_no_correlation(distribution: str) -> None:
    like = torch.zeros(1000, dtype=torch.float64)
    drawn = torch.stack([probe(like, distribution, seed) for seed in range(400)])
    assert abs(float(drawn.mean())) < 5 / math.sqrt(drawn.numel())
    correlation = drawn.T @ drawn / 400 - torch.eye(1000, dtype=torch.float64)
    # the largest of half a million, in standard deviations
    worst = 7 if distribution == "rademacher" else 10
    assert float(correlation.abs().max()) < worst / math.sqrt(400)
    assert torch.equal(probe(like, distribution, 3), drawn[3])
    if distribution == "rademacher":
        assert bool((drawn.abs() == 1).all())


def test_the_true_diagonal() -> None:
    for name in ("mlp_mse", "conv", "tied"):
        problem = CASES[name]()
        close(
            hessian_diagonal(problem.objective(l2=0.1)),
            Reference(problem, l2=0.1).hessian().diagonal(),
        )


def test_an_agreement_in_numbers() -> None:
    true = torch.tensor([1.0, -2.0, 4.0, 8.0, 0.0])
    facts = agreement(torch.tensor([2.0, 4.0, 8.0, 16.0, 3.0]), true)
    assert facts.sign == facts.positive == 0.75
    assert facts.weighted == pytest.approx(13 / 15)
    assert facts.ratio == 2
    assert facts.correlation == pytest.approx(1)
    assert agreement(-true, true).sign == 0
    with pytest.raises(ValueError, match="shapes"):
        agreement(true[:2], true)
    with pytest.raises(ValueError, match="at least two entries"):
        agreement(torch.zeros(5), true)


def test_a_hessian_for_one_product_gives_it_and_no_second() -> None:
    problem = CASES["conv_bn"]()
    hessian = Reference(problem).hessian()
    vector = probe(hessian[0], "gaussian", 0)
    curvature = problem.objective().hessian(once=True)
    close(curvature(vector), hessian @ vector)
    with pytest.raises(RuntimeError, match="second time"):
        curvature(vector)


# -- memory ----------------------------------------------------------------------------------------


class Sine(nn.Module):
    """An activation whose graph saves its input.

    One that saves its output would make a cycle with `SavedTensor`.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sin()


class SavedTensor:
    """A tensor that some graph has saved; alive as long as the graph is."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("kind", [AdaHessian, SophiaH, SophiaG])
def test_no_graph_outlives_its_step_and_no_tensor_is_left_over(kind: type[Method]) -> None:
    """Over 300 steps without the garbage collector, which could hide a cycle."""
    torch.manual_seed(0)
    problem = Problem(mlp((4, 6, 3), Sine), nn.MSELoss(), torch.randn(12, 4), torch.randn(12, 3))
    optimizer = kind(problem.params, lr=1e-3)
    alive: weakref.WeakSet[SavedTensor] = weakref.WeakSet()
    saved = 0

    def pack(tensor: Tensor) -> SavedTensor:
        nonlocal saved
        saved += 1
        held = SavedTensor(tensor)
        alive.add(held)
        return held

    def tensors() -> int:
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    objective = problem.objective()
    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            for _ in range(100):
                optimizer.step(objective)
                assert not alive
        early = tensors()
        for _ in range(200):
            optimizer.step(objective)
        assert tensors() <= early  # what other tests left behind may go meanwhile
    finally:
        gc.enable()
    assert saved > 500
