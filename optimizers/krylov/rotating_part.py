"""Rotating parts of a mini-batch."""

from __future__ import annotations

from math import ceil

import torch

from optimizers.objective import Objective


def rotating_part(objective: Objective, share: float, turn: int) -> Objective:
    """The loss on a share of the examples, a different part each turn; the whole for a share of 1.

    The parts are consecutive: the examples of a mini-batch are in random order already.
    """
    if share == 1:
        return objective
    count = len(objective.inputs)
    size = ceil(share * count)
    index = torch.arange(turn * size, (turn + 1) * size, device=objective.inputs.device)
    return objective.subset(index % count)
