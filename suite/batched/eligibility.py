"""Which plans can be trained as replicas of one another, and in words why others cannot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers import UnsupportedError
from suite.batched.replica_objective import ReplicaObjective
from suite.batched.replicas import Ensemble, ReplicaMinibatches, build_replica
from suite.batched.stacked_model import StackedModel
from suite.config import device
from suite.config.plan import DECISIVE, UNLESS, Plan
from suite.errors import ConfigError
from suite.files import digest
from suite.training.run_context import RunContext
from suite.training.runner import build_task
from suite.training.seeds import stream
from tasks.task import Batch, Task

LARGEST = 2_000_000  # parameters of a model whose replicas are worth stacking
OWN = frozenset({"optimizer", "seed", "schedule"})  # what replicas may differ in
SHARED = (
    *(name for name in (*DECISIVE, *UNLESS) if name not in OWN),
    "log_every",
    "device",
    "threads",
    "allow",
)
# of a joint loss against one by itself: it finds another function, not rounding
TOLERANCE = 1e-3
_known: dict[str, str | None] = {}


def together(plans: Sequence[Plan]) -> bool:
    """Whether plans differ in settings, schedules and seeds alone."""
    return len({_common(plan) for plan in plans}) <= 1


def _common(plan: Plan) -> str:
    node = plan.config["optimizer"]
    shared = {name: plan.config[name] for name in SHARED}
    optimizer = {"_target_": node["_target_"], "name": node.get("name"), "label": plan.optimizer}
    return digest([shared, optimizer, plan.task, str(plan.results), plan.world_size], 64)


def reason_against(plan: Plan) -> str | None:
    """Why a plan cannot be trained among others in a batch, in words; None where it can.

    What the configuration does not say is tried out: two steps of the optimizer, which may ask for
    one gradient each and draw no random number, and a joint evaluation of two replicas of the
    model. That takes about as long as building the task, once for all plans that differ in numbers
    only.

    Raises:
        FatalConfigError: the user's file, of which the task is made, is broken.
    """
    if reason := _at_sight(plan):
        return reason
    key = kind_of(plan)
    if key not in _known:
        try:
            _known[key] = reason_for(plan, build_task(plan, device.choose(plan.config["device"])))
        except (ConfigError, ValueError, FileNotFoundError) as error:
            return f"it cannot be built: {error}"
    return _known[key]


def reason_for(plan: Plan, task: Task) -> str | None:
    """`reason_against` for a task that has been built."""
    if reason := _at_sight(plan):
        return reason
    key = kind_of(plan)
    if key not in _known:
        _known[key] = _tried(plan, task)
    return _known[key]


def _at_sight(plan: Plan) -> str | None:
    """What the configuration alone says."""
    config = plan.config
    if plan.world_size > 1:
        return f"{plan.world_size} processes share its work; a batch is of one process"
    if config["wandb"]["mode"] != "disabled":
        return "W&B mirrors one run of a process at a time; add wandb.mode=disabled"
    if config["max_seconds"] is not None:
        return (
            "max_seconds bounds the seconds of a run by itself, and a replica has only its share "
            "of joint ones"
        )
    refused = {
        "telemetry": (config["telemetry"], "telemetry evaluates every model by itself"),
        "compile": (config["compile"], "a compiled model cannot be stacked"),
        "precision": (plan.precision == "bf16", "autocast is not vectorised over replicas"),
        "accumulate": (config["accumulate"] > 1, "slices of a mini-batch are evaluated one by one"),
    }
    return next(
        (f"{name}={config[name]}: {why}" for name, (holds, why) in refused.items() if holds), None
    )


def kind_of(plan: Plan) -> str:
    """What decides besides numbers.

    Plans of one kind differ in the sizes of hyperparameters and in seeds.
    """
    return digest([_common(plan), _shape(plan.config["optimizer"])], 64)


def _shape(value: Any) -> Any:
    """A setting with its numbers left out, but for whether they are zero."""
    if isinstance(value, Mapping):
        return {
            name: _shape(item) for name, item in value.items() if name not in ("about", "search")
        }
    if isinstance(value, list):
        return [_shape(item) for item in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("number", bool(value)) if number else value


class _WatchedObjective(ReplicaObjective):
    """A replica's objective that notes each evaluation: whether it is where the step began."""

    __slots__ = ("at_start", "before")

    def _begin(self, *args: Any, **kwargs: Any) -> None:
        super()._begin(*args, **kwargs)
        self.before: list[Tensor] = [parameter.detach().clone() for parameter in self.params]
        self.at_start: list[bool] = []

    def __call__(self) -> Tensor:
        pairs = zip(self.params, self.before, strict=True)
        self.at_start.append(all(torch.equal(param, before) for param, before in pairs))
        return super().__call__()


