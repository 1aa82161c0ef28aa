"""The image tasks: architectures, augmentation, normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.vision.augmentation import PADDING, crop_and_flip
from tasks.vision.autoencoder import Autoencoder
from tasks.vision.cnn import CNN
from tasks.vision.mlp import MLP
from tasks.vision.resnet import Block, ResNet


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def resnet_on_colour(depth: int, width: int, shortcut: str) -> nn.Module:
    task = ResNet(data="digits", depth=depth, width=width, shortcut=shortcut, val_size=100)
    task.splits["train"] = (torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    return task.model(0)


@pytest.mark.parametrize(
    ("depth", "width", "shortcut", "count"),
    [
        (20, 16, "A", 269_722),
        (20, 16, "B", 272_474),
        (32, 16, "A", 464_154),
        (56, 16, "A", 853_018),
    ],
)
def test_resnet_parameter_counts(depth: int, width: int, shortcut: str, count: int) -> None:
    model = resnet_on_colour(depth, width, shortcut)
    assert parameters(model) == count
    assert (
        sum(
            isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
            for module in model.modules()
        )
        == depth - 1
    )


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_resnet_shapes(shortcut: str, size: int) -> None:
    model = resnet_on_colour(8, 4, shortcut)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 10)


def test_shortcut_a_skips_pixels_and_adds_channels_of_zeros() -> None:
    block = Block(2, 4, stride=2, shortcut="A")
    images = torch.randn(3, 2, 6, 6)
    expected = torch.cat([images[:, :, ::2, ::2], torch.zeros(3, 2, 3, 3)], dim=1)
    assert torch.equal(block.shortcut(images), expected)
    assert torch.equal(block(images), F.relu(expected + block.residual(images)))


def test_mlp_has_the_layers_that_were_asked_for() -> None:
    model = MLP(data="digits", hidden=[20, 15], activation="tanh", val_size=100).model(0)
    shapes = [
        tuple(module.weight.shape) for module in model.modules() if isinstance(module, nn.Linear)
    ]
    assert shapes == [(20, 64), (15, 20), (10, 15)]
    assert sum(isinstance(module, nn.Tanh) for module in model.modules()) == 2


def test_default_mlp_is_784_256_10() -> None:
    assert parameters(MLP().model(0)) == 784 * 256 + 256 + 256 * 10 + 10


def test_cnn_offers_no_per_example_loss_with_batch_normalisation() -> None:
    plain, normalised = (
        CNN(data="digits", val_size=100),
        CNN(data="digits", val_size=100, batch_norm=True),
    )
    assert "per_example" in plain.offers
    assert normalised.offers == plain.offers - {"per_example"}
    assert any(isinstance(module, nn.BatchNorm2d) for module in normalised.model(0).modules())
    assert "per_example" in CNN.offers


def test_autoencoder_is_mirrored_around_a_linear_code() -> None:
    model = Autoencoder(widths=[60, 30, 10]).model(0)
    layers = list(model.children())
    widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
    assert widths == [60, 30, 10, 30, 60, 64]
    words = "".join("s" if isinstance(layer, nn.Sigmoid) else "l" for layer in layers)
    assert words == "lslsl" + "lslsl"


def test_sparse_initialisation_gives_each_unit_fifteen_inputs() -> None:
    for layer in Autoencoder(init="sparse").model(0).modules():
        if isinstance(layer, nn.Linear):
            assert torch.equal(
                (layer.weight != 0).sum(1),
                torch.full((layer.out_features,), min(15, layer.in_features)),
            )
            assert not layer.bias.any()


def test_autoencoder_metric_is_the_squared_error_of_an_image() -> None:
    task = Autoencoder()
    logits, targets = torch.zeros(3, 64), torch.ones(3, 64)
    measured = task.measure(logits, targets)
    torch.testing.assert_close(measured["squared_error"], torch.full((3,), 64 * 0.25))
    assert all(
        float(inputs.min()) == 0 and float(inputs.max()) == 1 for inputs, _ in task.splits.values()
    )


def test_inputs_are_normalised_by_the_training_split() -> None:
    inputs, _ = MLP(data="digits", val_size=100).splits["train"]
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-5)


def crop_one(image: Tensor, top: int, left: int, flip: bool) -> Tensor:
    size = image.shape[-1]
    cropped = F.pad(image, (PADDING,) * 4)[:, top : top + size, left : left + size]
    return cropped.flip(2) if flip else cropped


def test_augmented_images_are_crops_and_flips() -> None:
    images = torch.rand(12, 2, 6, 6) + 1
    augmented = crop_and_flip(images, torch.Generator().manual_seed(0))
    flips = 0
    for before, after in zip(images, augmented, strict=True):
        matches = [
            flip
            for flip in (False, True)
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
            if torch.equal(crop_one(before, top, left, flip), after)
        ]
        assert matches
        flips += matches[0]
    assert 0 < flips < 12
    assert torch.equal(augmented, crop_and_flip(images, torch.Generator().manual_seed(0)))


def test_augmentation_follows_the_step_and_spares_the_evaluation() -> None:
    task = CNN(data="digits", val_size=100, augmentation=True)
    plain = CNN(data="digits", val_size=100)
    (first, _), (again, _) = next(task.batches("train", 0, 5)), next(task.batches("train", 0, 5))
    (without, _) = next(plain.batches("train", 0, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, without)
    assert torch.equal(next(task.batches("val", 0))[0], next(plain.batches("val", 0))[0])


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (MLP, {"hidden": []}, r"hidden must be a list of at least one number above 0, got \[\]"),
        (
            MLP,
            {"hidden": [5, 0]},
            r"hidden must be a list of at least one number above 0, got \[5, 0\]",
        ),
        (
            MLP,
            {"activation": "step"},
            "activation must be one of relu, tanh, sigmoid, gelu, got 'step'",
        ),
        (MLP, {"val_size": 10_000}, "val_size must be between 1 and 9999, got 10000"),
        (MLP, {"test_size": 2001}, "test_size must be between 1 and 2000, got 2001"),
        (
            MLP,
            {"data": "imagenet"},
            "data must be one of .*cifar10 or an image folder, got 'imagenet'",
        ),
        (MLP, {"image_size": 0}, "image_size must be above 0, got 0"),
        (CNN, {"channels": [8]}, r"channels must be a list of 2 numbers above 0, got \[8\]"),
        (CNN, {"hidden": 0}, "hidden must be above 0, got 0"),
        (ResNet, {"depth": 18}, r"depth must be 6n\+2 .*, got 18"),
        (ResNet, {"width": 0}, "width must be above 0, got 0"),
        (ResNet, {"shortcut": "C"}, "shortcut must be one of A, B, got 'C'"),
        (
            Autoencoder,
            {"widths": []},
            r"widths must be a list of at least one number above 0, got \[\]",
        ),
        (Autoencoder, {"init": "zero"}, "init must be one of sparse, torch, got 'zero'"),
    ],
)
def test_bad_values_are_named(task: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)
