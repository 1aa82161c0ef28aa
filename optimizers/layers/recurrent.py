"""Recurrent layers in plain operations, product by product.

Of every weight one use is recorded. For `weight_ih` it is the product of all inputs of a sequence.
For `weight_hh`, and `weight_hr` of an LSTM with projections, whose inputs are known step by step,
it is a tensor of zeros that is added to the products: the loss's gradient by it is the one by the
products. The hidden product of a GRU's new gate stands inside r * (W h + b), so its gradient is r
times that of the input product.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.layers.substitute import Decomposed, Record, substituted

Cell = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def decomposed_recurrent(kind: type[nn.RNNBase]) -> Decomposed:
    """The decomposition of nn.RNN, nn.LSTM and nn.GRU.

    Forward pass and gradients equal torch's to rounding, at the cost of plain code.

    Packed sequences, inputs without a batch axis and dropout between layers on a GPU (whose masks
    could not be drawn again) are left to torch and not recorded.
    """

    def decompose(module: nn.Module, record: Record) -> AbstractContextManager[None]:
        layer = cast(nn.RNNBase, module)
        plain = module.forward

        def forward(input: Any, hx: Any = None) -> Any:
            return (
                _run(layer, record, input, hx) if _handled(layer, input, hx) else plain(input, hx)
            )

        return substituted(module, kind, forward)

    return decompose


def decomposed_cell(kind: type[nn.RNNCellBase]) -> Decomposed:
    """For nn.RNNCell, nn.LSTMCell and nn.GRUCell: every call is a use of both weights."""

    def decompose(module: nn.Module, record: Record) -> AbstractContextManager[None]:
        cell = cast(nn.RNNCellBase, module)
        plain = module.forward

        def forward(input: Tensor, hx: Any = None) -> Any:
            if input.ndim != 2 or not torch.is_grad_enabled():
                return plain(input, hx)
            states = (hx if isinstance(hx, tuple) else (hx,)) if hx is not None else ()
            zeros = input.new_zeros(len(input), cell.hidden_size)
            h, c = [*states, zeros, zeros][:2]
            products = [
                _product(cell, record, x, f"weight_{k}", f"bias_{k}")
                for x, k in ((input, "ih"), (h, "hh"))
            ]
            h, c = _cell_of(cell)(products[0], products[1], h, c)
            return (h, c) if isinstance(cell, nn.LSTMCell) else h

        return substituted(module, kind, forward)

    return decompose


def _handled(layer: nn.RNNBase, input: Any, hx: Any) -> bool:
    if not isinstance(input, Tensor) or input.ndim != 3 or not torch.is_grad_enabled():
        return False
    states = hx if isinstance(hx, tuple) else (hx,)
    if hx is not None and any(not isinstance(state, Tensor) or state.ndim != 3 for state in states):
        return False
    return not (_drops(layer) and input.is_cuda)


def _drops(layer: nn.RNNBase) -> bool:
    return layer.training and layer.dropout > 0 and layer.num_layers > 1


def _run(layer: nn.RNNBase, record: Record, input: Tensor, hx: Any) -> Any:
    """The layer's result: (output, h_n), or (output, (h_n, c_n)) for an LSTM."""
    stream = input if layer.batch_first else input.transpose(0, 1)
    starts = _starts(layer, input, hx)
    ends: list[tuple[Tensor, Tensor]] = []
    for depth in range(layer.num_layers):
        stream, last = _depth(layer, record, stream, depth, starts)
        ends += last
        if _drops(layer) and depth < layer.num_layers - 1:
            stream = F.dropout(stream, layer.dropout)
    h, c = (torch.stack(states) for states in zip(*ends, strict=True))
    output = stream if layer.batch_first else stream.transpose(0, 1)
    return (output, (h, c)) if isinstance(layer, nn.LSTM) else (output, h)


