"""The keys of summary.json: what a run came to."""

from __future__ import annotations

from typing import Any

from suite.config.plan import Plan
from suite.results.status import Status
from tasks.task import Task

Summary = dict[str, Any]


def summarise(
    plan: Plan, task: Task | None, status: Status, message: str, values: Summary | None = None
) -> Summary:
    """All keys of summary.json, in order; null where there is no value."""
    metric = "metric" if task is None else task.metric
    keys = (
        "steps",
        "seconds",
        "seconds_per_step",
        "final_loss",
        f"best_{metric}",
        f"final_{metric}",
        "target",
        "target_step",
        "target_seconds",
        "target_grad_equivalents",
        "counts",
        "state_bytes",
        "peak_memory_bytes",
    )
    empty: Summary = {
        **dict.fromkeys(keys),
        "steps": 0,
        "seconds": 0.0,
        "counts": {},
        "target": plan.config["target"],
    }
    return {
        "status": status.value,
        "task": plan.task,
        "optimizer": plan.optimizer,
        "seed": plan.seed,
        **empty,
        **(values or {}),
        "parallel": plan.workers > 1,
        "world_size": plan.world_size,
        "message": message,
    }


def metric_of(summary: Summary) -> str:
    """The name of the task's metric, read from a summary's keys.

    One named loss shares the key of the last loss.
    """
    names = [key.removeprefix("final_") for key in summary if key.startswith("final_")]
    return next((name for name in names if name != "loss"), "loss")
