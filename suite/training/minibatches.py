"""The mini-batches of a run, and the objective on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from optimizers import Objective
from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from suite.config.plan import Plan
from suite.training.seeds import stream
from suite.training.state import RunState
from tasks.task import Batch, Task


class Minibatches:
    """What a run draws from its task, all of it decided by the plan's seed.

    Attributes:
        generator: the source of sampled targets.
    """

    def __init__(self, plan: Plan, task: Task, state: RunState) -> None:
        self.plan = plan
        self.task = task
        self.state = state
        self.generator = torch.Generator(task.device)

    def first(self) -> Batch:
        """The mini-batch of the first step."""
        return next(self.task.batches("train", stream(self.plan.seed, "data")))

    def since(self, step: int) -> Iterator[Batch]:
        """The mini-batches of the steps after `step`."""
        return self.task.batches("train", stream(self.plan.seed, "data"), start=step)

    def fresh(self) -> Batch:
        """Another mini-batch within a step, from a stream of its own."""
        seed, start = stream(self.plan.seed, "fresh"), self.state.fresh_drawn
        self.state.fresh_drawn += 1
        return next(self.task.batches("train", seed, start=start))

    def objective(
        self,
        model: torch.nn.Module,
        *,
        compiled: bool | None = None,
        counts: Counter[str] | None = None,
        ranks: SingleProcess = SINGLE_PROCESS,
        parts: int = 1,
        batch: Batch | None = None,
    ) -> Objective:
        """The loss of the first mini-batch, or of `batch`.

        `compiled` is the plan's choice unless it is given.
        """
        inputs, targets = batch or self.first()
        compiled = self.plan.config["compile"] if compiled is None else compiled
        forward: Any = torch.compile(model) if compiled else model
        return Objective(
            forward,
            self.task.loss_fn,
            inputs,
            targets,
            l2=self.task.l2,
            sampler=self.fresh,
            generator=self.generator,
            autocast=self.plan.precision == "bf16",
            counts=counts,
            ranks=ranks,
            parts=parts,
            clip=self.plan.config["clip_grad_norm"],
        )
