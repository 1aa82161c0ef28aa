"""Wide residual networks: published sizes, and the forward pass written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.vision.wide_resnet import WideBlock, WideResNet

torch.set_num_threads(1)


def on_colour(
    depth: int, widening: int, width: int = 16, classes: int = 10, init: str = "he"
) -> nn.Module:
    task = WideResNet(
        data="digits", depth=depth, widening=widening, width=width, init=init, val_size=100
    )
    task.splits["train"] = (torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    task.classes = classes
    return task.model(0)


@pytest.mark.parametrize(
    ("depth", "widening", "classes", "count"),
    [  # the paper's table 4 gives 0.6, 2.2, 8.9 and 11.0 million
        (40, 1, 10, 563_930),
        (40, 2, 10, 2_243_546),
        (40, 4, 10, 8_949_210),
        (16, 8, 10, 10_961_370),
        (16, 4, 10, 2_748_890),
        (40, 4, 100, 8_972_340),
    ],
)
def test_parameter_counts(depth: int, widening: int, classes: int, count: int) -> None:
    model = on_colour(depth, widening, classes=classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    kernels = [module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert kernels.count((3, 3)) == depth - 3
    assert kernels.count((1, 1)) == (3 if widening > 1 else 2)


def normalise(inputs: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    deviation, mean = torch.std_mean(inputs, dim=(0, 2, 3), keepdim=True, correction=0)
    scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
    return (inputs - mean) / (deviation.square() + norm.eps).sqrt() * scale + shift


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride"), [(3, 3, 1), (3, 5, 1), (3, 5, 2), (4, 4, 2)]
)
def test_block_is_norm_relu_convolution_twice_beside_a_shortcut(
    inputs: int, outputs: int, stride: int
) -> None:
    block = WideBlock(inputs, outputs, stride).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    images = torch.randn(4, inputs, 6, 6, dtype=torch.float64)
    activated = normalise(images, block.first_norm).relu()
    hidden = F.conv2d(activated, block.first.weight, stride=stride, padding=1)
    residual = F.conv2d(normalise(hidden, block.second_norm).relu(), block.second.weight, padding=1)
    assert (block.shortcut is None) == (inputs == outputs and stride == 1)
    sizes = (
        images
        if block.shortcut is None
        else F.conv2d(activated, block.shortcut.weight, stride=stride)
    )
    torch.testing.assert_close(block(images), sizes + residual)


@pytest.mark.parametrize("size", [7, 14, 32])
def test_stages_halve_the_image(size: int) -> None:
    model = on_colour(16, 2, width=2)
    assert isinstance(model, nn.Sequential)
    shapes, stream = [], torch.randn(2, 3, size, size)
    for layer in model:
        stream = layer(stream)
        if isinstance(layer, WideBlock):
            shapes.append((stream.shape[1], stream.shape[2]))
    half, quarter = (size + 1) // 2, (size + 3) // 4
    assert shapes == [(4, size)] * 2 + [(8, half)] * 2 + [(16, quarter)] * 2
    assert stream.shape == (2, 10)


def test_initialisations() -> None:
    he, glorot = on_colour(10, 4), on_colour(10, 4, init="glorot")
    for ours, other in zip(he.modules(), glorot.modules(), strict=True):
        if isinstance(ours, nn.Conv2d) and isinstance(other, nn.Conv2d):
            outputs, inputs, *kernel = ours.weight.shape
            area = kernel[0] * kernel[1]
            spread = 6 / (2 * ours.weight.numel()) ** 0.5
            assert float(ours.weight.detach().std()) == pytest.approx(
                (2 / (outputs * area)) ** 0.5, rel=spread
            )
            bound = (6 / ((inputs + outputs) * area)) ** 0.5
            assert 0.98 * bound < float(other.weight.detach().abs().max()) <= bound


def test_batch_normalisation_couples_the_examples() -> None:
    task = WideResNet(data="digits", width=2, val_size=100)
    assert "per_example" not in task.offers
    model = task.model(0)
    images = task.splits["train"][0][:4]
    assert not torch.allclose(model(images)[:2], model(images[:2]))
    model.eval()
    torch.testing.assert_close(model(images)[:2], model(images[:2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, r"depth must be 6n\+4 .*, got 20"),
        ({"depth": 4}, r"depth must be 6n\+4 .*, got 4"),
        ({"widening": 0}, "widening must be above 0, got 0"),
        ({"width": 0}, "width must be above 0, got 0"),
        ({"init": "zero"}, "init must be one of he, glorot, got 'zero'"),
        ({"l2": -0.1}, "l2 must be at least 0, got -0.1"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(**arguments)  # type: ignore[arg-type]
