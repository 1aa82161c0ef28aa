"""The linear maps of a network, by the kinds of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.layers.attention import PROJECTIONS
from optimizers.natural_gradient.convolutions import (
    ConvolutionMap,
    PlacesMap,
    TransposedConvolutionMap,
)
from optimizers.natural_gradient.linear_map import LinearMap

__all__ = ["LAYER_MAPS", "LinearMap", "linear_maps_of"]


class EmbeddingMap(LinearMap):
    """A table of vectors: one-hot rows times the transposed weight, W = weight' (dim, tokens).

    The input factor is diagonal, the counts of the tokens. Indices that are broadcast over the
    batch afterwards (the positions of a transformer) are an example each, whose gradient is a sum
    over the batch: with targets drawn from the model the expectation of its square is the sum of
    the examples' own, as their gradients are independent with mean zero. With the exact or the
    empirical Fisher that sum has their cross terms too.
    """

    module: nn.Embedding
    transposed = True
    one_hot = True

    def inputs(self, value: Tensor) -> Tensor:
        """One-hot rows, zero for the padding index."""
        rows = F.one_hot(value.reshape(len(value), -1), self.module.num_embeddings)
        counted = self.counted(value)
        return rows if counted is None else rows * counted.unsqueeze(-1)

    def counted(self, value: Tensor) -> Tensor | None:
        """All positions but those of the padding index."""
        padding = self.module.padding_idx
        return None if padding is None else value.reshape(len(value), -1) != padding

    def input_moment(self, value: Tensor, bias: bool, largest: float, dtype: torch.dtype) -> Tensor:
        """The diagonal: how often each token occurs."""
        counts = torch.bincount(value.flatten(), minlength=self.module.num_embeddings)
        if self.module.padding_idx is not None:
            counts[self.module.padding_idx] = 0
        return counts.to(dtype)

    def inputs_per_example(self, value: Tensor) -> int:
        """The numbers in an example's one-hot rows."""
        return self.module.num_embeddings * (value[0].numel() if len(value) else 0)

    def weight_matrix(self, weight: Tensor) -> Tensor:
        """(dim, tokens)."""
        return weight.mT

    def weight_tensor(self, matrix: Tensor) -> Tensor:
        """(tokens, dim)."""
        return matrix.mT


class ProjectionMap(LinearMap):
    """Attention's projections to queries, keys and values, whose weights or biases are stacked."""

    groups = len(PROJECTIONS)

    def __init__(self, module: nn.Module, weight: str = "", bias: str = "") -> None:
        super().__init__(module, (module, weight or bias), weight, bias)

    def parts(self) -> Sequence[LinearMap]:
        """The projections one by one, as they are recorded."""
        maps = [LinearMap(self.module, (self.module, name), "", "") for name in PROJECTIONS]
        for number, linear_map in enumerate(maps):
            linear_map.groups, linear_map.part = self.groups, number
        return maps


def linear_maps_of(module: nn.Module) -> list[LinearMap]:
    """The linear maps of one layer; none for an unknown kind or an option that is not handled.

    A class of its own that derives from a known kind is known too, unless it has another forward
    pass.
    """
    kind = next((kind for kind in type(module).__mro__ if kind in LAYER_MAPS), None)
    return (
        [] if kind is None or type(module).forward is not kind.forward else LAYER_MAPS[kind](module)
    )


def _convolution_maps(module: nn.Module) -> list[LinearMap]:
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return [ConvolutionMap(module)] if module.padding_mode == "zeros" else []


def _transposed_maps(module: nn.Module) -> list[LinearMap]:
    assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    # with more output padding the kernel would meet places that no input belongs to
    plain = all(
        extra < stride for extra, stride in zip(module.output_padding, module.stride, strict=True)
    )
    return [TransposedConvolutionMap(module), PlacesMap(module)] if plain else []


def _embedding_maps(module: nn.Module) -> list[LinearMap]:
    assert isinstance(module, nn.Embedding)
    plain = module.max_norm is None and not module.sparse and not module.scale_grad_by_freq
    return [EmbeddingMap(module)] if plain else []


def _recurrent_maps(module: nn.Module) -> list[LinearMap]:
    # weight_ih_l0, weight_hh_l0, ...
    names = [name for name in module._parameters if name.startswith("weight")]
    return [
        LinearMap(module, (module, name), name, name.replace("weight", "bias", 1)) for name in names
    ]


def _attention_maps(module: nn.Module) -> list[LinearMap]:
    assert isinstance(module, nn.MultiheadAttention)
    if module.in_proj_weight is not None:
        return [ProjectionMap(module, "in_proj_weight", "in_proj_bias")]
    projections = [
        LinearMap(module, (module, name), f"{name}_proj_weight", "") for name in PROJECTIONS
    ]
    return [*projections, ProjectionMap(module, bias="in_proj_bias")]


LAYER_MAPS: dict[type[nn.Module], Callable[[nn.Module], list[LinearMap]]] = {
    nn.Linear: lambda module: [LinearMap(module)],
    nn.Conv1d: _convolution_maps,
    nn.Conv2d: _convolution_maps,
    nn.Conv3d: _convolution_maps,
    nn.ConvTranspose1d: _transposed_maps,
    nn.ConvTranspose2d: _transposed_maps,
    nn.ConvTranspose3d: _transposed_maps,
    nn.Embedding: _embedding_maps,
    nn.RNN: _recurrent_maps,
    nn.LSTM: _recurrent_maps,
    nn.GRU: _recurrent_maps,
    nn.RNNCell: _recurrent_maps,
    nn.LSTMCell: _recurrent_maps,
    nn.GRUCell: _recurrent_maps,
    nn.MultiheadAttention: _attention_maps,
}
