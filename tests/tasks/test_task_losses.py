"""The losses that are summed over outputs and averaged over examples."""

from __future__ import annotations

import torch
from torch import nn

from tasks.losses import BCEPerExample, MSEPerExample


def test_mse_is_the_squared_distance_per_example() -> None:
    outputs, targets = torch.randn(5, 3, 2), torch.randn(5, 3, 2)
    loss = MSEPerExample()
    assert isinstance(loss, nn.MSELoss)
    assert loss.reduction == "example_mean"
    torch.testing.assert_close(loss(outputs, targets), nn.MSELoss()(outputs, targets) * 6)


def test_bce_is_the_cross_entropy_per_example() -> None:
    outputs, targets = torch.randn(5, 7), torch.rand(5, 7)
    loss = BCEPerExample()
    assert isinstance(loss, nn.BCEWithLogitsLoss)
    assert loss.reduction == "example_mean"
    by_hand = (torch.log1p(outputs.exp()) - targets * outputs).sum() / 5
    torch.testing.assert_close(loss(outputs, targets), by_hand)
