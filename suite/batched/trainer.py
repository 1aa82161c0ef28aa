"""The joint steps of replicas, from the first step to the end of the last replica."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from suite.batched.fused_updates import Update
from suite.batched.replica_objective import Gradients, ReplicaObjective
from suite.batched.replicas import Ensemble
from suite.results.directory import RunRecord
from suite.results.status import Status
from suite.training.measures.memory import frozen_garbage_collection
from suite.training.outcome import failure, summary_of
from suite.training.progress import ProgressLine
from suite.training.run_context import RunContext
from suite.training.runner import Outcome
from suite.training.signals import noted
from suite.training.training import Training
from tasks.task import Batch

Step = tuple[float, float]  # its loss and its seconds


class GivenUpError(Exception):
    """A joint evaluation failed: it takes too much memory, or an operator refuses it."""


@dataclass(eq=False)
class Slot:
    """A replica at work.

    Attributes:
        update: its optimizer's step.
        training: its loop, once its record is begun.
        objective: the loss of its next step.
        error: what ended its last step.
    """

    replica: RunContext
    record: RunRecord
    update: Update
    resume: bool = False
    training: Training | None = None
    objective: ReplicaObjective | None = None
    error: Exception | None = None

    def advance(self, step: Step | None) -> Status | None:
        """Log, evaluate and go on to the next step; the status if the training ends here."""
        if self.error is not None:
            raise self.error
        loop = self.loop
        status = loop.begin(resume=self.resume) if step is None else loop.after(*step)
        if status is None:
            objective = loop.before()
            assert isinstance(objective, ReplicaObjective)
            self.objective = objective
        return status

    @property
    def loop(self) -> Training:
        """The training, which has begun."""
        assert self.training is not None
        return self.training

    @property
    def next_loss(self) -> ReplicaObjective:
        """The loss of the next step."""
        assert self.objective is not None
        return self.objective

    @property
    def batch(self) -> Batch:
        """The mini-batch of the next step."""
        return self.loop.batch


class Trainer:
    """Trains replicas together.

    Attributes:
        slots: the replicas at work.
        outcomes: of those that have ended, by run_id.
        signalled: whether somebody wants the batch to end.
    """

    def __init__(self, ensemble: Ensemble, slots: Sequence[Slot]) -> None:
        self.ensemble = ensemble
        self.slots = list(slots)
        self.outcomes: dict[str, Outcome] = {}
        self.signalled = False

    def train(self) -> None:
        """Step until all have ended.

        Raises:
            GivenUpError: a joint evaluation failed; `slots` are those that were at work.
        """
        plan = self.slots[0].replica.plan
        steps = max(slot.replica.plan.steps for slot in self.slots)
        title = f"{len(self.slots)} of {plan.title}"
        line = ProgressLine(title, steps, enabled=plan.workers == 1)
        with ExitStack() as stack:
            for slot in self.slots:
                stack.enter_context(slot.loop.recorder)
            stack.enter_context(noted(lambda: self.signalled, self._note_signal))
            stack.enter_context(line)
            self.ensemble.gather([slot.replica for slot in self.slots])
            self._advance([None] * len(self.slots))
            self._lay_out()
            stack.enter_context(frozen_garbage_collection())
            while self.slots:
                self._step()
                if self.slots:
                    line.update(self.slots[0].replica.state.step, f"{len(self.slots)} at work")

    def _note_signal(self) -> None:
        self.signalled = True

    def _lay_out(self) -> None:
        if self.slots and all(slot.update.elementwise for slot in self.slots):
            with _giving_up():
                self.ensemble.stack.follow_gradients([slot.batch for slot in self.slots])

    def _step(self) -> None:
        """One step of all: losses and gradients together, then each replica's own update."""
        clock = self.slots[0].replica.clock
        start = clock()
        with _giving_up():
            losses, gradients = self.ensemble.stack.losses_and_gradients(
                [slot.batch for slot in self.slots]
            )
            values = losses.tolist()
        self._update(losses, gradients)
        seconds = (clock() - start) / len(values)
        self.ensemble.moved()
        self._advance([(value, seconds) for value in values])

    def _update(self, losses: Tensor, gradients: Gradients) -> None:
        count = len(self.slots)
        rows = [[None] * count if gradient is None else gradient.unbind() for gradient in gradients]
        for place, slot in enumerate(self.slots):
            try:
                slot.update.step(slot.next_loss, losses[place], [row[place] for row in rows])
            except Exception as error:  # of one replica's optimizer
                slot.error = error

    def _advance(self, steps: Sequence[Step | None]) -> None:
        """Let each replica log, evaluate and end; those that ended leave."""
        if self.signalled:
            self.ensemble.world.ask()
        pairs = zip(self.slots, steps, strict=True)
        ended = [slot for slot, step in pairs if self._has_ended(slot, step)]
        self.ensemble.release([slot.replica for slot in ended])
        self.slots = [slot for slot in self.slots if slot not in ended]

    def _has_ended(self, slot: Slot, step: Step | None) -> bool:
        message = ""
        try:
            status = slot.advance(step)
        except Exception as error:
            status, message = failure(error, slot.replica.world)
        if status is None:
            return False
        plan, summary = slot.replica.plan, summary_of(slot.loop, status, message)
        summary |= {"parallel": True, "batched": self.ensemble.size}
        slot.record.finish(summary)
        self.outcomes[plan.run_id] = Outcome(summary, slot.replica.task.metric)
        return True


@contextmanager
def _giving_up() -> Iterator[None]:
    """A failure of a joint evaluation is no replica's own failure."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise GivenUpError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
