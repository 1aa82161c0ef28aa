"""Inputs and output gradients of layers, recorded while a model is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from optimizers.layers.decomposed import DECOMPOSED, Key, Record


@dataclass
class LayerRecord:
    """What one layer saw: an entry per use in the forward pass, in the order of the uses."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor | None] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)

    def uses(self) -> list[tuple[Tensor, Tensor]]:
        """(input, gradient of the loss by the output) of each use that the loss depends on."""
        pairs = zip(self.inputs, self.gradients, strict=True)
        return [(value, gradient) for value, gradient in pairs if gradient is not None]


Captured = dict[Key, LayerRecord]


@contextmanager
def capture(
    model: nn.Module, kinds: Sequence[type[nn.Module]], *, watch: bool = True
) -> Iterator[Captured]:
    """Record every layer of the given kinds that has trainable parameters, inside the `with`.

    A layer that is one matrix product is a key itself. One that is made of several (recurrent
    layers, attention) is computed product by product meanwhile, and each is found under (layer,
    name of its weight). With `watch` the gradients are filled in by the backward pass; without it
    they are left to the caller, who has the `edges`.
    """
    captured: Captured = {}
    record = _watching(captured) if watch else _noting(captured)
    chosen = [m for m in model.modules() if isinstance(m, tuple(kinds)) and _trainable(m)]
    with ExitStack() as stack:
        for module in chosen:
            decomposed = next(
                (DECOMPOSED[kind] for kind in type(module).__mro__ if kind in DECOMPOSED), None
            )
            if decomposed is not None:
                stack.enter_context(decomposed(module, record))
            else:
                stack.callback(module.register_forward_hook(_hook(record)).remove)
        yield captured


def snapshot(captured: Captured) -> Captured:
    """A copy of the record, without the uses that a checkpointed layer's second run will add."""
    return {
        key: LayerRecord(list(r.inputs), list(r.gradients), list(r.edges))
        for key, r in captured.items()
    }


def with_gradients(captured: Captured, gradients: Sequence[Tensor | None]) -> Captured:
    """The same inputs with the gradients of one backward pass.

    These are given for all edges in the order of `edges_of`.
    """
    rest = iter(gradients)
    return {
        key: LayerRecord(record.inputs, [_detached(next(rest)) for _ in record.edges], record.edges)
        for key, record in captured.items()
    }


def merged(parts: Sequence[Captured]) -> Captured:
    """The record of a mini-batch evaluated in parts: the uses of each part in turn."""
    if len(parts) == 1:
        return parts[0]
    whole: Captured = {}
    for captured in parts:
        for key, record in captured.items():
            layer = whole.setdefault(key, LayerRecord())
            layer.inputs += record.inputs
            layer.gradients += record.gradients
    return whole


def edges_of(captured: Captured) -> list[GradientEdge]:
    """Where the outputs stand in the graph, layer by layer, use by use."""
    return [edge for record in captured.values() for edge in record.edges]


@contextmanager
def hidden_states(layers: Sequence[nn.RNNBase]) -> Iterator[list[Tensor]]:
    """Collect the output sequences of recurrent layers, with their graph, inside the `with`."""
    states: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _, __, output: states.append(output[0]))
        for layer in layers
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _detached(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach()


def _hook(record: Record) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs:  # a layer called by keyword is not seen
            record(module, inputs[0], output)

    return hook


def _noting(captured: Captured) -> Record:
    def record(key: Key, inputs: Tensor, output: Tensor) -> None:
        if not output.requires_grad:
            return
        layer = captured.setdefault(key, LayerRecord())
        layer.inputs.append(inputs.detach())
        layer.gradients.append(None)
        layer.edges.append(get_gradient_edge(output))

    return record


def _watching(captured: Captured) -> Record:
    note = _noting(captured)

    def record(key: Key, inputs: Tensor, output: Tensor) -> None:
        note(key, inputs, output)
        if not output.requires_grad:
            return
        layer, use = captured[key], len(captured[key].gradients) - 1

        def keep(gradient: Tensor) -> None:
            layer.gradients[use] = gradient.detach()

        output.register_hook(keep)

    return record
