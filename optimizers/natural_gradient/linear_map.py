r"""One matrix product of a network: what its inputs and output gradients look like as rows.

A layer computes s = W a + b at every position (an example, a token, a place of a convolution). A
`LinearMap` gives a and the gradient by s of the N examples' T positions as tensors (N, T, in) and
(N, T, out), with a first axis of their own for layers that are K independent products (groups of a
convolution, the projections of attention), and says how weight and bias lie in the matrix W of
shape (out, in) or (K, out, in).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimizers.layers.substitute import Key


class LinearMap:
    """One matrix product: a Linear layer, and the base of all other kinds.

    Args:
        module: the layer.
        key: where `capture` records it; the layer itself by default.
        weight, bias: the names of its parameters in the layer; an empty word for none.
    """

    # the length of the first axis, for layers of several independent products
    groups: int | None = None
    part: int | None = None  # which of these products this is, where they are recorded one by one
    axes: int = 1  # the axes of the output for one example without a batch axis
    transposed: bool = False  # whether the weight's own rows are the product's inputs
    one_hot: bool = False  # whether the inputs are indices, each a row with a single one

    def __init__(
        self, module: nn.Module, key: Key | None = None, weight: str = "weight", bias: str = "bias"
    ) -> None:
        self.module = module
        self.key: Key = module if key is None else key
        self.weight = _parameter(module, weight)
        self.bias = _parameter(module, bias)

    def parts(self) -> Sequence[LinearMap]:
        """The maps that are recorded one by one: the map itself, or each of its groups."""
        return [self]

    def placed(self, tensor: Tensor) -> Tensor:
        """A tensor of this map at its place in a stack of zeros for all maps; itself if alone."""
        if self.part is None:
            return tensor
        assert self.groups is not None
        stack = tensor.new_zeros(self.groups, *tensor.shape)
        stack[self.part] = tensor
        return stack

    def inputs(self, value: Tensor) -> Tensor:
        """The rows a, of shape (N, T, in), or (K, N, T, in)."""
        return value.reshape(len(value), -1, value.shape[-1])

    def gradients(self, value: Tensor) -> Tensor:
        """The rows of the gradient by s, of shape (N, T, out), or (K, N, T, out)."""
        return value.reshape(len(value), -1, value.shape[-1])

    def counted(self, value: Tensor) -> Tensor | None:
        """Which positions (N, T) take part in the product, given its input; None if all do."""
        return None

    def input_moment(
        self, value: Tensor, bias: bool, largest: float, dtype: torch.dtype
    ) -> Tensor | None:
        """The sum of a a' over all positions, the bias's one included, by a shorter way.

        A matrix, or its diagonal for a dimension above `largest` and for inputs that are indices;
        None where there is no shorter way. Positions that do not count are left out.
        """
        return None

    def inputs_per_example(self, value: Tensor) -> int:
        """The numbers that `inputs` makes of an example, by which a batch is cut."""
        return value[0].numel() if len(value) else 0

    def weight_matrix(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as the matrix (out, in) or (K, out, in)."""
        return weight.unflatten(0, (self.groups, -1)) if self.groups else weight

    def weight_tensor(self, matrix: Tensor) -> Tensor:
        """The inverse of `weight_matrix`."""
        return matrix.flatten(0, 1) if self.groups else matrix

    def bias_matrix(self, bias: Tensor) -> Tensor:
        """A tensor of the bias's shape as a column (out, 1) or (K, out, 1)."""
        return (
            bias.unflatten(0, (self.groups, -1)).unsqueeze(-1)
            if self.groups
            else bias.unsqueeze(-1)
        )

    def bias_tensor(self, column: Tensor) -> Tensor:
        """The inverse of `bias_matrix`."""
        return column.flatten()


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """The layer's own parameter of this name; None for none or a computed one (weight norm)."""
    return module._parameters.get(name) if name else None
