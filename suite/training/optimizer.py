"""The optimizer of a run: what the loop asks of it, and how it is built from a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from optimizers import Objective, UnsupportedError
from optimizers.distributed import SingleProcess
from optimizers.method import Method
from suite.config.instantiate import construct
from suite.config.plan import Plan
from suite.config.registry import tasks_offering
from suite.training.seeds import stream
from tasks.task import Task


class ObjectiveOptimizer(Protocol):
    """What the loop asks of an optimizer; every torch.optim.Optimizer has it."""

    param_groups: list[dict[str, Any]]

    def step(self, objective: Objective) -> Tensor:
        """One step; the loss before it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a continuation needs."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from there."""
        ...


class Averaging(ObjectiveOptimizer, Protocol):
    """An optimizer with evaluation weights apart from those it trains at."""

    def train(self) -> None:
        """Set the weights of the training."""
        ...

    def eval(self) -> None:
        """Set the evaluation weights."""
        ...


def averages(optimizer: ObjectiveOptimizer) -> TypeGuard[Averaging]:
    """Whether an optimizer is one that averages."""
    return callable(getattr(optimizer, "train", None)) and callable(
        getattr(optimizer, "eval", None)
    )


def build_optimizer(
    plan: Plan, task: Task, model: torch.nn.Module, ranks: SingleProcess
) -> ObjectiveOptimizer:
    """The plan's optimizer of a model's trained parameters.

    Raises:
        UnsupportedError: the optimizer needs what the task, a compiled model or several processes
            cannot give it.
    """
    allow = plan.config["allow"]
    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    torch.manual_seed(stream(plan.seed, "optimizer"))
    optimizer: ObjectiveOptimizer = construct(plan.config["optimizer"], named, allow=allow)
    needs: frozenset[str] = getattr(optimizer, "needs", frozenset())
    missing = needs - task.offers
    if missing:
        raise UnsupportedError(
            f"{plan.optimizer} needs {', '.join(sorted(missing))}, which {plan.task} does not offer"
            + _because(task, missing, needs, allow)
        )
    if needs and plan.config["compile"]:
        raise UnsupportedError(
            f"compile=true is for first-order optimizers; {plan.optimizer} differentiates twice"
        )
    if ranks.size > 1 and not getattr(optimizer, "parallel", "layers" not in needs):
        raise UnsupportedError(
            f"{plan.optimizer} records layers, of which each of the {ranks.size} ranks sees its "
            f"share "
            "only, and does not sum over them (`parallel` is not set); run it in one process"
        )
    if averages(optimizer):
        optimizer.train()
    if isinstance(optimizer, Method):
        optimizer.expect(plan.steps, task.steps_per_epoch)
    return optimizer


def _because(
    task: Task, missing: frozenset[str], needs: frozenset[str], allow: Sequence[str]
) -> str:
    """The reasons of a task of the user's own; for another, the tasks that fit."""
    lacks: Mapping[str, str] = getattr(task, "lacks", {})
    if reasons := [f"{offer}: {lacks[offer]}" for offer in sorted(missing) if offer in lacks]:
        return f" ({'; '.join(reasons)})"
    return f"; tasks that fit: {', '.join(tasks_offering(needs, allow=allow)) or 'none'}"
