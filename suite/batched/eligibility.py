"""Which plans can be trained as copies of one another, and in words why others cannot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers import UnsupportedError
from suite.batched.replica_objective import Row
from suite.batched.replicas import Company, Copy
from suite.batched.stacked_model import Stack
from suite.config import device
from suite.config.plan import DECISIVE, UNLESS, Plan
from suite.errors import ConfigError
from suite.files import digest
from suite.training.runner import build_task
from suite.training.seeds import stream
from tasks.task import Task

LARGEST = 2_000_000  # parameters of a model whose copies are worth stacking
OWN = frozenset({"optimizer", "seed", "schedule"})  # what copies may differ in
SHARED = (
    *(name for name in (*DECISIVE, *UNLESS) if name not in OWN),
    "log_every",
    "device",
    "threads",
    "allow",
)
# of a joint loss against one by itself; what is looked for is another function, not rounding
TOLERANCE = 1e-3
_known: dict[str, str | None] = {}


def together(plans: Sequence[Plan]) -> bool:
    """Whether plans are of one task and one class of optimizer, and differ in settings, schedules and seeds alone."""
    return len({_common(plan) for plan in plans}) <= 1


def _common(plan: Plan) -> str:
    node = plan.config["optimizer"]
    shared = {name: plan.config[name] for name in SHARED}
    optimizer = {"_target_": node["_target_"], "name": node.get("name"), "label": plan.optimizer}
    return digest([shared, optimizer, plan.task, str(plan.results), plan.world_size], 64)


def reason_against(plan: Plan) -> str | None:
    """Why a plan cannot be trained among others in a batch, in words; None where it can.

    What the configuration does not say is tried out: two steps of the optimizer, which may ask for
    one gradient each and draw no random number, and a joint evaluation of two copies of the model.
    That takes about as long as building the task, once for all plans that differ in numbers only.

    Raises:
        FatalConfigError: the user's file, of which the task is made, is broken.
    """
    if said := _at_sight(plan):
        return said
    key = kind_of(plan)
    if key not in _known:
        try:
            _known[key] = reason_for(plan, build_task(plan, device.choose(plan.config["device"])))
        except (ConfigError, ValueError, FileNotFoundError) as error:
            return f"it cannot be built: {error}"
    return _known[key]


def reason_for(plan: Plan, task: Task) -> str | None:
    """`reason_against` for a task that has been built."""
    if said := _at_sight(plan):
        return said
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
        return "max_seconds bounds the seconds of a run by itself, and a copy has only its share of joint ones"
    refused = {
        "telemetry": (config["telemetry"], "telemetry evaluates every model by itself"),
        "compile": (config["compile"], "a compiled model cannot be stacked"),
        "precision": (plan.precision == "bf16", "autocast is not vectorised over copies"),
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


class _Watched(Row):
    """A told objective that notes whether it was asked once, where it was told."""

    __slots__ = ("asked", "before")

    def _begin(self, *args: Any, **kwargs: Any) -> None:
        super()._begin(*args, **kwargs)
        self.before: list[Tensor] = [parameter.detach().clone() for parameter in self.params]
        self.asked: list[bool] = []

    def __call__(self) -> Tensor:
        self.asked.append(
            all(torch.equal(p, b) for p, b in zip(self.params, self.before, strict=True))
        )
        return super().__call__()


class _Probe(Copy):
    kind = _Watched


def _tried(plan: Plan, task: Task) -> str | None:
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            copy = _Probe(plan, task, task.device, Company(task))
        except (UnsupportedError, ValueError) as error:
            return f"it cannot be built: {error}"
        needs = frozenset[str](getattr(copy.optimizer, "needs", ()))
        if needs:
            return f"{plan.optimizer} asks for {', '.join(sorted(needs))}; a batch computes losses and gradients only"
        size = sum(parameter.numel() for parameter in copy.model.parameters())
        if size > LARGEST:
            return f"a model of {size:,} parameters fills the machine by itself (the limit is {LARGEST:,})"
        return _of_model(copy) or _of_optimizer(copy)


def _of_model(copy: Copy) -> str | None:
    """What stands against a joint evaluation, which is compared with one by itself."""
    batch = copy.objective.inputs, copy.objective.targets
    state = torch.get_rng_state()
    alone = float(copy.objective.on(*batch)())
    if not torch.equal(state, torch.get_rng_state()):
        return f"the model of {copy.plan.task} draws random numbers (dropout, noise)"
    twin = copy.task.model(stream(copy.plan.seed, "model"))
    stack = Stack([twin, copy.model], copy.task.loss_fn, copy.task.l2)
    other = (
        batch[0].clone(),
        batch[1].clone(),
    )  # of another seed, as it were, which is vectorised in another way
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            losses = [stack.losses_and_gradients([batch, beside])[0] for beside in (batch, other)]
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        return f"the model of {copy.plan.task} cannot be vectorised over copies: {str(error).splitlines()[0]}"
    if any("batching rule" in str(warning.message) for warning in said):
        return f"the model of {copy.plan.task} has an operator that is not vectorised over copies"
    found = torch.cat(losses).tolist()
    if not all(abs(loss - alone) <= TOLERANCE * max(1.0, abs(alone)) for loss in found):
        return f"the model of {copy.plan.task} gives {found[0]:g} when vectorised, not {alone:g}"
    return None


def _of_optimizer(copy: Copy) -> str | None:
    """What an optimizer that is told one gradient asks for beyond it."""
    name, batch = copy.plan.optimizer, (copy.objective.inputs, copy.objective.targets)
    for _ in range(2):
        loss = copy.objective.on(*batch)()
        row, state = copy.objective.on(*batch), torch.get_rng_state()
        assert isinstance(row, _Watched)
        row.tell(loss, [None if p.grad is None else p.grad.clone() for p in row.params])
        before = dict(row.counts)
        try:
            copy.optimizer.step(row)
        except Exception as error:
            return f"a step of {name} fails: {type(error).__name__}: {error}"
        more = {oracle: count - before.get(oracle, 0) for oracle, count in row.counts.items()}
        if row.asked != [True] or more != {"value": 1, "grad": 1}:
            return (
                f"{name} evaluates more than the loss and its gradient once at the start of a step"
            )
        if not torch.equal(state, torch.get_rng_state()):
            return f"{name} draws random numbers at every step"
    return None
