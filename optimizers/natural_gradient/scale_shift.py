r"""The exact block of each channel's scale and shift in a normalising layer.

s = scale * x + shift, x the normalised input, acts on every channel alone. An example's gradient by
the two numbers of channel c is r = (sum_t g_t x_t, sum_t g_t), t its positions, g the gradient of
its loss by s, and the channel's block of the Fisher matrix is the mean of r r', a matrix of two
rows, kept as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.layers.capture import Captured
from optimizers.natural_gradient.blocks import Block, Measure, Tensors, reached

Normalised = Callable[[nn.Module, Tensor], Tensor]
_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


class ScaleShiftBlock(Block):
    """The blocks (C, 2, 2) of the scale and shift of C channels.

    They are (C, 1, 1) where only one of the two is trained. F_c = (1 / terms) sum_n r_n r_n'. It is
    the exact block of the Gauss-Newton matrix with the exact Fisher's targets, and an unbiased
    estimate of it with sampled ones, where an example's loss is one log-likelihood term and depends
    on that example alone. A batch normalisation that uses the statistics of its batch is not of
    that kind, if others follow it: then r_n is the gradient of the whole batch's loss through the
    n-th output of this layer, their sum is still the gradient, and the dependence of the examples
    on each other is left out of the second moment.

    Memory: 8 C numbers with the inverse. Cost: a second normalisation and two sums over the layer's
    output.
    """

    def __init__(self, name: str, module: nn.Module, scale: bool, shift: bool) -> None:
        self.module = module
        self.scale, self.shift = scale, shift
        parts = [module._parameters.get("weight")] * scale + [
            module._parameters.get("bias")
        ] * shift
        super().__init__(name, [part for part in parts if part is not None])
        self.dtype = torch.promote_types(self.parameters[0].dtype, torch.float32)

    def matrix(self, tensors: Sequence[Tensor]) -> Tensor:
        """Scale and shift of each channel as a column, (C, 1 or 2, 1)."""
        return (
            torch.stack([tensor.flatten() for tensor in tensors], dim=1)
            .unsqueeze(-1)
            .to(self.dtype)
        )

    def tensors(self, matrix: Tensor) -> list[Tensor]:
        """The columns as scale and shift, in their own types."""
        columns = matrix.squeeze(-1).unbind(1)
        return [
            column.reshape(p.shape).to(p.dtype)
            for column, p in zip(columns, self.parameters, strict=True)
        ]

    @property
    def modules(self) -> list[nn.Module]:
        """The normalising layer."""
        return [self.module]

    def state_bytes(self, largest: float) -> int:
        """The 2 x 2 matrix of each channel, twice."""
        channels, size = self.parameters[0].numel(), len(self.parameters)
        return 2 * channels * size**2 * torch.finfo(self.dtype).bits // 8

    def is_dense(self, factor: Tensor) -> bool:
        """A channel's factor is always a matrix."""
        return True

    def sums(self, passes: Sequence[Captured], measure: Measure) -> Tensors | None:
        """The sum of r r' over examples, uses and passes."""
        total: Tensor | None = None
        records = [captured[self.module] for captured in passes if self.module in captured]
        for value, gradients in reached(records, len(passes)):
            normalised = SCALE_SHIFT[type(self.module)](self.module, value.to(self.dtype))
            for gradient in gradients:
                r = self._per_example(
                    normalised, gradient.to(self.dtype) * (measure.terms / measure.scale)
                )
                moment = torch.einsum("nci,ncj->cij", r, r) / measure.terms
                total = moment if total is None else total + moment
        return None if total is None else {"b": total}

    def _per_example(self, normalised: Tensor, gradient: Tensor) -> Tensor:
        """r, of shape (N, C, 1 or 2)."""
        parts = [gradient * normalised] * self.scale + [gradient] * self.shift
        return torch.stack([over_positions(self.module, part) for part in parts], dim=-1)

    def damped(self, factors: Tensors, damping: float, split: str = "trace") -> Tensors:
        """F_c + damping I."""
        block = factors["b"].clone()
        block.diagonal(dim1=-2, dim2=-1).add_(damping)
        return {"b": block}

    def solve(self, inverses: Tensors, matrix: Tensor) -> Tensor:
        """F_c^{-1} times the column of each channel."""
        return inverses["b"] @ matrix


