"""The checkpoint of a run: what a continuation needs, and when it is due."""

from __future__ import annotations

import io
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from suite.files import write_atomically
from suite.training.optimizer import averages
from suite.training.run_context import RunContext
from suite.training.state import failures_of, restore_failures

CHECKPOINT_SHARE = 0.005  # of a run's time that may go into checkpoints


class Checkpoint:
    """Writes the state of a run to one file, and reads it."""

    def __init__(self, context: RunContext, path: Path) -> None:
        self.context = context
        self.path = path
        self.saved_at = self.save_seconds = 0.0

    def is_due(self) -> bool:
        """Whether so much time has passed that another checkpoint keeps to its share."""
        return perf_counter() - self.saved_at > self.save_seconds / CHECKPOINT_SHARE

    def save(self) -> None:
        """Write the state, collected from all processes."""
        began = perf_counter()
        state = self.state_dict()  # in every process: a method may share its state out
        if self.context.world.leads:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomically(self.path, buffer.getvalue())
        self.saved_at = perf_counter()
        self.save_seconds = self.saved_at - began

    def state_dict(self) -> dict[str, Any]:
        """All that a continuation needs."""
        context = self.context
        optimizer, schedule, ranks = context.optimizer, context.schedule, context.ranks
        on_gpu = context.place.type == "cuda"
        return {
            "model": context.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": None if schedule is None else schedule.state_dict(),
            "numbers": {**context.state.to_dict(), "failures": failures_of(optimizer)},
            "objective": context.objective.state_dict(),
            "generator": context.minibatches.generator.get_state(),
            "host_generator": ranks.all_gather(torch.get_rng_state()[None]),
            "device_generator": ranks.all_gather(torch.cuda.get_rng_state(context.place)[None])
            if on_gpu
            else None,
        }

    def restore(self) -> None:
        """Go on from the file."""
        context = self.context
        state = torch.load(self.path, map_location=context.place, weights_only=True)
        context.model.load_state_dict(state["model"])
        context.optimizer.load_state_dict(state["optimizer"])
        if averages(context.optimizer):  # the last checkpoint of a run holds evaluation weights
            context.optimizer.train()
        if context.schedule is not None:
            context.schedule.load_state_dict(state["schedule"])
        context.state.restore(state["numbers"])
        restore_failures(context.optimizer, state["numbers"]["failures"])
        context.objective.load_state_dict(state["objective"])
        context.minibatches.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(self._own(state["host_generator"]))
        if state["device_generator"] is not None:
            torch.cuda.set_rng_state(self._own(state["device_generator"]), context.place)

    def _own(self, states: Tensor) -> Tensor:
        """This process's row of the random states of all."""
        ranks = self.context.ranks
        # a copy, as torch does not look at a view's offset
        return states.cpu().view(ranks.size, -1)[ranks.rank].clone()
