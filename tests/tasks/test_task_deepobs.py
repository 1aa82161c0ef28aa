"""DeepOBS's networks: published sizes, initialisation, pooling and scaling of the pixels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.data import DataMissingError
from tasks.vision.classification import ImageClassification
from tasks.vision.deepobs_2c2d import Net2c2d
from tasks.vision.deepobs_3c3d import Net3c3d, pooling
from tasks.vision.deepobs_mlp import DeepOBSMLP
from tasks.vision.initialisation import glorot_

torch.set_num_threads(1)
CUT = 0.879626  # the deviation of a standard normal variable given that it lies between -2 and 2
PUBLISHED = {"2c2d": Net2c2d, "3c3d": Net3c3d, "mlp": DeepOBSMLP}
every_network = pytest.mark.parametrize("name", PUBLISHED)


def on(task: ImageClassification, *shape: int) -> nn.Module:
    """The task's network for images of another shape."""
    task.splits["train"] = (torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    return task.model(0)


def weights(model: nn.Module) -> list[Tensor]:
    return [
        layer.weight.detach()
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]


def biases(model: nn.Module) -> Tensor:
    return torch.cat(
        [p.detach().flatten() for name, p in model.named_parameters() if name.endswith("bias")]
    )


@pytest.mark.parametrize(
    ("name", "shape", "shapes", "count"),
    [
        ("2c2d", (1, 28, 28), [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)], 3_274_634),
        (
            "3c3d",
            (3, 32, 32),
            [(64, 3, 5, 5), (96, 64, 3, 3), (128, 96, 3, 3), (512, 1152), (256, 512), (10, 256)],
            895_210,
        ),
        ("mlp", (1, 28, 28), [(1000, 784), (500, 1000), (100, 500), (10, 100)], 1_336_610),
    ],
)
def test_networks_have_the_published_layers(
    name: str, shape: tuple[int, ...], shapes: list[tuple[int, ...]], count: int
) -> None:
    model = on(PUBLISHED[name](), *shape)
    assert [tuple(weight.shape) for weight in weights(model)] == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model(torch.rand(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("size", [9, 13, 14, 28])
@every_network
def test_networks_fit_images_of_other_sizes(name: str, size: int) -> None:
    assert on(PUBLISHED[name](), 1, size, size)(torch.rand(2, 1, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("task", "deviation", "bias"), [(Net2c2d, 0.05, 0.05), (DeepOBSMLP, 0.03, 0.0)]
)
def test_weights_are_normal_and_cut_off_at_two_deviations(
    task: type[ImageClassification], deviation: float, bias: float
) -> None:
    model = task(**{}).model(0)
    assert torch.equal(biases(model).unique(), torch.tensor([bias]))
    for weight in weights(model):
        assert float(weight.abs().max()) <= 2 * deviation
        assert float(weight.std()) == pytest.approx(
            CUT * deviation, rel=6 / math.sqrt(2 * weight.numel())
        )
        assert abs(float(weight.mean())) < 6 * deviation / math.sqrt(weight.numel())


def test_weights_of_3c3d_are_glorots_normal_in_convolutions_and_uniform_in_dense_layers() -> None:
    model = on(Net3c3d(), 3, 32, 32)
    assert not biases(model).any()
    for weight in weights(model):
        outputs, inputs, *kernel = weight.shape
        deviation = math.sqrt(2 / ((inputs + outputs) * math.prod(kernel)))
        assert float(weight.std()) == pytest.approx(
            deviation, rel=6 / math.sqrt(2 * weight.numel())
        )
        bounded = float(weight.abs().max()) <= math.sqrt(3) * deviation
        assert bounded == (not kernel)


def test_glorot_puts_the_layers_bias_at_zero_where_there_is_one() -> None:
    with_bias, without = nn.Linear(3, 4), nn.Conv2d(2, 3, 3, bias=False)
    glorot_(with_bias, "uniform")
    glorot_(without, "normal")
    assert not with_bias.bias.any()


@pytest.mark.parametrize(("height", "width"), [(5, 6), (24, 24), (1, 2), (11, 4)])
def test_pooling_is_tensorflows_same(height: int, width: int) -> None:
    images = torch.randn(2, 3, height, width)
    output = pooling(height, width)(images)
    assert output.shape[2:] == (math.ceil(height / 2), math.ceil(width / 2))
    for row in range(output.shape[2]):
        for column in range(output.shape[3]):
            # an odd side is padded in front as well
            top, left = (2 * row - height % 2, 2 * column - width % 2)
            window = images[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
            assert torch.equal(output[:, :, row, column], window.amax(dim=(2, 3)))


@pytest.mark.parametrize("task", [Net2c2d, DeepOBSMLP])
def test_pixels_lie_between_0_and_1(task: type[ImageClassification]) -> None:
    for inputs, _ in task(**{}).splits.values():
        assert (float(inputs.min()), float(inputs.max())) == (0, 1)


def test_3c3d_has_normalised_pixels_and_the_published_l2() -> None:
    task = Net3c3d(data="digits", image_size=12, val_size=100)
    inputs, _ = task.splits["train"]
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-5)
    assert task.l2 == 0.002


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10"])
@every_network
def test_a_set_that_is_absent_is_asked_for(
    name: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.data import images

    images._named.cache_clear()
    monkeypatch.setenv("SUITE_DATA", str(tmp_path))
    with pytest.raises(DataMissingError, match=f"fetch_data.py {data}"):
        PUBLISHED[name](data=data)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (Net2c2d, {"channels": [3]}, r"channels must be a list of 2 numbers above 0, got \[3\]"),
        (Net2c2d, {"hidden": 0}, "hidden must be above 0, got 0"),
        (
            Net3c3d,
            {"channels": [1, 2]},
            r"channels must be a list of 3 numbers above 0, got \[1, 2\]",
        ),
        (Net3c3d, {"hidden": [1]}, r"hidden must be a list of 2 numbers above 0, got \[1\]"),
        (Net3c3d, {"l2": -1}, "l2 must be at least 0, got -1"),
        (
            Net3c3d,
            {"data": "digits", "val_size": 9},
            "image_size must be at least 9, got images of 8 x 8 pixels",
        ),
        (
            DeepOBSMLP,
            {"hidden": []},
            r"hidden must be a list of at least one number above 0, got \[\]",
        ),
    ],
)
def test_bad_values_are_named(task: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)
