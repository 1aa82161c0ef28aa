"""Many plans run as one: joint steps, and for each plan the record of a run by itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from optimizers import UnsupportedError
from suite.batched.eligibility import kind_of, reason_for, together
from suite.batched.fused_updates import Update
from suite.batched.replicas import Ensemble, ReplicaCheckpoint, build_replica
from suite.batched.trainer import GivenUpError, Slot, Trainer
from suite.config import device
from suite.config.plan import Plan
from suite.errors import ConfigError
from suite.results.directory import RunRecord
from suite.results.status import Status
from suite.training.evaluation import Evaluator
from suite.training.measures import environment
from suite.training.measures.oracle_costs import Costs
from suite.training.recorder import Recorder
from suite.training.run_context import RunContext
from suite.training.runner import (
    Outcome,
    build_task,
    cached_outcome,
    describe,
    environment_of,
    record_failure,
    run,
)
from suite.training.summary import summarise
from suite.training.training import Training
from suite.training.wandb_mirror import Tracker
from suite.training.warm_up import measured_costs, peak_of_a_step, start_streams
from tasks.task import Task

# bytes that the replicas of one stack may take, each reckoned at the memory of a step by itself
BUDGET = 2**31
Outcomes = dict[str, Outcome]  # by run_id


def run_batched(plans: Sequence[Plan]) -> list[Outcome]:
    """Run plans that differ in hyperparameters, schedules and seeds alone, all at once.

    Every plan leaves the ordinary record under its ordinary run_id: what is done is skipped, what
    was interrupted goes on, and a later run by itself recognises it. Each replica has its own
    optimizer, schedule, history, target and end; one that diverges leaves the others as they are.
    Its seconds are its share of the joint steps, so the summary says `parallel: true`, and
    `batched` how many began together. Parameters equal those of separate runs to rounding, which a
    training near divergence may amplify. Where the replicas do not fit into memory together they
    follow in several stacks.

    Raises:
        ConfigError: the plans differ in more than that, or one of them cannot be batched
            (`reason_against`).
    """
    if not together(plans):
        raise ConfigError(
            "a batch takes plans of one task and one optimizer that differ in settings and seeds "
            "alone"
        )
    outcomes: Outcomes = {}
    waiting: dict[str, Plan] = {}
    for plan in plans:
        done = cached_outcome(plan, RunRecord(plan.directory))
        if done is None:
            waiting[plan.run_id] = plan
        else:
            outcomes[plan.run_id] = done
    if waiting:
        outcomes |= _run_together(waiting)
    return [outcomes[plan.run_id] for plan in plans]


def _run_together(plans: Mapping[str, Plan]) -> Outcomes:
    first = next(iter(plans.values()))
    place = device.choose(first.config["device"])
    threads = device.set_threads(first.config["threads"], first.workers)
    task = build_task(first, place)
    for plan in plans.values():
        if reason := reason_for(plan, task):
            raise ConfigError(f"{plan.title} cannot be batched: {reason}")
    batch = _Batch(task, place, threads)
    outcomes = batch.begin(plans)
    while batch.slots and not batch.asked:
        outcomes |= batch.train()
    for slot in batch.slots:  # their turn did not come, so that their records have no end
        plan = slot.replica.plan
        summary = summarise(plan, task, Status.INTERRUPTED, "interrupted before its first step")
        outcomes[plan.run_id] = Outcome(summary, task.metric)
    return outcomes


class _Batch:
    """Plans that wait for their turn, as many of them at once as the memory holds.

    Attributes:
        slots: the plans that wait.
        asked: whether somebody wants the batch to end.
    """

    def __init__(self, task: Task, place: torch.device, threads: int) -> None:
        self.task = task
        self.place = place
        self.facts = environment.describe(place, threads)
        self.ensemble = Ensemble(task)
        self.slots: list[Slot] = []
        self.asked = False
        self._costs: Costs | None = None
        self._peaks: dict[str, int | None] = {}

    def begin(self, plans: Mapping[str, Plan]) -> Outcomes:
        """Build each plan's replica; the outcomes of those that cannot be built."""
        outcomes = {run_id: self._begin(plan) for run_id, plan in plans.items()}
        return {run_id: outcome for run_id, outcome in outcomes.items() if outcome is not None}

    def _begin(self, plan: Plan) -> Outcome | None:
        record = RunRecord(plan.directory)
        try:
            replica = build_replica(plan, self.task, self.ensemble)
            self._measure(replica)
        except UnsupportedError as error:
            record.begin(describe(plan, self.task, self.place), self.facts, resume=False)
            summary = summarise(plan, self.task, Status.UNSUPPORTED, str(error))
            record.finish(summary)
            return Outcome(summary, self.task.metric)
        except (ValueError, FileNotFoundError) as error:  # it leaves the others as they are
            return record_failure(plan, error)
        self.slots.append(Slot(replica, record, Update(replica.optimizer)))
        return None

    def _measure(self, replica: RunContext) -> None:
        """The oracle costs, measured once for all, and the memory of a step, once for each kind."""
        kind = kind_of(replica.plan)
        with torch.random.fork_rng(devices=replica.random_devices):
            if self._costs is None:
                self._costs = measured_costs(replica)
            if kind not in self._peaks:
                self._peaks[kind] = peak_of_a_step(replica)
        replica.costs, replica.peak_bytes = self._costs, self._peaks[kind]
        start_streams(replica)

    def train(self) -> Outcomes:
        """Train as many as fit together, to their ends."""
        now, self.slots = self.slots[: self._most()], self.slots[self._most() :]
        for slot in now:
            self._open(slot)
        self.ensemble.size = len(now)
        trainer = Trainer(self.ensemble, now)
        try:
            trainer.train()
        except GivenUpError as error:
            print(f"The batch is given up ({error}); its runs go on one by one.", file=sys.stderr)
            plans = [slot.replica.plan for slot in trainer.slots]
            trainer.outcomes |= {plan.run_id: run(plan) for plan in plans}
        self.asked = trainer.signalled
        return trainer.outcomes

    def _most(self) -> int:
        largest = max((slot.replica.peak_bytes or 0 for slot in self.slots), default=0)
        return max(1, BUDGET // largest) if largest else len(self.slots)

    def _open(self, slot: Slot) -> None:
        """Begin the record."""
        replica, record = slot.replica, slot.record
        plan = replica.plan
        described = describe(plan, self.task, self.place)
        slot.resume = record.resumable and not plan.config["force"]
        record.begin(described, environment_of(replica, self.facts), resume=slot.resume)
        tracker = Tracker("disabled", record.directory, plan.run_id, described)
        slot.training = Training(
            replica,
            evaluator=Evaluator(replica, partial(self.ensemble.evaluate, replica)),
            checkpoint=ReplicaCheckpoint(replica, record.checkpoint, self.ensemble),
            recorder=Recorder(replica, record, tracker),
        )
