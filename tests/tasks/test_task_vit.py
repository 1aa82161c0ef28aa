"""The vision transformer, against torchvision's."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from tasks.data.torchvision_guard import torchvision_datasets
from tasks.vision.vit import Encoder, EncoderBlock, VisionTransformer

torch.set_num_threads(1)
SMALL: dict[str, Any] = {
    "data": "digits",
    "val_size": 100,
    "patch": 4,
    "layers": 2,
    "heads": 2,
    "width": 8,
}
NAMES = {  # of ours: torchvision's
    "embedding": "conv_proj",
    "blocks.0.": "encoder.layers.encoder_layer_0.",
    "blocks.1.": "encoder.layers.encoder_layer_1.",
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attention.qkv.": "self_attention.in_proj_",
    "attention.contract": "self_attention.out_proj",
    "expand": "mlp.0",
    "contract": "mlp.3",
    "token": "class_token",
    "positions": "encoder.pos_embedding",
    "head": "heads.head",
}


def translated(name: str) -> str:
    if name.startswith("norm"):
        return name.replace("norm", "encoder.ln")
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def torchvision_twin(model: nn.Module) -> nn.Module:
    """torchvision's network of two layers for 8x8 grey images, with the weights of ours."""
    torchvision_datasets()
    module = importlib.import_module("torchvision.models.vision_transformer")
    twin: nn.Module = module.VisionTransformer(8, 4, 2, 2, 8, 32, num_classes=10)
    twin.conv_proj = nn.Conv2d(1, 8, 4, stride=4)
    twin.double().load_state_dict(
        {translated(name): value for name, value in model.state_dict().items()}
    )
    return twin


def test_outputs_and_gradients_are_torchvisions() -> None:
    task = VisionTransformer(**SMALL).to("cpu", torch.float64)
    model = task.model(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    twin = torchvision_twin(model)
    images, labels = next(task.batches("train", 0))
    torch.testing.assert_close(model(images), twin(images))
    for network in (model, twin):
        task.loss_fn(network(images), labels).backward()
    theirs = {name: parameter.grad for name, parameter in twin.named_parameters()}
    assert len(theirs) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[translated(name)])


@pytest.mark.parametrize(
    ("width", "layers", "heads", "count"), [(768, 12, 12, 86_567_656), (1024, 24, 16, 304_326_632)]
)
def test_parameter_counts_of_the_published_networks(
    width: int, layers: int, heads: int, count: int
) -> None:
    with torch.device("meta"):
        blocks = [EncoderBlock(width, heads, 0.0) for _ in range(layers)]
        model = Encoder(
            nn.Conv2d(3, width, 16, stride=16), 14 * 14, blocks, classes=1000, dropout=0.0
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def bound(inputs: int, outputs: int) -> float:
    return float((6 / (inputs + outputs)) ** 0.5)


def test_initialisation() -> None:
    model = VisionTransformer(
        data="digits", val_size=100, patch=2, width=128, heads=4, layers=1
    ).model(0)
    state = model.state_dict()
    for block in state["blocks.0.attention.qkv.weight"].split(128):
        assert 0.98 * bound(128, 128) < float(block.abs().max()) <= bound(128, 128)
    assert (
        0.98 * bound(128, 512)
        < float(state["blocks.0.expand.weight"].abs().max())
        <= bound(128, 512)
    )
    assert 0.9 * bound(128, 10) < float(state["head.weight"].abs().max()) <= bound(128, 10)
    assert float(state["embedding.weight"].std()) == pytest.approx(0.5, rel=0.2)  # 4 pixels a patch
    assert float(state["positions"].std()) == pytest.approx(0.02, rel=0.1)
    zero = [value for name, value in state.items() if name == "token" or name.endswith("bias")]
    assert len(zero) == 10
    assert not any(value.any() for value in zero)


def test_order_of_the_patches_matters_through_the_positions_alone() -> None:
    model = VisionTransformer(**SMALL).to("cpu", torch.float64).model(0)
    assert isinstance(model, Encoder)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    swapped = images.roll(4, dims=3)  # the left patches in the place of the right ones
    assert not torch.allclose(model(images), model(swapped))
    nn.init.constant_(model.positions, 0.3)
    torch.testing.assert_close(model(images), model(swapped))


def test_every_weight_has_a_gradient_in_the_first_step() -> None:
    task = VisionTransformer(**SMALL)
    model = task.model(0)
    images, labels = next(task.batches("train", 0))
    task.loss_fn(model(images), labels).backward()
    assert all(
        float(p.grad.norm()) > 0 for name, p in model.named_parameters() if p.grad is not None
    )
    assert all(p.grad is not None for p in model.parameters())


def example_gradient(
    task: VisionTransformer, model: nn.Module, image: Tensor, label: Tensor
) -> Tensor:
    loss = task.loss_fn(model(image[None]), label[None])
    return torch.cat(
        [part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]
    )


def test_per_example_gradients_and_curvature_of_an_objective() -> None:
    task = VisionTransformer(**SMALL, batch_size=4).to("cpu", torch.float64)
    model = task.model(0)
    images, labels = next(task.batches("train", 0))
    objective = Objective(model, task.loss_fn, images, labels)
    rows = objective.per_example_grads()
    expected = [example_gradient(task, model, *pair) for pair in zip(images, labels, strict=True)]
    torch.testing.assert_close(rows, torch.stack(expected))
    curvature = objective.ggn()
    torch.testing.assert_close(curvature.gradient, rows.mean(dim=0))
    direction = torch.randn_like(rows[0])
    assert float(direction @ curvature(direction)) > 0


def test_dropout_acts_in_training_only() -> None:
    task = VisionTransformer(**SMALL, dropout=0.5)
    model, images = task.model(0), torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 3}, r"patch must divide the image's sides \(8, 8\), got 3"),
        ({"patch": 0}, "patch must be above 0, got 0"),
        ({"heads": 3}, r"heads must divide width \(8\), got 3"),
        ({"layers": 0}, "layers must be above 0, got 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**(SMALL | arguments))
