"""The weights that an optimizer wants to be judged by, where it trains at others (schedule-free, averages)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from suite.config.device import Clock
from suite.training.optimizer import Averaging
from tasks.task import Task

STATISTICS_BATCHES = (
    10  # of training data, that batch normalisation sees anew at weights it has not been trained at
)


@dataclass
class Trip:
    """What it took to get to the judged weights and back.

    Attributes:
        seconds: of the optimizer's switches and of new running statistics; known once the way back
            is behind.
        passes: forward passes that the statistics took.
    """

    seconds: float = 0.0
    passes: int = 0


@contextmanager
def judged_weights(
    model: nn.Module,
    optimizer: Averaging,
    task: Task,
    seed: int,
    clock: Clock,
    *,
    renews: bool = True,
) -> Iterator[Trip]:
    """Set the model to the weights that its optimizer is judged by, for the duration of the context.

    Afterwards the weights and statistics of the training are put back bit for bit (switching back
    by arithmetic would leave a rounding error), so that evaluations leave no trace in a run.

    Args:
        seed: of the training data, the same every time, that the running statistics of batch
            normalisation are taken of, and of what a forward pass draws there.
        clock: seconds, as a run counts them.
        renews: whether this process takes the statistics anew; of several one does.
    """
    trip = Trip()
    statistics = _statistics(model)
    held = [(t, t.detach().clone()) for t in (*trained(model), *statistics)]
    began = clock()
    optimizer.eval()
    there = clock()
    # a method that averages only where it is asked to has gone nowhere, and the statistics are
    # those of its weights
    moved = any(not torch.equal(tensor, value) for tensor, value in held)
    needed = STATISTICS_BATCHES if moved and statistics else 0
    inputs = [batch[0] for batch in islice(task.batches("train", seed), needed)]
    renewing = clock()
    if inputs and renews:
        _renew_statistics(model, inputs, seed)
    ready = clock()
    try:
        yield trip
    finally:
        leaving = clock()
        optimizer.train()
        left = clock()
        with torch.no_grad():
            for tensor, value in held:
                tensor.copy_(value)
        trip.seconds, trip.passes = there - began + ready - renewing + left - leaving, len(inputs)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimizer changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _statistics(model: nn.Module) -> list[Tensor]:
    """What batch normalisation keeps of the batches it has seen."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers() if norm.track_running_stats]


def _renew_statistics(model: nn.Module, inputs: list[Tensor], seed: int) -> None:
    """Running statistics at the present weights: averages over the batches, each counting the same."""
    place = next(model.parameters()).device
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        update_bn(inputs, model)
