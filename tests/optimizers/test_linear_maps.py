"""Rows of every kind of layer: their products are the gradient of the loss by its weight and
bias."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers.layers.capture import capture
from optimizers.natural_gradient.blocks import KroneckerBlock, Measure
from optimizers.natural_gradient.layer_maps import LAYER_MAPS, linear_maps_of
from optimizers.natural_gradient.model_blocks import blocks_of
from tests.optimizers.cases import close

torch.set_num_threads(1)
PLAIN = Measure(terms=1, scale=1.0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


class Called(nn.Module):
    """A layer that is called in a way of its own."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self) -> Tensor:
        return self.call(self.layer)


def fed(layer: nn.Module, *shape: int) -> Called:
    return Called(layer, lambda module: module(normal(*shape)))


def recurrent(layer: nn.Module) -> Called:
    return Called(layer, lambda module: module(normal(2, 5, 3))[0])


def attending(**options: object) -> Called:
    layer = nn.MultiheadAttention(4, 2, batch_first=True, **options)  # type: ignore[arg-type]
    keys, values = normal(2, 6, layer.kdim), normal(2, 6, layer.vdim)
    return Called(layer, lambda module: module(normal(2, 3, 4), keys, values)[0])


def self_attending(module: nn.Module) -> Tensor:
    value = normal(3, 2, 4)
    return module(value, value, value)[0]


def tokens(layer: nn.Module, *shape: int) -> Called:
    index = torch.randint(5, shape, generator=torch.Generator().manual_seed(2))
    return Called(layer, lambda module: module(index))


def stepping(cell: nn.Module) -> Called:
    def call(module: nn.Module) -> Tensor:
        state = module(normal(2, 3))
        state = module(normal(2, 3) + 1, state)
        return state[0] + state[1] if isinstance(state, tuple) else state

    return Called(cell, call)


