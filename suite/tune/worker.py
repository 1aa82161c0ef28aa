"""One process at work.

It claims a trial, or a batch, runs it, tells what came of it, until none is left.
"""

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
from suite.tune.execution import against_together, carry_out, carry_out_together, plans_of, trial_of
from suite.tune.halving import Halt, rungs
from suite.tune.journal import Claim, Journal
from suite.tune.study import HALVING, Study
from suite.tune.trial import PRUNED, Trial

PAUSE = 0.5  # seconds between two looks at trials that others carry out
PATIENCE = 20 * PAUSE  # until it is said that they are waited for

Done = Iterator[tuple[Claim, list[Plan], list[Outcome]]]


class Worker:
    """What one process does for the studies.

    Args:
        parent: the process that asked for this one; when it is gone, no further trial is begun.
    """

    def __init__(self, of: Sequence[Study], parent: int | None = None) -> None:
        me = claims.myself()
        self.me, self.parent = me, parent
        self.journals = [Journal(study, me) for study in of]
        self.single: set[str] = set()  # studies whose trials do not fit into a batch

    def work(self) -> None:
        """Carry out what is missing, and wait for what others carry out, until all trials have ended."""
        waited = 0.0
        with claims.present(self.me, self.journals[0].workers), asked_to_end():
            while self.parent is None or os.getppid() == self.parent:
                if found := self._next():
                    self._carry_out(*found)
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

    def _carry_out(self, journal: Journal, claims: Sequence[Claim]) -> None:
        left = list(claims)
        try:
            for claim, plans, outcomes in self._outcomes(journal.study, claims):
                trial = trial_of(claim.number, claim.settings, plans, outcomes)
                left.remove(claim)
                if trial.status == PRUNED:
                    journal.pause(claim, trial)
                    continue
                journal.tell(claim, trial)
                self._say(journal.study, trial)
        finally:
            journal.give_back(left)

    def _outcomes(self, study: Study, claims: Sequence[Claim]) -> Done:
        """The runs of the trials: all at once where they fit together, else those of the first."""
        planned = [(claim, plans_of(study, claim.settings)) for claim in claims]
        if study.request.batched > 1 and study.name not in self.single:
            every = [plan for _, plans in planned for plan in plans]
            if (reason := against_together(every)) is None:
                found = iter(carry_out_together(every))
                yield from (
                    (claim, plans, [next(found) for _ in plans]) for claim, plans in planned
                )
                return
            print(f"{study.label} on {study.problem}, not batched: {reason}", flush=True)
            self.single.add(study.name)
        claim, plans = planned[0]
        yield claim, plans, [carry_out(plan, _watch(study, claim, plan)) for plan in plans]

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
            f"waiting for {missing} trial{'s' if missing > 1 else ''} that another process carries "
            f"out",
            flush=True,
        )


def _watch(study: Study, claim: Claim, plan: Plan) -> Watch | None:
    ahead = rungs(plan.steps)[claim.rung :] if study.request.pruner == HALVING else []
    return Halt(ahead[0], plan.steps) if ahead else None


@contextmanager
def asked_to_end() -> Iterator[None]:
    """A termination is an interruption, as Ctrl-C is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
