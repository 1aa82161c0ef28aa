"""Classifiers whose weights may become zero group by group, and are counted."""

from __future__ import annotations

from torch import nn

from tasks.vision.cnn import CNN
from tasks.vision.mlp import MLP


class GroupSparsity:
    """Adds to the metrics of a classifier how much of it could be left out.

    `group_sparsity` is the share of the groups that are exactly zero over all weights with two
    dimensions or more, a group being all that leaves one input of a layer (a column of a matrix, an
    input channel of a kernel): such an input, and what computes it, can be cut away without
    changing the function. `zero_weights` is the share of single zeros. The regulariser that makes
    them so is the optimizer's: the loss here is the plain cross-entropy.
    """

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The classifier's metrics, and these two."""
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
    """The small convolutional classifier, `group_sparsity` and `zero_weights` among its metrics."""


class StructuredSparsityMLP(GroupSparsity, MLP):
    """The fully connected classifier, `group_sparsity` and `zero_weights` among its metrics."""