LAYERS: dict[str, Callable[[], Called]] = {
    "linear": lambda: fed(nn.Linear(4, 3), 6, 4),
    "linear_positions": lambda: fed(nn.Linear(4, 3), 6, 2, 5, 4),
    "linear_one_example": lambda: fed(nn.Linear(4, 3), 4),
    "linear_no_bias": lambda: fed(nn.Linear(4, 3, bias=False), 6, 4),
    "conv1d": lambda: fed(nn.Conv1d(2, 3, 3, padding=1), 4, 2, 7),
    "conv1d_dilated": lambda: fed(nn.Conv1d(2, 4, 3, stride=2, dilation=2, groups=2), 4, 2, 9),
    "conv2d": lambda: fed(nn.Conv2d(2, 3, (3, 2)), 4, 2, 5, 6),
    "conv2d_one_example": lambda: fed(nn.Conv2d(2, 3, 3), 2, 5, 6),
    "conv2d_strided": lambda: fed(nn.Conv2d(2, 3, 3, stride=(2, 3), padding=(1, 2)), 4, 2, 7, 8),
    "conv2d_same": lambda: fed(
        nn.Conv2d(2, 3, (2, 4), padding="same", dilation=(1, 3)), 4, 2, 7, 8
    ),
    "conv2d_valid": lambda: fed(nn.Conv2d(2, 3, 3, padding="valid", bias=False), 4, 2, 7, 8),
    "conv2d_grouped": lambda: fed(nn.Conv2d(4, 6, 3, groups=2, padding=1), 3, 4, 5, 5),
    "conv2d_depthwise": lambda: fed(nn.Conv2d(4, 4, 3, groups=4, bias=False), 3, 4, 5, 5),
    "conv2d_pointwise": lambda: fed(nn.Conv2d(4, 6, 1, stride=2), 3, 4, 5, 5),
    "conv3d": lambda: fed(
        nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 1)), 2, 2, 4, 5, 3
    ),
    "conv3d_grouped": lambda: fed(nn.Conv3d(2, 4, 2, groups=2, dilation=2), 2, 2, 4, 5, 3),
    "transposed1d": lambda: fed(
        nn.ConvTranspose1d(3, 2, 4, stride=2, padding=1, output_padding=1), 4, 3, 5
    ),
    "transposed2d": lambda: fed(
        nn.ConvTranspose2d(2, 3, (3, 2), dilation=(2, 1), bias=False), 4, 2, 5, 4
    ),
    "transposed2d_one_example": lambda: fed(nn.ConvTranspose2d(2, 3, 3), 2, 5, 4),
    "transposed2d_grouped": lambda: fed(
        nn.ConvTranspose2d(4, 6, 3, stride=(1, 2), groups=2, padding=1), 3, 4, 5, 4
    ),
    "transposed3d": lambda: fed(nn.ConvTranspose3d(2, 3, (1, 2, 3), stride=2), 2, 2, 3, 2, 2),
    "embedding": lambda: tokens(nn.Embedding(5, 3), 4, 6),
    "embedding_flat": lambda: tokens(nn.Embedding(5, 3), 7),
    "embedding_scalar": lambda: tokens(nn.Embedding(5, 3)),
    "embedding_padding": lambda: tokens(nn.Embedding(5, 3, padding_idx=1), 4, 6),
    "rnn": lambda: recurrent(nn.RNN(3, 4, 2, bidirectional=True, batch_first=True)),
    "rnn_relu": lambda: recurrent(nn.RNN(3, 4, nonlinearity="relu")),
    "lstm": lambda: recurrent(nn.LSTM(3, 4, 2, bidirectional=True)),
    "lstm_no_bias": lambda: recurrent(nn.LSTM(3, 4, bias=False, batch_first=True)),
    "lstm_projected": lambda: recurrent(nn.LSTM(3, 5, 2, proj_size=2)),
    "gru": lambda: recurrent(nn.GRU(3, 4, 2, bidirectional=True, batch_first=True)),
    "gru_dropout": lambda: recurrent(nn.GRU(3, 4, 2, dropout=0.3)),
    "rnn_cell": lambda: stepping(nn.RNNCell(3, 4)),
    "lstm_cell": lambda: stepping(nn.LSTMCell(3, 4)),
    "gru_cell": lambda: stepping(nn.GRUCell(3, 4, bias=False)),
    "attention": lambda: Called(nn.MultiheadAttention(4, 2), self_attending),
    "attention_crossed": lambda: attending(),
    "attention_no_bias": lambda: attending(bias=False),
    "attention_sizes": lambda: attending(kdim=5, vdim=3),
    "attention_sizes_no_bias": lambda: attending(kdim=5, vdim=3, bias=False),
}


def captured_blocks(model: Called) -> list[tuple[KroneckerBlock, Tensor]]:
    """Each Kronecker block of a layer, and the sum of g' abar over its rows; `.grad` is filled."""
    torch.manual_seed(0)
    kinds = tuple({type(module) for module in model.modules() if linear_maps_of(module)})
    with capture(model, kinds) as captured:
        output = model()
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).double())
    group_of = {id(parameter): 0 for parameter in model.parameters() if parameter.requires_grad}
    results = []
    for block in blocks_of(model, group_of):
        assert isinstance(block, KroneckerBlock)
        products = [
            (g.flatten(-3, -2).mT @ a.flatten(-3, -2))
            for use in block.uses([captured])
            for a, (g,) in block.rows(*use, PLAIN)
        ]
        results.append((block, torch.stack(products).sum(0)))
    return results


def build(name: str) -> Called:
    torch.manual_seed(0)
    return LAYERS[name]().double()


@pytest.mark.parametrize("name", LAYERS)
def test_rows_multiply_to_the_gradient(name: str) -> None:
    model = build(name)
    covered = set()
    for block, product in captured_blocks(model):
        gradients = [parameter.grad for parameter in block.parameters]
        assert all(gradient is not None for gradient in gradients)
        close(product, block.matrix(gradients), 1e-12)  # type: ignore[arg-type]
        for tensor, gradient in zip(block.tensors(product), gradients, strict=True):
            close(tensor, gradient, 1e-12)  # type: ignore[arg-type]
        covered |= {id(parameter) for parameter in block.parameters}
    assert covered == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("name", LAYERS)
