"""One process of a study: it claims trials, runs them and records them, until none is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from suite.config.plan import Plan
from suite.training.runner import Outcome
from suite.training.training import Watch
from suite.tune import claims
from suite.tune.execution import (
    execute,
    execute_batch,
    plans_of,
    reason_against_batch,
    trial_of,
)
from suite.tune.halving import Halt, rungs
from suite.tune.journal import Claim, Journal
from suite.tune.study import HALVING, Study
from suite.tune.trial import PRUNED, Trial

PAUSE = 0.5  # seconds between two looks at the trials of other processes
PATIENCE = 20 * PAUSE  # until a line says so

Done = Iterator[tuple[Claim, list[Plan], list[Outcome]]]


class Worker:
    """One process that works on the studies.

    Args:
        of: the studies.
        parent: the process that started this one; after its end no further trial is begun.
    """

    def __init__(self, of: Sequence[Study], parent: int | None = None) -> None:
        me = claims.myself()
        self.me, self.parent = me, parent
        self.journals = [Journal(study, me) for study in of]
        self.single: set[str] = set()  # studies whose trials do not fit into a batch

    def work(self) -> None:
        """Run the missing trials, and wait for those of other processes, until all have ended."""
        waited = 0.0
        with claims.present(self.me, self.journals[0].workers), termination_interrupts():
            while self.parent is None or os.getppid() == self.parent:
                if claimed := self._next():
                    self._execute(*claimed)
                    waited = 0.0
                elif all(journal.complete for journal in self.journals):
                    return
                else:
                    time.sleep(PAUSE)
                    waited += PAUSE
                    if waited == PATIENCE:
                        self._say_waiting()

    def _next(self) -> tuple[Journal, list[Claim]] | None:
        for journal in self.journals:
            for trial in journal.decide():
                self._say(journal.study, trial)
            if claims := journal.claim(self._most(journal.study)):
                return journal, claims
        return None

    def _most(self, study: Study) -> int:
        """How many trials are claimed at once: no more than this process's share."""
        share = -(-study.trials // study.request.jobs)
        return 1 if study.name in self.single else min(study.request.batched, share)

    def _execute(self, journal: Journal, claims: Sequence[Claim]) -> None:
        left = list(claims)
        try:
            for claim, plans, outcomes in self._outcomes(journal.study, claims):
                trial = trial_of(claim.number, claim.settings, plans, outcomes)
                left.remove(claim)
                if trial.status == PRUNED:
                    journal.pause(claim, trial)
                    continue
                journal.record(claim, trial)
                self._say(journal.study, trial)
        finally:
            journal.give_back(left)

    def _outcomes(self, study: Study, claims: Sequence[Claim]) -> Done:
        """The runs of the trials: all at once as a batch, else those of the first."""
        planned = [(claim, plans_of(study, claim.settings)) for claim in claims]
        if study.request.batched > 1 and study.name not in self.single:
            every = [plan for _, plans in planned for plan in plans]
            if (reason := reason_against_batch(every)) is None:
                outcomes = iter(execute_batch(every))
                for claim, plans in planned:
                    yield claim, plans, [next(outcomes) for _ in plans]
                return
            print(f"{study.label} on {study.problem}, not batched: {reason}", flush=True)
            self.single.add(study.name)
        claim, plans = planned[0]
        yield claim, plans, [execute(plan, _watch(study, claim, plan)) for plan in plans]

    def _say(self, study: Study, trial: Trial) -> None:
        """A line about a trial that has ended."""
        count = sum(len(journal.recorded()) for journal in self.journals)
        total = sum(journal.study.trials for journal in self.journals)
        value = "" if trial.value is None else f", {trial.metric} {trial.value:.4g}"
        print(
            f"[{count}/{total}] {study.label} on {study.problem}, {trial.settings}: "
            f"{trial.status}{value}",
            flush=True,
        )

    def _say_waiting(self) -> None:
        missing = sum(journal.study.trials - len(journal.recorded()) for journal in self.journals)
        print(
            f"waiting for {missing} trial{'s' if missing > 1 else ''} of another process",
            flush=True,
        )


def _watch(study: Study, claim: Claim, plan: Plan) -> Watch | None:
    ahead = rungs(plan.steps)[claim.rung :] if study.request.pruner == HALVING else []
    return Halt(ahead[0], plan.steps) if ahead else None


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Make a termination an interruption, as Ctrl-C is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
