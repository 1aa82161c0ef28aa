"""Value, gradient and Laplacian of a network by its inputs in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class JetNet(nn.Module):
    r"""A fully connected tanh network whose forward pass computes input derivatives, too.

    A jet is the stack of a function's value, its d first derivatives and its Laplacian, `(N, d + 2,
    width)`. A linear layer maps each of these rows alike, with the bias for the value alone; tanh
    maps a jet to

        v = tanh(z),    v_i = v' z_i,    Lap v = v' Lap z + v'' sum_i z_i^2,
        v' = 1 - v^2,    v'' = -2 v v'

    (the forward Laplacian of Li et al., "A computational framework for neural network-based
    variational Monte Carlo with forward Laplacian", 2024, arXiv 2307.08214). The network consists
    of plain tensor operations: autograd by the parameters works to any order.

    The bias is a column of each layer's weight, for an input that is 1 for the value and 0 for its
    derivatives. Every layer is therefore a `Linear` without bias, used at d + 2 positions, whose
    inputs and output gradients can be captured. That is the view of Dangel, Müller and Zeinhofer,
    "Kronecker-factored approximate curvature for physics-informed neural networks", 2024 (arXiv
    2405.15603). Weights start as in torch's Linear, uniform within `1 / sqrt(width + 1)`.

    Cost: d + 2 times that of the plain network, in time and memory.

    Args:
        dimension: d, the number of inputs.
        hidden: the widths of the hidden layers.
    """

    def __init__(self, dimension: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [dimension, *hidden, 1]
        self.layers = nn.ModuleList(
            nn.Linear(before + 1, after, bias=False) for before, after in pairwise(widths)
        )

    def forward(self, points: Tensor) -> Tensor:
        """The jet `(N, d + 2)` at points `(N, d)`: value, gradient, Laplacian."""
        jet = coordinates(points)
        for depth, layer in enumerate(self.layers):
            jet = layer(with_one(tanh_jet(jet) if depth else jet))
        return jet.squeeze(2)


def coordinates(points: Tensor) -> Tensor:
    """The jet of the identity, `(N, d + 2, d)`: the point, the unit vectors, zero."""
    dimension = points.shape[1]
    unit = torch.eye(dimension, dtype=points.dtype, device=points.device).expand(
        len(points), -1, -1
    )
    return torch.cat([points[:, None], unit, torch.zeros_like(points[:, None])], dim=1)


def with_one(jet: Tensor) -> Tensor:
    """A jet with the constant 1 as one more column, `(N, d + 2, width + 1)`."""
    constant = torch.zeros_like(jet[:1, :, :1])
    constant[:, 0] = 1
    return torch.cat([jet, constant.expand(len(jet), -1, -1)], dim=2)


def tanh_jet(jet: Tensor) -> Tensor:
    """The jet of tanh(z) from that of z."""
    first, laplacian = jet[:, 1:-1], jet[:, -1:]
    value = torch.tanh(jet[:, :1])
    slope = 1 - value.square()
    bend = -2 * value * slope
    curved = slope * laplacian + bend * first.square().sum(dim=1, keepdim=True)
    return torch.cat([value, slope * first, curved], dim=1)
