"""Losses summed over an example's outputs and averaged over the examples.

This is the convention of the second-order literature: the effect of a damping does not depend on
the number of outputs. torch's `reduction="mean"` divides by that number as well.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MSEPerExample(nn.MSELoss):
    """Squared error `(1/N) sum_n |z_n - t_n|^2` of outputs and targets `(N, ...)`."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "example_mean"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return F.mse_loss(input, target, reduction="sum") / len(input)


class BCEPerExample(nn.BCEWithLogitsLoss):
    """Binary cross-entropy `(1/N) sum_n sum_j log(1 + e^z_nj) - t_nj z_nj` of logits `(N, ...)`."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "example_mean"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return F.binary_cross_entropy_with_logits(input, target, reduction="sum") / len(input)
