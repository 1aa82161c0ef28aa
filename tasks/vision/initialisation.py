"""Initial weights other than torch's default, with constant biases."""

from __future__ import annotations

from torch import nn

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def truncated_normal_(model: nn.Module, deviation: float, bias: float) -> None:
    """Draw all weights of a model's layers from a normal distribution cut off at two deviations.

    `deviation` is that of the distribution before the cut; afterwards it is 0.88 of that.
    """
    for layer in model.modules():
        if isinstance(layer, Layer):
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            _fill_bias(layer, bias)


def glorot_(layer: Layer, distribution: str) -> None:
    """Draw weights of variance `2 / (fan_in + fan_out)`, `normal` or `uniform`; biases are zero.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010, equation 16.
    """
    draw = {"normal": nn.init.xavier_normal_, "uniform": nn.init.xavier_uniform_}[distribution]
    draw(layer.weight)
    _fill_bias(layer, 0.0)


def _fill_bias(layer: Layer, value: float) -> None:
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)
