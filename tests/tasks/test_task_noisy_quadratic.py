"""DeepOBS's noisy quadratic.

Its instance, its noise floor in closed form, its oracles, its order of examples.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from tasks import SPLITS
from tasks.functions.noisy_quadratic import NoisyQuadratic

torch.set_num_threads(1)
TASK = NoisyQuadratic()
PUBLISHED_SEEDS = {"train": 42, "val": 44, "test": 43}


def at(theta: Tensor, task: NoisyQuadratic = TASK) -> nn.Module:
    model = task.model(0)
    with torch.no_grad():
        next(model.parameters()).copy_(theta)
    return model


def zero() -> Tensor:
    return torch.zeros(100, dtype=torch.float64)


def test_spectrum_is_the_published_one() -> None:
    random = np.random.RandomState(42)
    expected = torch.from_numpy(
        np.concatenate([random.uniform(0, 1, 90), random.uniform(30, 60, 10)])
    )
    torch.testing.assert_close(TASK.eigenvalues, expected)
    torch.testing.assert_close(torch.linalg.eigvalsh(TASK.hessian), expected.sort().values)
    rotation = TASK.root / TASK.root.norm(dim=1, keepdim=True)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(100, dtype=torch.float64))


def test_rotations_are_drawn_uniformly() -> None:
    """A Haar rotation's entries have mean 0 and variance 1/n; every row mixes all axes."""
    entries = torch.stack([NoisyQuadratic(problem_seed=seed).root for seed in range(20)])
    rotations = entries / entries.norm(dim=2, keepdim=True)
    assert float(rotations.mean()) == pytest.approx(0, abs=4 / 100 / 20**0.5)
    torch.testing.assert_close(
        rotations.square().mean((0, 1)),
        torch.full((100,), 0.01, dtype=torch.float64),
        rtol=0.2,
        atol=0,
    )
    assert float(rotations[0].abs().max()) < 0.6


@pytest.mark.parametrize("split", SPLITS)
def test_examples_are_the_published_draws(split: str) -> None:
    inputs, targets = TASK.splits[split]
    drawn = np.random.RandomState(PUBLISHED_SEEDS[split]).normal(0.0, 0.6, (1000, 100))
    assert len(inputs) == (1000 if split == "train" else 7 * 128)
    assert torch.equal(inputs, torch.from_numpy(drawn)[: len(inputs)])
    assert not targets.any()


def test_start_is_all_ones() -> None:
    assert torch.equal(
        next(TASK.model(3).parameters()).detach(), torch.ones(100, dtype=torch.float64)
    )
    assert not torch.equal(
        next(NoisyQuadratic(spread=0.1).model(3).parameters()).detach(), torch.ones(100)
    )


@pytest.mark.parametrize("split", SPLITS)
def test_loss_is_the_gap_to_the_mean_plus_the_spread_of_the_examples(split: str) -> None:
    """(1/N) sum 1/2 (theta - z)^T H (theta - z) = 1/2 (theta - mean)^T H (theta - mean) + 1/2 tr(H
    covariance)."""
    inputs, _ = TASK.splits[split]
    theta = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean, covariance = inputs.mean(0), torch.cov(inputs.T, correction=0)
    expected = (theta - mean) @ TASK.hessian @ (theta - mean) / 2 + (
        TASK.hessian * covariance
    ).sum() / 2
    metrics = TASK.evaluate(at(theta), split)
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-12)
    assert metrics["gap"] == pytest.approx(float(theta @ TASK.hessian @ theta / 2), rel=1e-12)


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_noise_floor(noise: float) -> None:
    """At the minimiser the loss of an example has the mean noise^2/2 tr H and the variance
    noise^4/2 tr H^2."""
    task = NoisyQuadratic(noise=noise, examples=20_000)
    assert task.floor == pytest.approx(noise**2 / 2 * float(task.hessian.trace()), rel=1e-12)
    deviation = noise**2 * float((task.eigenvalues.square().sum() / 2 / 20_000).sqrt())
    for split in SPLITS:
        metrics = task.evaluate(at(zero(), task), split)
        assert metrics["gap"] == 0
        assert metrics["loss"] == pytest.approx(task.floor, abs=4 * deviation)


