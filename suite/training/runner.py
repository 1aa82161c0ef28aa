"""One run: its cached outcome, or a training that is built, run and recorded."""

from __future__ import annotations

from collections.abc import Mapping
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
from suite.training.checkpoint import Checkpoint
from suite.training.distributed import World, joined, place_of
from suite.training.evaluation import Evaluator
from suite.training.measures import environment, layer_coverage
from suite.training.outcome import run_to_its_end
from suite.training.recorder import Recorder
from suite.training.run_context import RunContext, build_context
from suite.training.summary import Summary, metric_of, summarise
from suite.training.training import Training, Watch
from suite.training.wandb_mirror import Tracker
from tasks.custom.source import BrokenFileError
from tasks.task import Task


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and whether an earlier one was read."""

    summary: Summary
    metric: str
    skipped: bool = False

    @property
    def status(self) -> Status:
        """How the run ended."""
        return Status(self.summary["status"])


def run(plan: Plan, watch: Watch | None = None) -> Outcome:
    """Run a plan, or read the result of an earlier run; training failures become a status.

    Of several processes that share the run, one keeps the record. `watch` gets the step and the
    metric at each evaluation before the last, and may return a reason to stop there: the run is
    then `interrupted`.

    Raises:
        ConfigError, ValueError, FileNotFoundError: the optimizer or the task cannot be built as
            asked for.
    """
    place = place_of(device.choose(plan.config["device"]))
    with joined(plan.world_size, place, plan.config["timeout"]) as world:
        record = RunRecord(plan.directory)
        done = world.ranks.broadcast_object(cached_outcome(plan, record) if world.leads else None)
        return done or _build_and_run(plan, record, place, world, watch)


def cached_outcome(plan: Plan, record: RunRecord) -> Outcome | None:
    """The outcome of an earlier run that is final, unless the plan repeats it."""
    status = record.status()
    if status is None or not status.final or plan.config["force"]:
        return None
    record.join_experiment(plan.experiment)
    summary = record.read_summary()
    return Outcome(summary, metric_of(summary), skipped=True)


def _build_and_run(
    plan: Plan, record: RunRecord, place: torch.device, world: World, watch: Watch | None
) -> Outcome:
    threads = device.set_threads(plan.config["threads"], plan.workers * torchrun.local_size())
    task = build_task(plan, place)
    described = describe(plan, task, place)
    facts = environment.describe(place, threads, plan.world_size)
    try:
        context = build_context(plan, task, place, world)
    except UnsupportedError as error:
        if world.leads:
            record.begin(described, facts, resume=False)
        return _finish(record, task, summarise(plan, task, Status.UNSUPPORTED, str(error)), world)
    resume = world.ranks.broadcast_object(record.resumable and not plan.config["force"])
    if world.leads:
        record.begin(described, facts, resume=resume)
    tracker = _tracker(plan, record, described, world)
    training = assemble(context, record, tracker, watch)
    summary = run_to_its_end(training, resume=resume)
    if world.leads:
        record.describe_environment(environment_of(context, facts))
    tracker.finish(summary, Status(summary["status"]).exit_code)
    return _finish(record, task, summary, world)


def assemble(
    context: RunContext, record: RunRecord, tracker: Tracker, watch: Watch | None = None
) -> Training:
    """The training of a run by itself."""
    # a line on the terminal shows where the run is
    shown = context.plan.workers == 1 and context.world.leads
    return Training(
        context,
        evaluator=Evaluator(context),
        checkpoint=Checkpoint(context, record.checkpoint),
        recorder=Recorder(context, record, tracker, shown=shown),
        watch=watch,
    )


def environment_of(context: RunContext, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of environment.json: the machine, its oracle costs, the rules of layers."""
    rule_of = layer_coverage.rules(context.optimizer)
    rules = {"layer_coverage": rule_of} if rule_of else {}
    return {**facts, "oracle_costs": context.costs, **rules}


def _tracker(plan: Plan, record: RunRecord, described: dict[str, Any], world: World) -> Tracker:
    wandb = plan.config["wandb"]
    return Tracker(
        wandb["mode"] if world.leads else "disabled",
        record.directory,
        plan.run_id,
        described,
        project=wandb["project"],
        group=f"{plan.experiment or 'single'}/{plan.task}",
        job_type=wandb["job_type"],
        name=plan.title,
        tags=[plan.optimizer, plan.task],
    )


def record_failure(plan: Plan, error: Exception) -> Outcome:
    """Record a run that cannot be built: in a sweep a failure is a result like any other."""
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
    """The content of config.yaml: the configuration with `auto` resolved, and the command."""
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
