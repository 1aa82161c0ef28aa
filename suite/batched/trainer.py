"""The joint steps of copies that are at work together, from the first to the end of the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from torch import Tensor

from optimizers import Objective
from suite.batched.fused_updates import Update
from suite.batched.replica_objective import Row
from suite.batched.replicas import Company, Copy
from suite.results.directory import RunRecord
from suite.results.status import Status
from suite.training.progress import ProgressLine
from suite.training.runner import Outcome
from suite.training.signals import noted
from suite.training.training import Loop, Taken, advanced
from tasks.task import Batch


class GivenUpError(Exception):
    """The copies cannot be evaluated together after all.

    They take too much memory, or an operator refuses them.
    """


@dataclass(eq=False)
class Member:
    """A copy at work: its record, its update, its loop, and the loss that it waits to be stepped on."""

    copy: Copy
    record: RunRecord
    update: Update
    loop: Loop | None = None
    current: Row | None = None
    failure: Exception | None = None

    def advance(self, taken: Taken | None) -> Status | None:
        """Log, judge and go on to the next step; the status if the training ends here."""
        assert self.loop is not None
        found = advanced(self.loop, taken)
        if isinstance(found, Objective):
            assert isinstance(found, Row)
            self.current = found
            return None
        return found

    @property
    def row(self) -> Row:
        """The loss of the next step."""
        assert self.current is not None
        return self.current

    @property
    def batch(self) -> Batch:
        """The mini-batch of the next step."""
        return self.row.inputs, self.row.targets


class Crew:
    """Members that are trained together.

    `found` has the outcomes of those that have ended, by run_id.
    """

    def __init__(self, company: Company, members: Sequence[Member]) -> None:
        self.company = company
        self.members = list(members)
        self.found: dict[str, Outcome] = {}

    def train(self) -> None:
        """Step until all have ended.

        Raises:
            GivenUpError: a joint evaluation failed; those that were at work are still `members`.
        """
        steps = max(member.copy.plan.steps for member in self.members)
        plan = self.members[0].copy.plan
        line = ProgressLine(
            f"{len(self.members)} of {plan.title}", steps, enabled=plan.workers == 1
        )
        with ExitStack() as stack:
            for member in self.members:
                assert member.loop is not None
                stack.enter_context(closing(member.loop))
            stack.enter_context(
                noted(
                    lambda: self.company.signalled, lambda: setattr(self.company, "signalled", True)
                )
            )
            stack.enter_context(line)
            self.company.gather([member.copy for member in self.members])
            self._tell([None] * len(self.members))
            self._lay_out()
            while self.members:
                self._step()
                if self.members:
                    line.update(self.members[0].copy.step, f"{len(self.members)} at work")

    def _lay_out(self) -> None:
        if self.members and all(member.update.elementwise for member in self.members):
            with _giving_up():
                self.company.stack.follow_gradients([member.batch for member in self.members])

    def _step(self) -> None:
        """One step of all: losses and gradients together, then each copy's own update."""
        clock = self.members[0].copy.clock
        start = clock()
        with _giving_up():
            losses, gradients = self.company.stack.losses_and_gradients(
                [member.batch for member in self.members]
            )
            values = losses.tolist()
        self._update(losses, gradients)
        took = (clock() - start) / len(values)
        self.company.moved()
        self._tell([(value, took) for value in values])

    def _update(self, losses: Tensor, gradients: Sequence[Tensor | None]) -> None:
        count = len(self.members)
        rows = [[None] * count if gradient is None else gradient.unbind() for gradient in gradients]
        for place, member in enumerate(self.members):
            try:
                member.update.step(member.row, losses[place], [row[place] for row in rows])
            except Exception as error:  # of one copy's optimizer
                member.failure = error

    def _tell(self, taken: Sequence[Taken | None]) -> None:
        """Let each copy log, judge and end; those that ended leave."""
        self.company.asked = self.company.signalled
        ended = [
            member
            for member, said in zip(self.members, taken, strict=True)
            if self._has_ended(member, said)
        ]
        self.company.release([member.copy for member in ended])
        self.members = [member for member in self.members if member not in ended]

    def _has_ended(self, member: Member, taken: Taken | None) -> bool:
        message = ""
        try:
            if member.failure is not None:
                raise member.failure
            status = member.advance(taken)
        except Exception as error:
            status, message = member.copy.failure(error)
        if status is None:
            return False
        summary = member.copy.summarise(status, message)
        member.record.finish(summary)
        self.found[member.copy.plan.run_id] = Outcome(summary, member.copy.task.metric)
        return True


@contextmanager
def _giving_up() -> Iterator[None]:
    """What fails in a joint evaluation is no copy's own failure."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise GivenUpError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
