"""The diagonals of a layer's Kronecker factors: their sums, normalisation and averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from optimizers.layers.capture import Captured
from optimizers.natural_gradient.blocks import Block, Measure, Tensors
from optimizers.natural_gradient.scale_shift import ScaleShiftBlock, over_positions

SMALL = 1e-12  # the released code adds it to a range


def observed(
    block: Block, passes: Sequence[Captured], measure: Measure, released: bool
) -> Tensors | None:
    """Sums over a mini-batch's examples; None if the layer was not used."""
    if isinstance(block, ScaleShiftBlock):
        return _channel_sums(block, passes, released)
    return block.sums(passes, measure)


@dataclass(frozen=True)
class Averages:
    """Running averages keep average + take new of min-max normalised diagonals.

    Either each new diagonal is normalised and the averages begin with ones, or the averages are
    normalised at use. A range of zero makes zeros with `small` added to the range, else ones. The
    layers of a stack (groups of a convolution, the projections of attention) are normalised
    together.
    """

    keep: float
    take: float
    small: float = 0.0
    afterwards: bool = False

    @classmethod
    def released(cls, gamma: float) -> Self:
        """The averages of the released code for gamma."""
        return cls(0.1 * gamma, 0.01 * gamma, SMALL)

    def update(self, block: Block, state: dict[str, Any], sums: Tensors) -> None:
        """Update `a` and `g` of a block's state with the sums."""
        for name, new in diagonals(block, sums).items():
            if name not in state:
                # ones would vanish in a later normalisation, and cost digits
                state[name] = torch.zeros_like(new) if self.afterwards else torch.ones_like(new)
            state[name].mul_(self.keep).add_(
                new if self.afterwards else self.normalised(new), alpha=self.take
            )

    def factors(self, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The diagonals H and S of a block."""
        if self.afterwards:
            return self.normalised(state["a"]), self.normalised(state["g"])
        return state["a"], state["g"]

    def normalised(self, values: Tensor) -> Tensor:
        """The values min-max normalised to [0, 1], of the same shape."""
        low, extent = values.min(), values.max() - values.min()
        if self.small:
            return (values - low) / (extent + self.small)
        return torch.where(extent > 0, (values - low) / extent, torch.ones_like(values))


def diagonals(block: Block, sums: Tensors) -> Tensors:
    """The diagonals H and S from the sums, as `a` and `g`.

    A block of scale and shift has S as `a` (C, 1) and H as `g` (1, 2).
    """
    if not isinstance(block, ScaleShiftBlock):
        return block.factors(sums)
    examples = sums["examples"]
    both = torch.stack(
        [sums["inputs"].square().sum(), sums["inputs"].new_tensor(float(len(sums["inputs"])))]
    )
    chosen = both[[0] * block.scale + [1] * block.shift] / examples**2
    return {"a": (sums["slopes"].square() / examples).unsqueeze(1), "g": chosen.unsqueeze(0)}


def entries(a: Tensor, g: Tensor) -> Tensor:
    """The outer product of the diagonals, in the shape of the block's matrix."""
    return g.unsqueeze(-1) * a.unsqueeze(-2)


def spread(factors: Sequence[tuple[Tensor, Tensor]], dampings: Sequence[float]) -> float:
    """The largest over the smallest number in F = entries + damping, over all blocks."""
    pairs = list(zip(factors, dampings, strict=True))
    largest = [(a.amax(-1) * g.amax(-1)).max() + damping for (a, g), damping in pairs]
    smallest = [(a.amin(-1) * g.amin(-1)).min() + damping for (a, g), damping in pairs]
    return float(torch.stack(largest).max() / torch.stack(smallest).min())


def _channel_sums(
    block: ScaleShiftBlock, passes: Sequence[Captured], released: bool
) -> Tensors | None:
    """Sums of a normalisation layer: inputs over squared positions, and output gradients."""
    totals: Tensors = {}
    for captured in passes:
        for value, gradient in captured[block.module].uses() if block.module in captured else []:
            value, gradient = value.to(block.dtype), gradient.to(block.dtype)
            new = {
                "inputs": _input_sums(block.module, value, released),
                "slopes": over_positions(block.module, gradient).sum(0),
                "examples": value.new_tensor(float(len(value))),
            }
            totals = {
                name: tensor + totals[name] if totals else tensor for name, tensor in new.items()
            }
    return totals or None


def _input_sums(module: nn.Module, value: Tensor, released: bool) -> Tensor:
    if released and isinstance(module, nn.LayerNorm) and value.ndim > 1:
        rest = [axis for axis in range(value.ndim) if axis != 1]
        return value.sum(rest) / value[0, 0].numel() ** 2
    sums = over_positions(module, value)
    return sums.sum(0) / (value.numel() / sums.numel()) ** 2
