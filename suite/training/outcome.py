"""How a run ended: its status, its message, its summary."""

from __future__ import annotations

import traceback

import torch
from torch.nn.modules.batchnorm import _NormBase

from optimizers import UnsupportedError
from optimizers.distributed import RankLostError
from optimizers.objective.step_state import couples
from suite.results.status import Status
from suite.training.distributed import World, interruptible
from suite.training.measures import layer_coverage, memory
from suite.training.run_context import RunContext
from suite.training.summary import Summary, summarise
from suite.training.training import Training
from suite.training.warm_up import prepare

FAILED = frozenset({Status.OOM, Status.UNSUPPORTED, Status.ERROR})
ENDED_WELL = frozenset({Status.DONE, Status.TARGET, Status.TIMEOUT, Status.INTERRUPTED})


def run_to_its_end(training: Training, *, resume: bool) -> Summary:
    """Train to the end or to a failure, which becomes a status."""
    context = training.context
    world = context.world
    status, message = Status.ERROR, ""
    try:
        prepare(context)
        with interruptible(world):
            status = training.run(resume=resume)
        message = training.stop_reason or remark(context)
    except Exception as error:
        status, message = failure(error, world)
    if status in FAILED:
        world.tell_failure(f"{status}: {message}")
    return summary_of(training, status, message)


def failure(error: Exception, world: World) -> tuple[Status, str]:
    """The status and the message of an exception in a training; an unforeseen one is printed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Status.OOM, str(error).partition("\n")[0]
    if isinstance(error, UnsupportedError):
        return Status.UNSUPPORTED, str(error)
    if not isinstance(error, RankLostError):
        traceback.print_exception(error)
    out_of_memory = "can't allocate memory" in str(error)
    return (Status.OOM if out_of_memory else Status.ERROR), world.explain(error)


def remark(context: RunContext) -> str:
    """What a reader of a run by several processes has to know."""
    size, modules = context.ranks.size, context.model.modules()
    coupled = any(isinstance(module, _NormBase) and couples(module) for module in modules)
    if size == 1 or not coupled:
        return ""
    return f"batch normalisation saw the share of each of the {size} ranks, not the whole batch"


def summary_of(training: Training, status: Status, message: str) -> Summary:
    """All keys of summary.json."""
    context = training.context
    state, metric = context.state, context.task.metric
    values: Summary = {
        "steps": state.step,
        "seconds": round(state.seconds, 6),
        "seconds_per_step": round(state.seconds / state.step, 9) if state.step else None,
        "final_loss": state.loss,
        f"best_{metric}": state.best,
        f"final_{metric}": state.value if status in ENDED_WELL else None,
        "target_step": state.target.get("step"),
        "target_seconds": state.target.get("seconds"),
        "target_grad_equivalents": state.target.get("grad_equivalents"),
        "counts": dict(context.objective.counts),
        "state_bytes": _state_bytes(context, status),
        "peak_memory_bytes": context.peak_bytes,
    }
    telemetry = training.recorder.telemetry
    if telemetry is not None:
        values |= telemetry.summary()
    if state.step and (rule_of := layer_coverage.rules(context.optimizer)):
        values["coverage"] = layer_coverage.shares(rule_of, context.model.named_parameters())
    return summarise(context.plan, context.task, status, message, values)


def _state_bytes(context: RunContext, status: Status) -> int | None:
    """Of this process; unknown after a failure among several, as the others may not answer."""
    if context.ranks.size > 1 and status in FAILED:
        return None
    return memory.state_bytes(context.optimizer)
