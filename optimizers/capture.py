"""Inputs and output gradients of layers, recorded while a model is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class LayerRecord:
    """What one layer saw: an entry per use of the layer in the forward pass, both lists in the order of the uses."""

    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor | None] = field(default_factory=list)

    def uses(self) -> list[tuple[Tensor, Tensor]]:
        """(input, gradient of the loss by the output) of each use that the loss depends on."""
        pairs = zip(self.inputs, self.gradients, strict=True)
        return [(value, gradient) for value, gradient in pairs if gradient is not None]


Captured = dict[nn.Module, LayerRecord]


@contextmanager
def capture(model: nn.Module, kinds: Sequence[type[nn.Module]]) -> Iterator[Captured]:
    """Record every layer of the given kinds that has trainable parameters; the hooks live inside the `with` only."""
    captured: Captured = {}
    chosen = [m for m in model.modules() if isinstance(m, tuple(kinds)) and _trainable(m)]
    handles = [module.register_forward_hook(_recorder(captured)) for module in chosen]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def hidden_states(layers: Sequence[nn.RNNBase]) -> Iterator[list[Tensor]]:
    """Collect the output sequences of recurrent layers, with their graph, during the evaluations inside the `with`."""
    states: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _, __, output: states.append(output[0])) for layer in layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _recorder(captured: Captured) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not inputs or not output.requires_grad:  # called by keyword, or evaluated without a graph
            return
        layer = captured.setdefault(module, LayerRecord())
        use = len(layer.inputs)
        layer.inputs.append(inputs[0].detach())
        layer.gradients.append(None)

        def keep(gradient: Tensor) -> None:
            layer.gradients[use] = gradient.detach()

        output.register_hook(keep)

    return record
