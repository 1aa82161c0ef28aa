"""Kronecker factors: rows against weight gradients, factors against sums, damping against a dense solve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimizers.linalg.kronecker import (
    damped_inverses,
    gradient_factor,
    gradient_rows,
    has_trained_bias,
    input_factor,
    input_rows,
    split_matrix,
    supports,
    weight_gradient,
)
from tests.optimizers.cases import close

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": (1, 2)},
    "dilated": {"kernel_size": (2, 3), "dilation": (2, 1)},
    "all": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1), "dilation": 2},
    "same": {"kernel_size": 3, "padding": "same"},
    "same dilated": {"kernel_size": (3, 5), "padding": "same", "dilation": (2, 1)},
    "same even dilated": {"kernel_size": 2, "padding": "same", "dilation": 2},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "pointwise": {"kernel_size": 1},
    "no bias": {"kernel_size": 2, "bias": False},
}


def run(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Evaluate a layer with a random linear loss, fill its gradients and return the gradient by its outputs."""
    outputs = layer(inputs)
    vectors = torch.randn_like(outputs)
    outputs.backward(vectors)
    return vectors


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_rows_multiply_to_the_weight_gradient(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, **CONVOLUTIONS[name]).double()  # type: ignore[arg-type]
    assert supports(layer)
    inputs = torch.randn(4, 2, 7, 8).double()
    gradients = run(layer, inputs)
    product = gradient_rows(layer, gradients).T @ input_rows(layer, inputs)
    close(product, weight_gradient(layer))
    parts = split_matrix(layer, product)
    close(parts[0], layer.weight.grad)
    if layer.bias is not None:
        close(parts[1], layer.bias.grad)


@pytest.mark.parametrize("shape", [(5, 3), (5, 4, 3), (2, 4, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_rows_multiply_to_the_weight_gradient(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=bias).double()
    inputs = torch.randn(shape).double()
    gradients = run(layer, inputs)
    close(gradient_rows(layer, gradients).T @ input_rows(layer, inputs), weight_gradient(layer))


def test_a_frozen_bias_is_no_column() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert not has_trained_bias(layer)
    run(layer, torch.randn(4, 3))
    assert input_rows(layer, torch.randn(4, 3)).shape == (4, 3)
    assert weight_gradient(layer).shape == (2, 3)
    assert len(split_matrix(layer, weight_gradient(layer))) == 1


def test_which_layers_are_supported() -> None:
    assert supports(nn.Linear(2, 3))
    assert supports(nn.Conv2d(2, 4, 3))
    for layer in (
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 4, 2, padding="same"),
        nn.Conv1d(2, 4, 3),
        nn.ConvTranspose2d(2, 4, 3),
        nn.Embedding(2, 3),
        nn.BatchNorm2d(3),
        nn.LSTM(2, 3),
        nn.Linear(2, 3).requires_grad_(False),
    ):
        assert not supports(layer), layer


def test_factors_of_a_linear_layer_are_means_over_terms() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    inputs, per_term = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    captured = per_term * 0.7 / 5  # gradients of a loss that is 0.7 times a mean over the 5 terms
    homogeneous = torch.cat([inputs, torch.ones(5, 1).double()], dim=1)
    close(input_factor(layer, inputs, 5), sum(torch.outer(a, a) for a in homogeneous) / 5)
    close(gradient_factor(layer, captured, 5, 0.7), sum(torch.outer(g, g) for g in per_term) / 5)


def test_factors_of_a_convolution_sum_inputs_and_average_gradients_over_locations() -> None:
    """Omega and Gamma of Grosse and Martens (2016)."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 2).double()
    inputs, captured = torch.randn(4, 2, 3, 3).double(), torch.randn(4, 3, 2, 2).double()
    omega, gamma = torch.zeros(9, 9).double(), torch.zeros(3, 3).double()
    for n in range(4):
        for i in range(2):
            for j in range(2):
                patch = torch.cat([inputs[n, :, i : i + 2, j : j + 2].flatten(), torch.ones(1).double()])
                gradient = 4 * captured[n, :, i, j]
                omega += torch.outer(patch, patch) / 4
                gamma += torch.outer(gradient, gradient) / 16
    close(input_factor(layer, inputs, 4), omega)
    close(gradient_factor(layer, captured, 4, 1.0), gamma)


def test_factors_have_the_weights_precision() -> None:
    layer = nn.Linear(3, 2)
    assert input_factor(layer, torch.randn(4, 3).bfloat16(), 4).dtype == torch.float32
    assert gradient_factor(layer, torch.randn(4, 2).bfloat16(), 4, 1.0).dtype == torch.float32


def spd(size: int, seed: int) -> Tensor:
    rows = torch.randn(2 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows.T @ rows


@pytest.mark.parametrize("damping", [1e-4, 1.0, 1e3])
def test_damped_inverses_are_a_dense_solve(damping: float) -> None:
    a, g = spd(4, 0), 0.01 * spd(3, 1)
    pi = ((a.trace() / 4) / (g.trace() / 3)).sqrt()
    eye = torch.eye(4).double()
    dense = torch.kron(g + damping**0.5 / pi * eye[:3, :3], a + pi * damping**0.5 * eye)
    found = damped_inverses(a, g, damping)
    assert found is not None
    gradient = torch.randn(3, 4).double()
    close((found[1] @ gradient @ found[0]).flatten(), torch.linalg.solve(dense, gradient.flatten()))


def test_damped_inverses_without_a_scale_or_a_number() -> None:
    zero, unit = torch.zeros(2, 2).double(), torch.eye(2).double()
    found = damped_inverses(zero, unit, 0.25)  # dead inputs: pi falls back to one
    assert found is not None
    close(found[0], 2 * unit)
    close(found[1], unit / 1.5)
    assert damped_inverses(torch.full((2, 2), float("nan")), torch.eye(2), 0.1) is None
    assert damped_inverses(torch.eye(2), torch.full((2, 2), float("inf")), 0.1) is None
