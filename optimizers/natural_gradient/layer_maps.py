"""The matrix products of a network, found by the kinds of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.layers.attention import PROJECTIONS
from optimizers.natural_gradient.convolutions import ConvSite, PlacesSite, TransposedConvSite
from optimizers.natural_gradient.site import Site

__all__ = ["SITES", "Site", "sites_of"]


class EmbeddingSite(Site):
    """A table of vectors.

    The product of one-hot rows with the transposed weight, W = weight' of shape (dim, tokens).

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
        rows = F.one_hot(value.reshape(len(value), -1), self.module.num_embeddings)
        counted = self.counted(value)
        return rows if counted is None else rows * counted.unsqueeze(-1)

    def counted(self, value: Tensor) -> Tensor | None:
        padding = self.module.padding_idx
        return None if padding is None else value.reshape(len(value), -1) != padding

    def input_moment(self, value: Tensor, bias: bool, largest: float, dtype: torch.dtype) -> Tensor:
        counts = torch.bincount(value.flatten(), minlength=self.module.num_embeddings)
        if self.module.padding_idx is not None:
            counts[self.module.padding_idx] = 0
        return counts.to(dtype)

    def inputs_per_example(self, value: Tensor) -> int:
        return self.module.num_embeddings * (value[0].numel() if len(value) else 0)

    def weight_matrix(self, weight: Tensor) -> Tensor:
        return weight.mT

    def weight_tensor(self, matrix: Tensor) -> Tensor:
        return matrix.mT


class ProjectionSite(Site):
    """The projections of attention to queries, keys and values, whose weights or biases are one parameter."""

    groups = len(PROJECTIONS)

    def __init__(self, module: nn.Module, weight: str = "", bias: str = "") -> None:
        super().__init__(module, (module, weight or bias), weight, bias)

    def parts(self) -> Sequence[Site]:
        sites = [Site(self.module, (self.module, name), "", "") for name in PROJECTIONS]
        for number, site in enumerate(sites):
            site.groups, site.part = self.groups, number
        return sites


def sites_of(module: nn.Module) -> list[Site]:
    """The matrix products of one layer, none for a layer of an unknown kind or with an option that is not handled.

    A class of its own that derives from a known kind is known too, unless it has another forward
    pass.
    """
    kind = next((kind for kind in type(module).__mro__ if kind in SITES), None)
    return [] if kind is None or type(module).forward is not kind.forward else SITES[kind](module)


def _conv_sites(module: nn.Module) -> list[Site]:
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return [ConvSite(module)] if module.padding_mode == "zeros" else []


def _transposed_sites(module: nn.Module) -> list[Site]:
    assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    # with more output padding the kernel would meet places that no input belongs to
    plain = all(
        extra < stride for extra, stride in zip(module.output_padding, module.stride, strict=True)
    )
    return [TransposedConvSite(module), PlacesSite(module)] if plain else []


def _embedding_sites(module: nn.Module) -> list[Site]:
    assert isinstance(module, nn.Embedding)
    plain = module.max_norm is None and not module.sparse and not module.scale_grad_by_freq
    return [EmbeddingSite(module)] if plain else []


def _recurrent_sites(module: nn.Module) -> list[Site]:
    names = [
        name for name in module._parameters if name.startswith("weight")
    ]  # weight_ih_l0, weight_hh_l0, ...
    return [Site(module, (module, name), name, name.replace("weight", "bias", 1)) for name in names]


def _attention_sites(module: nn.Module) -> list[Site]:
    assert isinstance(module, nn.MultiheadAttention)
    if module.in_proj_weight is not None:
        return [ProjectionSite(module, "in_proj_weight", "in_proj_bias")]
    projections = [Site(module, (module, name), f"{name}_proj_weight", "") for name in PROJECTIONS]
    return [*projections, ProjectionSite(module, bias="in_proj_bias")]


SITES: dict[type[nn.Module], Callable[[nn.Module], list[Site]]] = {
    nn.Linear: lambda module: [Site(module)],
    nn.Conv1d: _conv_sites,
    nn.Conv2d: _conv_sites,
    nn.Conv3d: _conv_sites,
    nn.ConvTranspose1d: _transposed_sites,
    nn.ConvTranspose2d: _transposed_sites,
    nn.ConvTranspose3d: _transposed_sites,
    nn.Embedding: _embedding_sites,
    nn.RNN: _recurrent_sites,
    nn.LSTM: _recurrent_sites,
    nn.GRU: _recurrent_sites,
    nn.RNNCell: _recurrent_sites,
    nn.LSTMCell: _recurrent_sites,
    nn.GRUCell: _recurrent_sites,
    nn.MultiheadAttention: _attention_sites,
}
