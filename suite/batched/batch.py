"""Carry out many plans as one.

Joint steps, and for each plan the record that a run by itself would leave.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch

from optimizers import UnsupportedError
from suite.batched.eligibility import kind_of, reason_for, together
from suite.batched.fused_updates import Update
from suite.batched.replicas import Company, Copy
from suite.batched.trainer import Crew, GivenUpError, Member
from suite.config import device
from suite.config.plan import Plan
from suite.errors import ConfigError
from suite.results.directory import RunRecord
from suite.results.status import Status
from suite.training.measures import environment
from suite.training.runner import Outcome, build_task, describe, looked_up, refuse, run
from suite.training.summary import summarise
from suite.training.wandb_mirror import Tracker
from tasks.task import Task

BUDGET = (
    2**31
)  # bytes that the copies of one stack may take, each reckoned at the memory of a step by itself
Outcomes = dict[str, Outcome]  # by run_id


def run_batched(plans: Sequence[Plan]) -> list[Outcome]:
    """Carry out plans that differ in hyperparameters, schedules and seeds alone, all at once in this process.

    Every plan leaves the ordinary record under its ordinary run_id: what is done is skipped, what
    was interrupted goes on, and a later run by itself recognises it. Each copy has its own
    optimizer, schedule, history, target and end; one that diverges leaves the others as they are.
    Its seconds are its share of the joint steps, so the summary says `parallel: true`, and
    `batched` how many began together. Parameters equal those of separate runs to rounding, which a
    training near divergence may amplify. Where the copies do not fit into memory together they
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
    found: Outcomes = {}
    waiting: dict[str, Plan] = {}
    for plan in plans:
        done = looked_up(plan, RunRecord(plan.directory))
        if done is None:
            waiting[plan.run_id] = plan
        else:
            found[plan.run_id] = done
    if waiting:
        found |= _carried_out(waiting)
    return [found[plan.run_id] for plan in plans]


def _carried_out(plans: Mapping[str, Plan]) -> Outcomes:
    first = next(iter(plans.values()))
    place = device.choose(first.config["device"])
    threads = device.set_threads(first.config["threads"], first.workers)
    task = build_task(first, place)
    for plan in plans.values():
        if reason := reason_for(plan, task):
            raise ConfigError(f"{plan.title} cannot be batched: {reason}")
    batch = _Batch(task, place, threads)
    found = batch.begin(plans)
    while batch.members and not batch.asked:
        found |= batch.train()
    for member in batch.members:  # their turn did not come, and their records say nothing of an end
        plan = member.copy.plan
        summary = summarise(plan, task, Status.INTERRUPTED, "interrupted before its first step")
        found[plan.run_id] = Outcome(summary, task.metric)
    return found


class _Batch:
    """Plans that were begun and wait for their turn, as many of them at once as the memory holds."""

    def __init__(self, task: Task, place: torch.device, threads: int) -> None:
        self.task = task
        self.place = place
        self.facts = environment.describe(place, threads)
        self.company = Company(task)
        self.members: list[Member] = []
        self.asked = False
        self._peaks: dict[str, int | None] = {}

    def begin(self, plans: Mapping[str, Plan]) -> Outcomes:
        """Build each plan's copy; the outcomes of those that cannot be built."""
        found = {run_id: self._begin(plan) for run_id, plan in plans.items()}
        return {run_id: outcome for run_id, outcome in found.items() if outcome is not None}

    def _begin(self, plan: Plan) -> Outcome | None:
        record = RunRecord(plan.directory)
        try:
            copy = Copy(plan, self.task, self.place, self.company)
            copy.prepare()
            copy.peak_bytes = self._peak(copy)
        except UnsupportedError as error:
            record.begin(describe(plan, self.task, self.place), self.facts, resume=False)
            summary = summarise(plan, self.task, Status.UNSUPPORTED, str(error))
            record.finish(summary)
            return Outcome(summary, self.task.metric)
        except (
            ValueError,
            FileNotFoundError,
        ) as error:  # one copy that cannot be built leaves the others as they are
            return refuse(plan, error)
        self.members.append(Member(copy, record, Update(copy.optimizer)))
        return None

    def _peak(self, copy: Copy) -> int | None:
        """The memory of a step, which settings that differ in size only do not change."""
        kind = kind_of(copy.plan)
        if kind not in self._peaks:
            self._peaks[kind] = copy.peak()
        return self._peaks[kind]

    def train(self) -> Outcomes:
        """Train as many as fit together, to their ends."""
        now, self.members = self.members[: self._most()], self.members[self._most() :]
        for member in now:
            self._open(member)
        self.company.size = len(now)
        crew = Crew(self.company, now)
        try:
            crew.train()
        except GivenUpError as error:
            print(f"The batch is given up ({error}); its runs go on one by one.", file=sys.stderr)
            crew.found |= {m.copy.plan.run_id: run(m.copy.plan) for m in crew.members}
        self.asked = self.company.signalled
        return crew.found

    def _most(self) -> int:
        largest = max((member.copy.peak_bytes or 0 for member in self.members), default=0)
        return max(1, BUDGET // largest) if largest else len(self.members)

    def _open(self, member: Member) -> None:
        """Begin the record."""
        plan, copy, record = member.copy.plan, member.copy, member.record
        described = describe(plan, self.task, self.place)
        resume = record.resumable and not plan.config["force"]
        rules = {"layer_coverage": rule_of} if (rule_of := copy.rules()) else {}
        record.begin(described, {**self.facts, "oracle_costs": copy.costs, **rules}, resume=resume)
        tracker = Tracker("disabled", record.directory, plan.run_id, described)
        member.loop = copy.loop(record, tracker, resume=resume)