class _WatchedMinibatches(ReplicaMinibatches):
    objective_class = _WatchedObjective


def _tried(plan: Plan, task: Task) -> str | None:
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            replica = build_replica(plan, task, Ensemble(task), _WatchedMinibatches)
        except (UnsupportedError, ValueError) as error:
            return f"it cannot be built: {error}"
        needs = frozenset[str](getattr(replica.optimizer, "needs", ()))
        if needs:
            return (
                f"{plan.optimizer} asks for {', '.join(sorted(needs))}; a batch computes losses "
                "and gradients only"
            )
        size = sum(parameter.numel() for parameter in replica.model.parameters())
        if size > LARGEST:
            return (
                f"a model of {size:,} parameters fills the machine by itself (the limit is "
                f"{LARGEST:,})"
            )
        batch = replica.minibatches.first()
        return _of_model(replica, batch) or _of_optimizer(replica, batch)


def _of_model(replica: RunContext, batch: Batch) -> str | None:
    """What stands against a joint evaluation, which is compared with one by itself."""
    name, state = replica.plan.task, torch.get_rng_state()
    alone = float(replica.objective.on(*batch)())
    if not torch.equal(state, torch.get_rng_state()):
        return f"the model of {name} draws random numbers (dropout, noise)"
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            losses = _joint_losses(replica, batch)
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        return f"the model of {name} cannot be vectorised over replicas: {reason}"
    if any("batching rule" in str(warning.message) for warning in warned):
        return f"the model of {name} has an operator that is not vectorised over replicas"
    if not all(abs(loss - alone) <= TOLERANCE * max(1.0, abs(alone)) for loss in losses):
        return f"the model of {name} gives {losses[0]:g} when vectorised, not {alone:g}"
    return None


def _joint_losses(replica: RunContext, batch: Batch) -> list[float]:
    """The losses of two replicas, on one mini-batch and on one for each, vectorised differently."""
    task = replica.task
    twin = task.model(stream(replica.plan.seed, "model"))
    stack = StackedModel([twin, replica.model], task.loss_fn, task.l2)
    other = batch[0].clone(), batch[1].clone()  # as of another seed
    losses = [stack.losses_and_gradients([batch, beside])[0] for beside in (batch, other)]
    values: list[float] = torch.cat(losses).tolist()
    return values


def _of_optimizer(replica: RunContext, batch: Batch) -> str | None:
    """What an optimizer that is given one gradient asks for beyond it."""
    name = replica.plan.optimizer
    for _ in range(2):
        loss = replica.objective.on(*batch)()
        objective, state = replica.objective.on(*batch), torch.get_rng_state()
        assert isinstance(objective, _WatchedObjective)
        gradients = [None if p.grad is None else p.grad.clone() for p in objective.params]
        objective.give(loss, gradients)
        before = dict(objective.counts)
        try:
            replica.optimizer.step(objective)
        except Exception as error:
            return f"a step of {name} fails: {type(error).__name__}: {error}"
        counts = objective.counts
        more = {oracle: count - before.get(oracle, 0) for oracle, count in counts.items()}
        if objective.at_start != [True] or more != {"value": 1, "grad": 1}:
            return (
                f"{name} evaluates more than the loss and its gradient once at the start of a step"
            )
        if not torch.equal(state, torch.get_rng_state()):
            return f"{name} draws random numbers at every step"
    return None
