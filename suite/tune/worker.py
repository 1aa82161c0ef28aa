"""One process of a study: it claims trials, runs them and records them, until none is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from suite.config.plan import Plan
from suite.training.training import Watch
from suite.tune import claims
from suite.tune.execution import execute, plans_of, trial_of
from suite.tune.halving import Halt, rungs
from suite.tune.journal import Claim, Journal
from suite.tune.study import HALVING, Study
from suite.tune.trial import PRUNED, Trial

PAUSE = 0.5  # seconds between two looks at the trials of other processes
PATIENCE = 20 * PAUSE  # until a line says so


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

    def _next(self) -> tuple[Journal, Claim] | None:
        for journal in self.journals:
            for trial in journal.decide():
                self._say(journal.study, trial)
            if claim := next(iter(journal.claim()), None):
                return journal, claim
        return None

    def _execute(self, journal: Journal, claim: Claim) -> None:
        study, left = journal.study, [claim]
        try:
            plans = plans_of(study, claim.settings)
            outcomes = [execute(plan, _watch(study, claim, plan)) for plan in plans]
            trial = trial_of(claim.number, claim.settings, plans, outcomes)
            left.clear()
            if trial.status == PRUNED:
                journal.pause(claim, trial)
            else:
                journal.record(claim, trial)
                self._say(study, trial)
        finally:
            journal.give_back(left)

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
