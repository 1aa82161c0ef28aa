"""The replicas of a batch: what they share, and what each of them hands to its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimizers import Objective
from suite.batched.replica_objective import ReplicaObjective
from suite.batched.stacked_model import StackedModel
from suite.config.plan import Plan
from suite.training.checkpoint import CHECKPOINT_SHARE, Checkpoint
from suite.training.distributed import World
from suite.training.minibatches import Minibatches
from suite.training.optimizer import averages
from suite.training.run_context import RunContext, build_context
from suite.training.seeds import stream
from suite.training.state import RunState
from tasks.task import Batch, Task

LEAST_SAVE = 0.005  # seconds that a checkpoint is taken to last before one has been written
MOST_OUTPUTS = 2**26  # numbers of joint outputs that an evaluation may hold


class SharedStream:
    """One stream of mini-batches, drawn once for all replicas at the same step."""

    def __init__(self, batches: Iterator[Batch], start: int) -> None:
        self._batches = batches
        self._next = start
        self._latest: Batch | None = None

    def since(self, start: int) -> Iterator[Batch]:
        """The mini-batches from a step on; the readers must keep in step."""
        for number in count(start):
            if number == self._next:
                self._latest = next(self._batches)
                self._next += 1
            if self._latest is None or number != self._next - 1:
                raise RuntimeError(
                    f"batch {number} is asked for when the stream is at {self._next - 1}"
                )
            yield self._latest


class Ensemble:
    """The replicas that are trained together: their stack, their data, their evaluations.

    Attributes:
        size: replicas that began together.
        replicas: those at work.
        world: the process; it is asked to end between two joint steps, so that all replicas end
            at the same step.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = 0
        self.replicas: list[RunContext] = []
        self.world = World()
        self._stack: StackedModel | None = None
        self._streams: dict[tuple[int, int], SharedStream] = {}
        self._replays: dict[str, JointEvaluation] = {}
        self._one_by_one = False

    @property
    def stack(self) -> StackedModel:
        """The parameters of the replicas at work."""
        if self._stack is None:
            raise RuntimeError("the replicas have not been gathered")
        return self._stack

    def gather(self, replicas: Sequence[RunContext]) -> None:
        """Put the replicas' parameters into one stack."""
        self.replicas = list(replicas)
        models = [replica.model for replica in replicas]
        self._stack = StackedModel(models, self.task.loss_fn, self.task.l2)
        self._one_by_one = any(averages(replica.optimizer) for replica in replicas)

    def release(self, ended: Sequence[RunContext]) -> None:
        """Go on without these replicas."""
        if not ended:
            return
        places = [n for n, replica in enumerate(self.replicas) if replica not in ended]
        self.stack.keep(places)
        self.replicas = [self.replicas[place] for place in places]
        self.moved()

    def moved(self) -> None:
        """Forget the last evaluation: the parameters have moved."""
        self._replays.clear()

    def batches(self, seed: int, start: int) -> Iterator[Batch]:
        """The training data of a seed, from a step on."""
        key = seed, start
        if key not in self._streams:
            batches = self.task.batches("train", stream(seed, "data"), start=start)
            self._streams[key] = SharedStream(batches, start)
        return self._streams[key].since(start)

    def evaluate(self, replica: RunContext, split: str) -> dict[str, float]:
        """The metrics of one replica, by outputs of all replicas where that is possible."""
        if self._one_by_one or len(self.replicas) < 2:
            return self.task.evaluate(replica.model, split)
        replay = self._replays.setdefault(split, JointEvaluation(self.stack, split))
        try:
            return replay.evaluate(self.task, replica.model, self.replicas.index(replica))
        except RuntimeError:  # it differentiates, draws random numbers, or has no batching rule
            self._one_by_one = True
            return self.task.evaluate(replica.model, split)


class JointEvaluation:
    """An evaluation of all replicas: the forward passes of the first compute all outputs."""

    def __init__(self, stack: StackedModel, split: str) -> None:
        self.split = split
        self._stack = stack
        self._calls: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def evaluate(self, task: Task, model: nn.Module, place: int) -> dict[str, float]:
        """The metrics of the replica at a place."""
        forward, number = model.forward, count()

        def replayed(*inputs: Any, **options: Any) -> Any:
            plain = len(inputs) == 1 and not options and isinstance(inputs[0], Tensor)
            if not plain or torch.is_grad_enabled():
                return forward(*inputs, **options)
            outputs = self._outputs(next(number), inputs[0])
            return forward(*inputs) if outputs is None else outputs[place]

        model.forward = replayed
        try:
            return task.evaluate(model, self.split)
        finally:
            del model.forward

    def _outputs(self, number: int, inputs: Tensor) -> Tensor | None:
        """The outputs of all replicas at an evaluation's call of this number, if it has them."""
        if number < len(self._calls):
            known, outputs = self._calls[number]
            same = known.data_ptr() == inputs.data_ptr() and known.shape == inputs.shape
            return outputs if same and known.stride() == inputs.stride() else None
        if number > len(self._calls) or self._held > MOST_OUTPUTS:
            return None
        outputs = self._stack.outputs(inputs)
        self._calls.append((inputs, outputs))
        self._held += outputs.numel()
        return outputs


class ReplicaMinibatches(Minibatches):
    """The mini-batches of a replica: those of its seed, drawn once for all replicas."""

    objective_class: ClassVar[type[Objective]] = ReplicaObjective

    def __init__(self, plan: Plan, task: Task, state: RunState, ensemble: Ensemble) -> None:
        super().__init__(plan, task, state)
        self.ensemble = ensemble

    def since(self, step: int) -> Iterator[Batch]:
        """The mini-batches after `step`; the replicas must keep in step."""
        return self.ensemble.batches(self.plan.seed, step)


class ReplicaCheckpoint(Checkpoint):
    """The checkpoint of a replica; all of them together keep to the share of one run."""

    def __init__(self, context: RunContext, path: Path, ensemble: Ensemble) -> None:
        super().__init__(context, path)
        self.ensemble = ensemble
        self.saved_at, self.save_seconds = perf_counter(), LEAST_SAVE

    def is_due(self) -> bool:
        """Whether so much time has passed that the checkpoints of all replicas keep to a share."""
        seconds = len(self.ensemble.replicas) * self.save_seconds
        return perf_counter() - self.saved_at > seconds / CHECKPOINT_SHARE

    def state_dict(self) -> dict[str, Any]:
        """A copy: a replica's tensors are views of the stack, which would be written whole."""
        own: dict[str, Any] = _cloned(super().state_dict())
        return own


def build_replica(
    plan: Plan,
    task: Task,
    ensemble: Ensemble,
    minibatches: type[ReplicaMinibatches] = ReplicaMinibatches,
) -> RunContext:
    """The run of a replica.

    Raises:
        UnsupportedError, ValueError: the optimizer cannot be built.
    """
    own = partial(minibatches, ensemble=ensemble)
    return build_context(plan, task, task.device, ensemble.world, own)


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value
