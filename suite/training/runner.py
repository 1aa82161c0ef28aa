"""One run: look it up, or build it, train it and record it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from optimizers import UnsupportedError
from suite.config import device, torchrun
from suite.config.instantiate import construct
from suite.config.plan import Plan
from suite.errors import FatalConfigError
from suite.results.directory import RunRecord
from suite.results.status import Status
from suite.training.distributed import World, joined, place_of
from suite.training.measures import environment
from suite.training.summary import Summary, metric_of, summarise
from suite.training.training import Training, Watch
from suite.training.wandb_mirror import Tracker
from tasks.custom.source import BrokenFileError
from tasks.task import Task


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and whether it was only looked up."""

    summary: Summary
    metric: str
    skipped: bool = False

    @property
    def status(self) -> Status:
        """The run's word."""
        return Status(self.summary["status"])


def run(plan: Plan, watch: Watch | None = None) -> Outcome:
    """Carry out a plan, or look it up if it has been done; training failures become a status.

    Of several processes that carry it out together, one keeps the record. `watch` is told the step
    and the metric at each evaluation before the last, and may give a reason to stop there: the run
    is then `interrupted`.

    Raises:
        ConfigError, ValueError, FileNotFoundError: the optimizer or the task cannot be built as
            asked for.
    """
    place = place_of(device.choose(plan.config["device"]))
    with joined(plan.world_size, place, plan.config["timeout"]) as world:
        record = RunRecord(plan.directory)
        done = world.ranks.broadcast_object(looked_up(plan, record) if world.leads else None)
        return done or _carried_out(plan, record, place, world, watch)


def looked_up(plan: Plan, record: RunRecord) -> Outcome | None:
    """The outcome of a run that is done and is not to be repeated."""
    status = record.status()
    if status is None or not status.final or plan.config["force"]:
        return None
    record.join_experiment(plan.experiment)
    summary = record.read_summary()
    return Outcome(summary, metric_of(summary), skipped=True)


def _carried_out(
    plan: Plan, record: RunRecord, place: torch.device, world: World, watch: Watch | None
) -> Outcome:
    threads = device.set_threads(plan.config["threads"], plan.workers * torchrun.local_size())
    task = build_task(plan, place)
    described = describe(plan, task, place)
    facts = environment.describe(place, threads, plan.world_size)
    try:
        training = Training(plan, task, place, world, watch)
    except UnsupportedError as error:
        if world.leads:
            record.begin(described, facts, resume=False)
        return _finish(record, task, summarise(plan, task, Status.UNSUPPORTED, str(error)), world)
    resume = world.ranks.broadcast_object(record.resumable and not plan.config["force"])
    if world.leads:
        record.begin(described, facts, resume=resume)
    tracker = Tracker(
        plan.config["wandb"]["mode"] if world.leads else "disabled",
        record.directory,
        plan.run_id,
        described,
        project=plan.config["wandb"]["project"],
        group=f"{plan.experiment or 'single'}/{plan.task}",
        job_type=plan.config["wandb"]["job_type"],
        name=plan.title,
        tags=[plan.optimizer, plan.task],
    )
    summary = training.carry_out(record, tracker, resume=resume)
    if world.leads:
        rules = {"layer_coverage": rule_of} if (rule_of := training.rules()) else {}
        record.describe_environment({**facts, "oracle_costs": training.costs, **rules})
    tracker.finish(summary, Status(summary["status"]).exit_code)
    return _finish(record, task, summary, world)


def refuse(plan: Plan, error: Exception) -> Outcome:
    """Record a run that could not be built: in a sweep a failure is a result like any other."""
    record = RunRecord(plan.directory)
    described = {**plan.config, "experiment": plan.experiment, "command": plan.command}
    record.begin(
        described, {}, resume=record.resumable
    )  # an unfinished run goes on once it can be built again
    summary = summarise(plan, None, Status.ERROR, f"{type(error).__name__}: {error}")
    record.finish(summary)
    return Outcome(summary, "metric")


def build_task(plan: Plan, place: torch.device) -> Task:
    """The plan's task, its data on the run's device.

    Raises:
        FatalConfigError: the user's file, of which the task is made, is broken.
    """
    try:
        task: Task = construct(plan.config["task"], allow=plan.config["allow"])
    except BrokenFileError as error:
        raise FatalConfigError(str(error)) from error
    precision = None if plan.precision is None else device.PRECISIONS[plan.precision]
    return task.to(place, precision)


def _finish(record: RunRecord, task: Task, summary: Summary, world: World) -> Outcome:
    if world.leads:
        record.finish(summary)
    return Outcome(summary, task.metric)


def describe(plan: Plan, task: Task, place: torch.device) -> dict[str, Any]:
    """The resolved configuration as config.yaml keeps it, with what `auto` came to and how to repeat the run."""
    return {
        **plan.config,
        "device": place.type,
        "precision": plan.precision or str(task.precision).removeprefix("torch."),
        "experiment": plan.experiment,
        "metric": task.metric,
        "direction": task.direction,
        "world_size": plan.world_size,
        "command": plan.command,
    }
