"""Classifiers that report the share of zero groups of weights."""

from __future__ import annotations

from torch import nn

from tasks.vision.cnn import CNN
from tasks.vision.mlp import MLP


class GroupSparsity:
    """Adds the shares of zero groups and zero weights to a classifier's metrics.

    `group_sparsity` is the share of groups that are exactly zero over all weights with two
    dimensions or more. A group has all weights of one input of a layer (a column of a matrix, an
    input channel of a kernel): an input with a zero group can be removed without changing the
    function. `zero_weights` is the share of zero weights. The regulariser is the optimizer's: the
    loss is the plain cross-entropy.
    """

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The classifier's metrics, with `group_sparsity` and `zero_weights`."""
        metrics: dict[str, float] = super().evaluate(model, split)  # type: ignore[misc]
        weights = [parameter.detach() for parameter in model.parameters() if parameter.ndim > 1]
        groups = [(weight == 0).movedim(1, 0).flatten(1).all(dim=1) for weight in weights]
        return metrics | {
            "group_sparsity": sum(int(zero.sum()) for zero in groups)
            / sum(len(zero) for zero in groups),
            "zero_weights": sum(int((weight == 0).sum()) for weight in weights)
            / sum(weight.numel() for weight in weights),
        }


class StructuredSparsityCNN(GroupSparsity, CNN):
    """The small convolutional classifier with `group_sparsity` and `zero_weights`."""


class StructuredSparsityMLP(GroupSparsity, MLP):
    """The fully connected classifier with `group_sparsity` and `zero_weights`."""