def scale_shift_blocks(
    module: nn.Module, names: Mapping[int, str], group_of: Mapping[int, int]
) -> list[Block]:
    """The block of a normalising layer, or two where its parameters differ in their groups.

    Args:
        module: the layer, of a kind in `SCALE_SHIFT`.
        names: of all parameters, by their `id`.
        group_of: the parameter group of each trained parameter that no other layer owns.
    """
    parameters = {
        name: p for name, p in module._parameters.items() if p is not None and id(p) in group_of
    }
    if len({group_of[id(p)] for p in parameters.values()}) < len(parameters):
        return [_block(module, parameters, names)]
    return [_block(module, {name: p}, names) for name, p in parameters.items()]


def _block(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], names: Mapping[int, str]
) -> Block:
    name = names[id(next(iter(parameters.values())))]
    return ScaleShiftBlock(name, module, "weight" in parameters, "bias" in parameters)


def over_positions(module: nn.Module, values: Tensor) -> Tensor:
    """The sum over an example's positions, (N, C).

    The last axes are the channels of a LayerNorm, else axis 1.
    """
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        channels = len(module.normalized_shape)
        values = values.flatten(-channels)
        values = values if values.ndim > 1 else values.unsqueeze(0)
        return values.flatten(1, -2).sum(1) if values.ndim > 2 else values
    if isinstance(module, _InstanceNorm) and values.ndim == _axes(module):
        values = values.unsqueeze(0)
    return values.flatten(2).sum(2) if values.ndim > 2 else values


def _axes(module: nn.Module) -> int:
    """The axes of one example, (C, *places)."""
    kinds: Collection[type[nn.Module]] = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return 2 + [isinstance(module, kind) for kind in kinds].index(True)


def _layer(module: nn.Module, value: Tensor) -> Tensor:
    layer = cast(nn.LayerNorm, module)
    return F.layer_norm(value, list(layer.normalized_shape), eps=layer.eps)


def _root_mean_square(module: nn.Module, value: Tensor) -> Tensor:
    layer = cast(nn.RMSNorm, module)
    return F.rms_norm(value, list(layer.normalized_shape), eps=layer.eps)


def _group(module: nn.Module, value: Tensor) -> Tensor:
    layer = cast(nn.GroupNorm, module)
    return F.group_norm(value, layer.num_groups, eps=layer.eps)


def _batch(module: nn.Module, value: Tensor) -> Tensor:
    layer = cast(_BatchNorm, module)
    if layer.training or layer.running_mean is None or layer.running_var is None:
        return F.batch_norm(value, None, None, training=True, eps=layer.eps)
    mean, variance = layer.running_mean.to(value), layer.running_var.to(value)
    return F.batch_norm(value, mean, variance, training=False, eps=layer.eps)


def _instance(module: nn.Module, value: Tensor) -> Tensor:
    layer = cast(_InstanceNorm, module)
    own = layer.training or layer.running_mean is None or layer.running_var is None
    batched = value if value.ndim > _axes(module) else value.unsqueeze(0)
    mean, variance = (None, None) if own else (layer.running_mean, layer.running_var)
    normalised = F.instance_norm(batched, mean, variance, use_input_stats=own, eps=layer.eps)
    return normalised.view_as(value)


SCALE_SHIFT: dict[type[nn.Module], Normalised] = {
    nn.LayerNorm: _layer,
    nn.RMSNorm: _root_mean_square,
    nn.GroupNorm: _group,
    nn.BatchNorm1d: _batch,
    nn.BatchNorm2d: _batch,
    nn.BatchNorm3d: _batch,
    nn.InstanceNorm1d: _instance,
    nn.InstanceNorm2d: _instance,
    nn.InstanceNorm3d: _instance,
}