def test_gap_of_the_training_minimiser_is_the_floor_over_the_examples() -> None:
    gaps = []
    for seed in range(100, 130):
        task = NoisyQuadratic(problem_seed=seed)
        gaps.append(task.gap(task.splits["train"][0].mean(0)) / (task.floor / 1000))
    # a weighted chi-square with about 10 degrees of freedom: relative deviation sqrt(2 / 10), over
    # 30 problems
    assert float(np.mean(gaps)) == pytest.approx(1, abs=4 * (0.2 / 30) ** 0.5)


def test_full_newton_steps_end_at_the_floor_over_the_batch() -> None:
    means = [inputs.mean(0) for inputs, _ in islice(TASK.batches("train", 0), 300)]
    # batches are drawn without replacement around the mean of all 1000, which has a gap of its own
    expected = TASK.floor / 128 * (1 - 128 / 1000) + TASK.gap(TASK.splits["train"][0].mean(0))
    assert float(np.mean([TASK.gap(mean) for mean in means])) == pytest.approx(expected, rel=0.1)


def test_without_noise_it_is_a_plain_quadratic() -> None:
    task = NoisyQuadratic(noise=0.0, examples=10, batch_size=None)
    metrics = task.evaluate(task.model(0), "train")
    assert metrics["loss"] == pytest.approx(metrics["gap"], rel=1e-12)
    assert task.floor == 0


def test_every_curvature_is_the_hessian_and_the_gradient_is_that_of_the_batch_mean() -> None:
    inputs, targets = next(TASK.batches("train", 0))
    model = TASK.model(0)
    objective = Objective(model, TASK.loss_fn, inputs, targets)
    residuals, jacobian = objective.jacobian()
    expected = TASK.hessian @ (torch.ones(100, dtype=torch.float64) - inputs.mean(0))
    objective()
    torch.testing.assert_close(objective.gradient(), expected)
    torch.testing.assert_close(jacobian.T @ residuals, expected)
    torch.testing.assert_close(objective.per_example_grads().mean(0), expected)
    for curvature in (objective.hessian(), objective.ggn(), objective.sampled().ggn()):
        torch.testing.assert_close(curvature.dense(), TASK.hessian)
    torch.testing.assert_close(jacobian.T @ jacobian, TASK.hessian)


def test_fixed_order_is_the_same_in_every_epoch_and_resumes() -> None:
    task = NoisyQuadratic(reshuffle=False)
    unbroken = [inputs for inputs, _ in islice(task.batches("train", 5), 21)]
    assert all(torch.equal(unbroken[step], unbroken[step + 7]) for step in range(14))
    assert len(torch.cat(unbroken[:7]).unique(dim=0)) == 7 * 128
    for start in (3, 7, 13):
        resumed = [inputs for inputs, _ in islice(task.batches("train", 5, start), 8)]
        assert all(torch.equal(*pair) for pair in zip(resumed, unbroken[start:], strict=False))
    assert not torch.equal(unbroken[0], next(task.batches("train", 6))[0])
    fresh = [inputs for inputs, _ in islice(TASK.batches("train", 5), 8)]
    assert torch.equal(fresh[0], unbroken[0])
    assert not torch.equal(fresh[7], fresh[0])


def momentum_gap(task: NoisyQuadratic, seed: int, epochs: int = 100) -> float:
    model = task.model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.99)
    for inputs, targets in islice(task.batches("train", seed), epochs * 7):
        optimizer.zero_grad()
        task.loss_fn(model(inputs), targets).backward()
        optimizer.step()
    return task.evaluate(model, "test")["gap"]


def test_heavy_momentum_needs_the_fixed_order() -> None:
    fixed, fresh = NoisyQuadratic(reshuffle=False), NoisyQuadratic(reshuffle=True)
    assert np.mean([momentum_gap(fixed, seed) for seed in range(2)]) < 0.2
    assert np.mean([momentum_gap(fresh, seed) for seed in range(2)]) > 0.4


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
        NoisyQuadratic(noise=-1)
    with pytest.raises(ValueError, match="examples must be above 0, got 0"):
        NoisyQuadratic(examples=0)
    with pytest.raises(ValueError, match="noise must be at least 0, got nan"):
        NoisyQuadratic(noise=float("nan"))
