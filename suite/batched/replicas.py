"""One copy among many.

An ordinary training whose losses, gradients, data and evaluations come from the company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimizers import Objective
from suite.batched.replica_objective import Row
from suite.batched.stacked_model import Stack
from suite.config.plan import Plan
from suite.results.status import Status
from suite.training.measures import oracle_costs
from suite.training.optimizer import averages
from suite.training.seeds import stream
from suite.training.summary import Summary
from suite.training.training import CHECKPOINT_SHARE, Training
from tasks.task import Batch, Task

LEAST_SAVE = 0.005  # seconds that a checkpoint is taken to last before one has been written
MOST_KEPT = 2**26  # numbers of joint outputs that an evaluation may keep


class Stream:
    """One stream of mini-batches, drawn once for all who are at the same step."""

    def __init__(self, batches: Iterator[Batch], start: int) -> None:
        self._batches = batches
        self._next = start
        self._latest: Batch | None = None

    def since(self, start: int) -> Iterator[Batch]:
        """The batches from a step on; those who read must keep in step."""
        for number in count(start):
            if number == self._next:
                self._latest = next(self._batches)
                self._next += 1
            if self._latest is None or number != self._next - 1:
                raise RuntimeError(
                    f"batch {number} is asked for when the stream is at {self._next - 1}"
                )
            yield self._latest


class Company:
    """What the copies of a batch share.

    The task, the streams of data, the oracle costs, joint evaluations.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = 0
        self.copies: list[Copy] = []
        self._stack: Stack | None = None
        self.costs: oracle_costs.Costs | None = None
        self.signalled = False  # whether somebody wants all of this to end
        # the same, as it was at the end of the last joint step, so that all end at one step
        self.asked = False
        self._streams: dict[tuple[int, int], Stream] = {}
        self._replays: dict[str, Replay] = {}
        self._direct = False

    @property
    def stack(self) -> Stack:
        """The parameters of those at work."""
        if self._stack is None:
            raise RuntimeError("the copies have not been gathered")
        return self._stack

    def gather(self, copies: Sequence[Copy]) -> None:
        """Put the copies' parameters into one stack."""
        self.copies = list(copies)
        self._stack = Stack([copy.model for copy in copies], self.task.loss_fn, self.task.l2)
        self._direct = any(averages(copy.optimizer) for copy in copies)

    def release(self, ended: Sequence[Copy]) -> None:
        """Go on without these copies."""
        if not ended:
            return
        self.stack.keep([place for place, copy in enumerate(self.copies) if copy not in ended])
        self.copies = [copy for copy in self.copies if copy not in ended]
        self._replays.clear()

    def moved(self) -> None:
        """The parameters are not those of the last evaluation any more."""
        self._replays.clear()

    def batches(self, seed: int, start: int) -> Iterator[Batch]:
        """The training data of a seed, from a step on."""
        key = seed, start
        if key not in self._streams:
            self._streams[key] = Stream(
                self.task.batches("train", stream(seed, "data"), start=start), start
            )
        return self._streams[key].since(start)

    def evaluate(self, copy: Copy, split: str) -> dict[str, float]:
        """The metrics of one copy, its outputs computed together with those of the others where that can be done."""
        if self._direct or len(self.copies) < 2:
            return self.task.evaluate(copy.model, split)
        replay = self._replays.setdefault(split, Replay(self.stack, split))
        try:
            return replay.evaluate(self.task, copy.model, self.copies.index(copy))
        except (
            RuntimeError
        ):  # an evaluation that differentiates, or draws random numbers, or has no batching rule
            self._direct = True
            return self.task.evaluate(copy.model, split)


class Replay:
    """An evaluation of all copies.

    The first one's forward passes compute all outputs, the others' repeat them.
    """

    def __init__(self, stack: Stack, split: str) -> None:
        self.split = split
        self._stack = stack
        self._calls: list[tuple[Tensor, Tensor]] = []
        self._kept = 0

    def evaluate(self, task: Task, model: nn.Module, place: int) -> dict[str, float]:
        """The metrics of the copy at a place."""
        forward, number = model.forward, count()

        def replayed(*inputs: Any, **options: Any) -> Any:
            if (
                len(inputs) != 1
                or options
                or not isinstance(inputs[0], Tensor)
                or torch.is_grad_enabled()
            ):
                return forward(*inputs, **options)
            found = self._outputs(next(number), inputs[0])
            return forward(*inputs) if found is None else found[place]

        model.forward = replayed
        try:
            return task.evaluate(model, self.split)
        finally:
            del model.forward

    def _outputs(self, number: int, inputs: Tensor) -> Tensor | None:
        """The outputs of all at an evaluation's call of this number.

        None if they are not to be had.
        """
        if number < len(self._calls):
            known, outputs = self._calls[number]
            same = known.data_ptr() == inputs.data_ptr() and known.shape == inputs.shape
            return outputs if same and known.stride() == inputs.stride() else None
        if number > len(self._calls) or self._kept > MOST_KEPT:
            return None
        outputs = self._stack.outputs(inputs)
        self._calls.append((inputs, outputs))
        self._kept += outputs.numel()
        return outputs


class Copy(Training):
    """A training that is stepped together with others; its record is that of a run by itself.

    Its seconds are its share of the joint steps.
    """

    kind: ClassVar[type[Objective]] = Row

    def __init__(self, plan: Plan, task: Task, place: torch.device, company: Company) -> None:
        self.company = company
        super().__init__(plan, task, place)
        self.saved_at, self.save_seconds = perf_counter(), LEAST_SAVE

    def prepare(self) -> None:
        """Set the streams to their start; what is measured off the clock is measured once for all."""
        if self.company.costs is None:
            with torch.random.fork_rng(devices=[self.place] if self.place.type == "cuda" else []):
                self.company.costs = self._oracle_costs()
        self.costs = self.company.costs
        self.fresh_drawn = 0
        self.generator.manual_seed(stream(self.plan.seed, "optimizer"))

    def _batches(self) -> Iterator[Batch]:
        return self.company.batches(self.plan.seed, self.step)

    def _measured(self, split: str) -> dict[str, float]:
        return self.company.evaluate(self, split)

    @property
    def _shown(self) -> bool:
        return False

    @property
    def _asked(self) -> bool:
        return self.company.asked

    def _checkpoint_is_due(self) -> bool:
        """All copies together spend the share of the time that a run by itself may."""
        return (
            perf_counter() - self.saved_at
            > len(self.company.copies) * self.save_seconds / CHECKPOINT_SHARE
        )

    def _state(self) -> dict[str, Any]:
        """A row is a view of the stack, all of which would be written with it."""
        own: dict[str, Any] = _cloned(super()._state())
        return own

    def peak(self) -> int | None:
        """The memory of a step by itself, two of which a copy takes for it."""
        with torch.random.fork_rng(devices=[self.place] if self.place.type == "cuda" else []):
            return self._warm_up()

    def summarise(self, status: Status, message: str) -> Summary:
        """The summary of a run by itself, marked as one of a batch."""
        return {**self._summarise(status, message), "parallel": True, "batched": self.company.size}


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value
