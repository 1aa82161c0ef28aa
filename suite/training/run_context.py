"""What the parts of one run share: its plan, its model, its optimizer, its state."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from optimizers import Objective
from optimizers.distributed import SingleProcess
from suite.config import device
from suite.config.instantiate import construct
from suite.config.plan import Plan
from suite.training.distributed import World
from suite.training.measures import oracle_costs
from suite.training.minibatches import Minibatches
from suite.training.optimizer import ObjectiveOptimizer, build_optimizer
from suite.training.seeds import stream
from suite.training.state import RunState
from tasks.task import Task


@dataclass(eq=False)
class RunContext:
    """One run, as its loop, its evaluator, its checkpoint and its recorder see it.

    Of several processes each has a context of its own; all take the same steps on the same
    parameters, and one of them evaluates, decides and records.

    Attributes:
        costs: gradient equivalents of one call of each oracle.
        peak_bytes: the memory of a step.
    """

    plan: Plan
    task: Task
    place: torch.device
    world: World
    state: RunState
    minibatches: Minibatches
    model: torch.nn.Module
    optimizer: ObjectiveOptimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    objective: Objective
    clock: device.Clock
    costs: oracle_costs.Costs = field(default_factory=dict)
    peak_bytes: int | None = None

    @property
    def ranks(self) -> SingleProcess:
        """The processes that share the run."""
        return self.world.ranks

    @property
    def random_devices(self) -> list[torch.device]:
        """The devices, beside the CPU, whose random streams the run moves."""
        return [self.place] if self.place.type == "cuda" else []

    def grad_equivalents(self) -> float:
        """The oracle calls so far, in forward and backward passes."""
        return oracle_costs.grad_equivalents(self.objective.counts, self.costs)


def build_context(
    plan: Plan,
    task: Task,
    place: torch.device,
    world: World | None = None,
) -> RunContext:
    """Build the plan's model, optimizer and objective.

    Raises:
        UnsupportedError: the optimizer needs what the task, a compiled model or several processes
            cannot give it.
    """
    world, state = world or World(), RunState()
    batches = Minibatches(plan, task, state)
    model = task.model(stream(plan.seed, "model"))
    world.ranks.broadcast_(list(model.state_dict().values()))
    optimizer = build_optimizer(plan, task, model, world.ranks)
    node = plan.config["schedule"]
    objective = batches.objective(model, ranks=world.ranks, parts=plan.config["accumulate"])
    world.ranks.share(len(objective.inputs))
    return RunContext(
        plan=plan,
        task=task,
        place=place,
        world=world,
        state=state,
        minibatches=batches,
        model=model,
        optimizer=optimizer,
        schedule=construct(node, optimizer) if node.get("_target_") else None,
        objective=objective,
        clock=device.clock(place),
    )