def _depth(
    layer: nn.RNNBase, record: Record, stream: Tensor, depth: int, starts: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One depth in all its directions: its outputs side by side, and the last states of each."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    outputs, ends = [], []
    for number, direction in enumerate(directions, start=depth * len(directions)):
        sweep = _Sweep(layer, record, f"_l{depth}{direction}")
        output, end = sweep.run(stream, *(start[number] for start in starts))
        outputs.append(output.transpose(0, 1))
        ends.append(end)
    return torch.cat(outputs, dim=-1).transpose(0, 1), ends


def _starts(layer: nn.RNNBase, input: Tensor, hx: Any) -> tuple[Tensor, Tensor]:
    """The first hidden and cell states, (layers * directions, N, H)."""
    if hx is not None:
        layer.check_forward_args(input, hx, None)
        return hx if isinstance(hx, tuple) else (hx, hx)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    examples = input.shape[0 if layer.batch_first else 1]
    c = input.new_zeros(count, examples, layer.hidden_size)
    return (c.new_zeros(count, examples, layer.proj_size) if layer.proj_size else c), c


class _Sweep:
    """One layer over a sequence in one direction."""

    def __init__(self, layer: nn.RNNBase, record: Record, suffix: str) -> None:
        self.layer, self.record, self.suffix = layer, record, suffix
        self.reverse = suffix.endswith("_reverse")

    def run(self, stream: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (N, T, H) of the inputs (N, T, in), and the last states.

        Times are outermost in memory, as torch has them: it decides which masks a dropout draws.
        """
        products = _product(
            self.layer, self.record, stream, f"weight_ih{self.suffix}", f"bias_ih{self.suffix}"
        )
        hidden = _Stepwise(self.layer, "hh", self.suffix, products.shape[:2])
        projection = (
            _Stepwise(self.layer, "hr", self.suffix, products.shape[:2])
            if self.layer.proj_size
            else None
        )
        cell, steps = _cell_of(self.layer), products.unbind(1)
        outputs: dict[int, Tensor] = {}
        times = range(len(steps))
        for t in reversed(times) if self.reverse else times:
            h, c = cell(steps[t], hidden(h, t), h, c)
            h = h if projection is None else projection(h, t)
            outputs[t] = h
        for stepwise in (hidden, projection):
            if stepwise is not None and stepwise.probe.requires_grad:
                inputs = torch.stack([stepwise.inputs[t].detach() for t in times], dim=1)
                self.record((self.layer, stepwise.weight), inputs, stepwise.probe)
        return torch.stack([outputs[t] for t in times]).transpose(0, 1), (h, c)


class _Stepwise:
    """A product W x_t + b that is computed step by step, plus zeros whose gradient is its own."""

    def __init__(self, layer: nn.RNNBase, kind: str, suffix: str, shape: torch.Size) -> None:
        self.weight = f"weight_{kind}{suffix}"
        self.matrix = cast(Tensor, getattr(layer, self.weight))
        self.bias = cast(Tensor | None, getattr(layer, f"bias_{kind}{suffix}", None))
        trained = any(p is not None and p.requires_grad for p in (self.matrix, self.bias))
        self.probe = self.matrix.new_zeros(*shape, len(self.matrix)).requires_grad_(trained)
        self.steps = self.probe.unbind(1)
        self.inputs: dict[int, Tensor] = {}

    def __call__(self, value: Tensor, t: int) -> Tensor:
        self.inputs[t] = value
        return F.linear(value, self.matrix, self.bias) + self.steps[t]


def _product(layer: nn.Module, record: Record, value: Tensor, weight: str, bias: str) -> Tensor:
    product = F.linear(
        value, cast(Tensor, getattr(layer, weight)), cast(Tensor | None, getattr(layer, bias, None))
    )
    record((layer, weight), value, product)
    return product


def _cell_of(layer: nn.Module) -> Cell:
    """(input products, hidden products, h, c) to the next (h, c)."""
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return _lstm
    if isinstance(layer, nn.GRU | nn.GRUCell):
        return _gru
    relu = layer.nonlinearity == "relu"
    return lambda x, u, h, c: (torch.relu(x + u) if relu else torch.tanh(x + u), c)


def _lstm(x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (x + u).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    (xr, xz, xn), (ur, uz, un) = x.chunk(3, dim=-1), u.chunk(3, dim=-1)
    r, z = (xr + ur).sigmoid(), (xz + uz).sigmoid()
    n = (xn + r * un).tanh()
    return n + z * (h - n), c
