"""The variational autoencoder: its bound against torch.distributions, its noise, its network."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional as F

from optimizers import Objective
from optimizers.least_squares import GGNCG
from tasks.vision.convolutional_vae import ConvolutionalVAE, KeepingSize
from tasks.vision.vae import LIKELIHOODS, VAE, NegativeELBO

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "data": "digits",
    "val_size": 100,
    "latent": 3,
    "channels": 2,
    "batch_size": 6,
}
PIXELS = 64
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def small(**arguments: Any) -> VAE:
    return VAE(**(SMALL | arguments)).to("cpu", torch.float64)


def random_outputs(count: int = 5, pixels: int = 7, latent: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, pixels + 2 * latent, dtype=torch.float64), torch.rand(
        count, pixels, dtype=torch.float64
    )


@every_likelihood
def test_loss_is_the_bound_of_torchs_distributions(likelihood: str) -> None:
    outputs, targets = random_outputs()
    targets = targets.round() if likelihood == "bernoulli" else targets
    pixels, mean, log_variance = outputs.split([7, 3, 3], dim=1)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = kl_divergence(Normal(mean, log_variance.div(2).exp()), prior).sum(dim=1)
    if likelihood == "bernoulli":
        reconstruction = -Bernoulli(logits=pixels).log_prob(targets).sum(dim=1)
    else:
        reconstruction = (
            -Normal(pixels, math.sqrt(0.5)).log_prob(targets).sum(dim=1) - 7 * math.log(math.pi) / 2
        )
    loss_fn = NegativeELBO(3, likelihood)
    torch.testing.assert_close(loss_fn.parts(outputs, targets), (reconstruction, divergence))
    torch.testing.assert_close(loss_fn(outputs, targets), (reconstruction + divergence).mean())


@every_likelihood
def test_loss_is_a_convex_function_of_the_outputs(likelihood: str) -> None:
    loss_fn = NegativeELBO(3, likelihood)
    for _ in range(5):
        outputs, targets = random_outputs(count=1)
        curvature = torch.autograd.functional.hessian(
            lambda z, t=targets: loss_fn(z, t), 3 * outputs
        ).squeeze()
        assert float(torch.linalg.eigvalsh(curvature).min()) > 0


def test_metrics_are_the_bound_and_its_parts() -> None:
    task = small()
    metrics = task.evaluate(task.model(0), "val")
    assert metrics["negative_elbo"] == metrics["loss"]
    assert metrics["loss"] == pytest.approx(metrics["reconstruction"] + metrics["divergence"])
    assert metrics["divergence"] > 0


def test_each_step_has_its_own_noise_and_each_held_out_image_always_the_same() -> None:
    task = small(batch_size=None)
    (first, targets), (second, _) = islice(task.batches("train", 0), 2)
    again, _ = next(task.batches("train", 0, 1))
    assert torch.equal(first[:, :PIXELS], targets)
    assert torch.equal(first[:, :PIXELS], second[:, :PIXELS])
    assert not torch.isclose(first[:, PIXELS:], second[:, PIXELS:]).any()
    assert torch.equal(second, again)
    held, other = (
        torch.cat([inputs for inputs, _ in task.batches("val", seed)]) for seed in (0, 1)
    )
    assert torch.equal(held, other)
    assert held.shape == (100, PIXELS + 3)


def test_noise_is_standard_normal() -> None:
    task = small(batch_size=None)
    drawn = torch.cat(
        [inputs[:, PIXELS:] for inputs, _ in islice(task.batches("train", 0), 10)]
    ).flatten()
    count = len(drawn)
    assert float(drawn.mean()) == pytest.approx(0, abs=4 / math.sqrt(count))
    assert float(drawn.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * count))
    fixed = torch.cat([task.splits[split][0][:, PIXELS:] for split in task.splits]).flatten()
    assert float(fixed.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(fixed)))


def test_the_decoder_is_given_a_draw_from_the_encoders_distribution() -> None:
    task = small()
    model = task.model(0)
    assert isinstance(model, ConvolutionalVAE)
    codes: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda _, arguments: codes.append(arguments[0]))
    inputs, _ = next(task.batches("train", 0))
    outputs = model(inputs)
    mean, log_variance = outputs[:, PIXELS : PIXELS + 3], outputs[:, PIXELS + 3 :]
    torch.testing.assert_close(codes[0], mean + log_variance.exp().sqrt() * inputs[:, PIXELS:])
    assert ((outputs[:, :PIXELS] > 0) & (outputs[:, :PIXELS] < 1)).all()


def test_evaluations_within_a_step_see_the_same_noise() -> None:
    task = small()
    objective = Objective(task.model(0), task.loss_fn, *next(task.batches("train", 0)))
    assert objective.value() == objective.value()


def test_per_example_gradients_are_those_of_the_examples() -> None:
    task = small()
    model = task.model(0)
    inputs, targets = next(task.batches("train", 0))
    rows = Objective(model, task.loss_fn, inputs, targets).per_example_grads()
    for n, row in enumerate(rows):
        loss = task.loss_fn(model(inputs[n : n + 1]), targets[n : n + 1])
        expected = torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]
        )
        torch.testing.assert_close(row, expected)


@every_likelihood
def test_gauss_newton_products_are_those_of_the_matrix(likelihood: str) -> None:
    task = small(likelihood=likelihood, batch_size=2, channels=1)
    model = task.model(0)
    inputs, targets = next(task.batches("train", 0))
    parameters = list(model.parameters())
    outputs = model(inputs)
    rows = [
        torch.cat(
            [part.flatten() for part in torch.autograd.grad(output, parameters, retain_graph=True)]
        )
        for output in outputs.flatten()
    ]
    jacobian = torch.stack(rows)
    inner = torch.autograd.functional.hessian(lambda z: task.loss_fn(z, targets), outputs.detach())
    matrix = jacobian.T @ inner.reshape(len(rows), len(rows)) @ jacobian
    direction = torch.randn(jacobian.shape[1], dtype=torch.float64)
    product = Objective(model, task.loss_fn, inputs, targets).ggn()(direction)
    torch.testing.assert_close(product, matrix @ direction)


def test_a_gauss_newton_method_lowers_the_bound() -> None:
    task = small(batch_size=100)
    model = task.model(0)
    optimizer = GGNCG(model.parameters())
    before = task.evaluate(model, "val")["negative_elbo"]
    for inputs, targets in islice(task.batches("train", 0), 5):
        optimizer.step(Objective(model, task.loss_fn, inputs, targets))
    assert task.evaluate(model, "val")["negative_elbo"] < 0.8 * before


def test_published_network_has_the_published_size() -> None:
    model = ConvolutionalVAE((1, 28, 28), latent=8, channels=64, dropout=0.2, likelihood="gaussian")
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_151_489
    assert sum(isinstance(module, nn.Dropout) for module in model.modules()) == 5
    assert model(torch.rand(2, 784 + 8)).shape == (2, 784 + 16)


@pytest.mark.parametrize("side", [1, 3, 7])
def test_kept_sizes_are_those_of_tensorflows_same(side: int) -> None:
    """The layer is the transpose of a convolution that is padded by one in front and by two
    behind."""
    layer = KeepingSize(2).double()
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    left, right = (torch.randn(1, 2, side, side, dtype=torch.float64) for _ in range(2))
    forward = F.conv2d(F.pad(left, (1, 2, 1, 2)), layer.weight)
    assert forward.shape == layer(right).shape == right.shape
    torch.testing.assert_close((forward * right).sum(), (left * layer(right)).sum())


def test_colour_images_that_are_not_square_fit() -> None:
    model = ConvolutionalVAE((3, 8, 12), latent=2, channels=4, dropout=0.0, likelihood="bernoulli")
    assert model(torch.rand(2, 3 * 8 * 12 + 2)).shape == (2, 3 * 8 * 12 + 4)


def test_dropout_acts_in_training_only_and_is_replayed_within_a_step() -> None:
    task = small(dropout=0.5)
    model = task.model(0)
    inputs, targets = next(task.batches("train", 0))
    assert not torch.equal(model(inputs), model(inputs))
    objective = Objective(model, task.loss_fn, inputs, targets)
    assert objective.value() == objective.value()
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


def test_pixels_are_brightness() -> None:
    for inputs, targets in small().splits.values():
        assert torch.equal(inputs[:, :PIXELS], targets)
        assert (float(targets.min()), float(targets.max())) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "laplace"}, "likelihood must be one of gaussian, bernoulli, got 'laplace'"),
        ({"latent": 0}, "latent must be above 0, got 0"),
        ({"channels": 0}, "channels must be above 0, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"image_size": 10}, "image_size must be a multiple of 4, got images of 10 x 10 pixels"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAE(**(SMALL | arguments))
