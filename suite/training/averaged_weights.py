"""Evaluation weights of optimizers that train at others: schedule-free methods, averages."""

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

# of training data, from which batch normalisation takes new statistics at the evaluation weights
STATISTICS_BATCHES = 10


@dataclass
class Switch:
    """The cost of the evaluation weights, complete when the training weights are set again.

    Attributes:
        seconds: of the optimizer's switches and of new running statistics.
        passes: forward passes for the statistics.
    """

    seconds: float = 0.0
    passes: int = 0


@contextmanager
def evaluation_weights(
    model: nn.Module,
    optimizer: Averaging,
    task: Task,
    seed: int,
    clock: Clock,
    *,
    renews: bool = True,
) -> Iterator[Switch]:
    """Set the model to the evaluation weights of its optimizer, for the duration of the context.

    Afterwards the training weights and statistics are put back bit for bit, as switching back by
    arithmetic would leave a rounding error: an evaluation leaves no trace in a run.

    Args:
        model: the model.
        optimizer: its optimizer.
        task: the source of data for new statistics.
        seed: of the training data from which batch normalisation takes new statistics, and of the
            random numbers of these forward passes.
        clock: seconds, as a run counts them.
        renews: whether this process takes new statistics; of several one does.
    """
    switch = Switch()
    statistics = _statistics(model)
    training = [(t, t.detach().clone()) for t in (*trained(model), *statistics)]
    began = clock()
    optimizer.eval()
    switched = clock()
    # where a method averages on request only, nothing has moved and the statistics still fit
    moved = any(not torch.equal(tensor, value) for tensor, value in training)
    count = STATISTICS_BATCHES if moved and statistics else 0
    inputs = [batch[0] for batch in islice(task.batches("train", seed), count)]
    renewing = clock()
    if inputs and renews:
        _renew_statistics(model, inputs, seed)
    ready = clock()
    try:
        yield switch
    finally:
        leaving = clock()
        optimizer.train()
        left = clock()
        with torch.no_grad():
            for tensor, value in training:
                tensor.copy_(value)
        switch.seconds = switched - began + ready - renewing + left - leaving
        switch.passes = len(inputs)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimizer changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics of batch normalisation."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers() if norm.track_running_stats]


def _renew_statistics(model: nn.Module, inputs: list[Tensor], seed: int) -> None:
    """Set running statistics to plain averages over the batches, at the present weights."""
    place = next(model.parameters()).device
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        update_bn(inputs, model)