def test_frozen_biases_and_frozen_weights(name: str) -> None:
    for frozen in ("bias", "weight"):
        model = build(name)
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in key)
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        if not trained:
            continue
        covered = set()
        for block, product in captured_blocks(model):
            close(product, block.matrix([p.grad for p in block.parameters]), 1e-12)  # type: ignore[misc]
            covered |= {id(parameter) for parameter in block.parameters}
        assert covered == trained


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_the_moments_of_the_rows(name: str) -> None:
    """By whatever shorter way a linear map takes, and however it leaves positions out."""
    model = build(name)
    kinds = tuple({type(module) for module in model.modules() if linear_maps_of(module)})
    torch.manual_seed(0)
    with capture(model, kinds) as captured:
        output = model()
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).double())
    measure = Measure(terms=7, scale=0.5)
    for block in blocks_of(model, {id(parameter): 0 for parameter in model.parameters()}):
        assert isinstance(block, KroneckerBlock)
        sums = block.sums([captured], measure)
        assert sums is not None
        factors = block.factors(sums)
        pairs = [(a, g) for use in block.uses([captured]) for a, (g,) in block.rows(*use, measure)]
        a, g = (torch.cat([pair[i].flatten(-3, -2) for pair in pairs], dim=-2) for i in (0, 1))
        counted = ((a != 0).any(-1) | (g != 0).any(-1)).sum(-1)
        total = a.mT @ a / 7
        dense = factors["a"] if block.is_dense(factors["a"]) else torch.diag_embed(factors["a"])
        close(dense, total, 1e-12)
        close(factors["g"], g.mT @ g / counted.clamp(min=1)[..., None, None], 1e-12)
        few = block.factors(block.sums([captured], Measure(7, 0.5, largest=0)) or {})
        close(few["a"], total.diagonal(dim1=-2, dim2=-1), 1e-12)
        close(few["g"], factors["g"].diagonal(dim1=-2, dim2=-1), 1e-12)


def test_the_rows_of_a_convolution_are_made_of_parts_of_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("conv2d_grouped")
    whole = captured_blocks(model)
    monkeypatch.setattr("optimizers.natural_gradient.blocks.CHUNK", 1)
    for (_, product), (_, expected) in zip(captured_blocks(model), whole, strict=True):
        close(product, expected, 1e-12)


def test_layers_with_options_that_are_not_handled_have_no_sites() -> None:
    for layer in (
        nn.Embedding(5, 3, max_norm=1.0),
        nn.Embedding(5, 3, sparse=True),
        nn.Embedding(5, 3, scale_grad_by_freq=True),
        nn.Conv2d(2, 3, 3, padding_mode="circular"),
        nn.ConvTranspose1d(2, 3, 3, dilation=3, output_padding=2),
        nn.Bilinear(2, 3, 4),
    ):
        assert linear_maps_of(layer) == []
    assert len(linear_maps_of(nn.LSTM(3, 4, 2, bidirectional=True))) == 8
    assert set(LAYER_MAPS) >= {nn.Linear, nn.Embedding, nn.LSTM, nn.MultiheadAttention}


def test_a_class_that_derives_from_a_known_kind() -> None:
    class Same(nn.Linear):
        pass

    class Standardised(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input, self.weight / self.weight.norm(), self.bias)

    assert len(linear_maps_of(Same(3, 2))) == 1
    assert linear_maps_of(Standardised(3, 2)) == []
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    (linear_map,) = linear_maps_of(parametrised)
    assert linear_map.weight is None
    (block,) = blocks_of(
        parametrised, {id(parameter): 0 for parameter in parametrised.parameters()}
    )
    assert [id(parameter) for parameter in block.parameters] == [id(parametrised.bias)]


def test_padding_takes_no_part() -> None:
    layer = nn.Embedding(5, 3, padding_idx=1).double()
    index = torch.tensor([[0, 1, 2], [1, 1, 2]])
    with capture(layer, [nn.Embedding]) as captured:
        (layer(index) * normal(2, 3, 3)).sum().backward()
    (block,) = blocks_of(layer, {id(layer.weight): 0})
    factors = block.factors(block.sums([captured], Measure(3, 1.0)) or {})
    close(factors["a"], torch.tensor([1.0, 0, 2, 0, 0]).double() / 3)
    rows = 3 * normal(2, 3, 3)[index != 1]
    close(factors["g"], rows.T @ rows / 3)
