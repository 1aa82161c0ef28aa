"""Layers computed product by product.

Equal to torch's own, every product recorded, nothing left behind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from optimizers.layers.capture import capture, edges_of, with_gradients
from tests.optimizers.cases import MODELS, Problem, Reference, close

torch.set_num_threads(1)


def outputs_of(result: object) -> list[Tensor]:
    """The tensors in a layer's result, however nested."""
    if isinstance(result, Tensor):
        return [result]
    return (
        [tensor for part in result for tensor in outputs_of(part)]
        if isinstance(result, tuple)
        else []
    )


def evaluated(
    layer: nn.Module, call: Callable[[nn.Module], object]
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of a function of all of them by the parameters."""
    torch.manual_seed(3)
    outputs = outputs_of(call(layer))
    loss = torch.stack(
        [
            (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
            for output in outputs
        ]
    )
    return outputs, list(
        torch.autograd.grad(loss.sum(), list(layer.parameters()), materialize_grads=True)
    )


def assert_same(
    layer: nn.Module, call: Callable[[nn.Module], object], recorded: bool = True
) -> None:
    expected, slopes = evaluated(layer, call)
    with capture(layer, [type(layer), nn.Linear]) as captured:
        records, gradients = evaluated(layer, call)
    assert bool(captured) == recorded
    assert "forward" not in layer.__dict__
    assert [output.stride() for output in records] == [output.stride() for output in expected]
    for actual, wanted in zip([*records, *gradients], [*expected, *slopes], strict=True):
        close(actual.detach(), wanted.detach(), 1e-12)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


# -- recurrent layers ------------------------------------------------------------------------------

KINDS = [nn.RNN, nn.LSTM, nn.GRU]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_recurrent_layers(
    kind: type[nn.RNNBase], bidirectional: bool, layers: int, batch_first: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = kind(
        3, 4, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional
    ).double()
    assert_same(layer, lambda module: module(normal(2, 5, 3)))
    examples = 2 if batch_first else 5
    start = normal(layers * (2 if bidirectional else 1), examples, 4)
    states = (start, start.flip(1)) if kind is nn.LSTM else start
    assert_same(layer, lambda module: module(normal(2, 5, 3), states))


def test_relu_and_projections() -> None:
    assert_same(nn.RNN(3, 4, nonlinearity="relu").double(), lambda module: module(normal(2, 5, 3)))
    layer = nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True).double()
    assert_same(layer, lambda module: module(normal(2, 6, 3)))
    start = (normal(4, 6, 2), normal(4, 6, 5))
    assert_same(layer, lambda module: module(normal(2, 6, 3), start))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_dropout_between_layers_draws_the_same_masks(
    kind: type[nn.RNNBase], batch_first: bool
) -> None:
    layer = kind(3, 4, 3, dropout=0.4, batch_first=batch_first, bidirectional=True).double()
    assert_same(layer, lambda module: module(normal(2, 5, 3)))
    assert_same(layer.eval(), lambda module: module(normal(2, 5, 3)))


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind: type[nn.RNNCellBase], bias: bool) -> None:
    def twice(cell: nn.Module) -> object:
        state = cell(normal(2, 3))
        return cell(normal(2, 3) + 1, state)

    assert_same(kind(3, 4, bias=bias).double(), twice)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_without_a_batch_and_packed_sequences_are_left_to_torch(
    kind: type[nn.RNNBase],
) -> None:
    layer = kind(3, 4).double()
    packed = pack_padded_sequence(normal(5, 2, 3), torch.tensor([5, 3]))
    assert_same(layer, lambda module: module(normal(5, 3)), recorded=False)
    assert_same(
        layer,
        lambda module: (module(packed)[0].data, *outputs_of(module(packed)[1])),
        recorded=False,
    )


def test_one_use_of_every_weight_and_frozen_ones_left_out() -> None:
    layer = nn.GRU(3, 4, 2, bidirectional=True).double()
    with capture(layer, [nn.GRU]) as captured:
        layer(normal(5, 2, 3))[0].sum().backward()
    weights = {name for name, _ in layer.named_parameters() if name.startswith("weight")}
    assert set(captured) == {(layer, name) for name in weights}
    assert all(len(record.uses()) == 1 for record in captured.values())
    inputs, gradient = captured[layer, "weight_hh_l0"].uses()[0]
    assert inputs.shape == (2, 5, 4)
    assert gradient.shape == (2, 5, 12)
    layer.weight_hh_l0.requires_grad_(False)
    layer.bias_hh_l0.requires_grad_(False)
    with capture(layer, [nn.GRU]) as captured:
        layer(normal(5, 2, 3))[0].sum().backward()
    assert (layer, "weight_hh_l0") not in captured


@pytest.mark.parametrize("name", ["lstm", "multihead"])
def test_gradients_by_edges_equal_those_of_hooks(name: str) -> None:
    problem = MODELS[name]()
    kinds = [nn.LSTM, nn.MultiheadAttention, nn.Linear]
    with capture(problem.model, kinds) as watched:
        problem.loss_fn(problem.model(problem.inputs), problem.targets).backward()
    with capture(problem.model, kinds, watch=False) as noted:
        loss = problem.loss_fn(problem.model(problem.inputs), problem.targets)
    gradients = torch.autograd.grad(loss, edges_of(noted), allow_unused=True)
    records = with_gradients(noted, gradients)
    assert set(records) == set(watched)
    for key, record in watched.items():
        for (value, gradient), (other_value, other) in zip(
            record.uses(), records[key].uses(), strict=True
        ):
            close(other_value, value)
            close(other, gradient)


@pytest.mark.parametrize("name", ["lstm", "multihead"])
def test_nothing_is_left_behind_after_an_error(name: str) -> None:
    problem = MODELS[name]()
    before = {key: copy.copy(module.__dict__) for key, module in problem.model.named_modules()}
    with (
        pytest.raises(RuntimeError, match=r"shape|size"),
        capture(problem.model, [nn.LSTM, nn.MultiheadAttention, nn.Linear]),
    ):
        problem.model(problem.inputs[..., :-1])
    for key, module in problem.model.named_modules():
        assert set(module.__dict__) == set(before[key])
        assert not module._forward_hooks
    assert problem.model.training


@pytest.mark.parametrize("name", ["lstm", "multihead"])
def test_other_derivatives_are_taken_after_a_capture_as_before(name: str) -> None:
    problem = MODELS[name]()
    reference = Reference(problem)
    objective = problem.objective()
    with objective.capture([nn.LSTM, nn.MultiheadAttention, nn.Linear]) as captured:
        objective()
    assert len(captured) > 1
    close(objective.gradient(), reference.gradient())
    close(objective.ggn().dense(), reference.ggn())
    close(objective.per_example_grads(), reference.per_example_grads())


def test_a_layer_with_a_forward_pass_of_its_own_is_left_alone() -> None:
    class Doubled(nn.LSTM):
        def forward(self, input: Tensor, hx: object = None) -> object:
            return super().forward(2 * input, hx)

    assert_same(Doubled(3, 4).double(), lambda module: module(normal(2, 5, 3)), recorded=False)


# -- attention -------------------------------------------------------------------------------------


def attention(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, **options).double()  # type: ignore[arg-type]
    for name, bias in layer.named_parameters():
        if "bias" in name:
            nn.init.normal_(bias)
    return layer


CAUSAL = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
PADDING = torch.tensor([[False, False, True]] * 2)
SELF = {
    "plain": {},
    "no_weights": {"need_weights": False},
    "weights_per_head": {"average_attn_weights": False},
    "causal": {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    "causal_weights": {"attn_mask": CAUSAL, "is_causal": True},
    "boolean": {"attn_mask": torch.ones(3, 3).triu(1).bool()},
    "per_head": {
        "attn_mask": torch.linspace(-1, 1, 36).view(4, 3, 3).double(),
        "need_weights": False,
    },
    "padding": {"key_padding_mask": PADDING, "need_weights": False},
    "both": {
        "key_padding_mask": PADDING,
        "attn_mask": CAUSAL.isinf(),
        "is_causal": True,
        "need_weights": False,
    },
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", SELF)
def test_self_attention(name: str, bias: bool, batch_first: bool) -> None:
    value = normal(2, 3, 4) if batch_first else normal(3, 2, 4)
    layer = attention(bias=bias, batch_first=batch_first)
    for mode in (layer.train(), layer.eval()):
        assert_same(mode, lambda module: module(value, value, value, **SELF[name]))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "sizes", [{}, {"kdim": 5, "vdim": 3}, {"kdim": 5, "vdim": 3, "bias": False}]
)
def test_cross_attention(sizes: dict[str, int], need_weights: bool) -> None:
    layer = attention(batch_first=True, **sizes)
    keys, values = normal(2, 6, sizes.get("kdim", 4)), normal(2, 6, sizes.get("vdim", 4))
    assert_same(
        layer, lambda module: module(normal(2, 3, 4), keys, values, need_weights=need_weights)
    )


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_dropout_draws_the_same_masks(need_weights: bool) -> None:
    value = normal(2, 3, 4)
    layer = attention(batch_first=True, dropout=0.3)
    assert_same(layer, lambda module: module(value, value, value, need_weights=need_weights))


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_other_attention_is_left_to_torch(options: dict[str, bool]) -> None:
    value = normal(3, 2, 4)
    assert_same(attention(**options), lambda module: module(value, value, value), recorded=False)
    assert_same(
        attention(), lambda module: module(value[:, 0], value[:, 0], value[:, 0]), recorded=False
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("decoder", [False, True])
def test_inside_transformer_layers(training: bool, decoder: bool) -> None:
    torch.manual_seed(0)
    kind = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    layer = kind(4, 2, 8, dropout=0.2, batch_first=True).double().train(training)
    value, memory = normal(2, 3, 4), normal(2, 5, 4)

    def call(module: nn.Module) -> Tensor:
        return module(value, memory) if decoder else module(value)

    expected, slopes = evaluated(layer, call)
    with capture(layer, [nn.MultiheadAttention, nn.Linear]) as captured:
        records, gradients = evaluated(layer, call)
    assert len(captured) == (2 if decoder else 1) * 4 + 2
    for actual, wanted in zip([*records, *gradients], [*expected, *slopes], strict=True):
        close(actual.detach(), wanted.detach(), 1e-12)


def test_an_evaluation_without_gradients_records_nothing() -> None:
    for name in ("lstm", "multihead"):
        problem: Problem = MODELS[name]()
        objective = problem.objective()
        with objective.capture([nn.LSTM, nn.MultiheadAttention, nn.Linear]) as captured:
            value = objective.value()
        assert not captured
        close(value, objective.value())
