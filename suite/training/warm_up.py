"""Before the first step: oracle costs and memory, measured off the clock on models of their own."""

from __future__ import annotations

import torch

from suite.files import digest
from suite.training.measures import environment, memory, oracle_costs
from suite.training.optimizer import build_optimizer
from suite.training.run_context import RunContext
from suite.training.seeds import stream


def prepare(context: RunContext) -> None:
    """Measure costs and memory, then set every random stream to its start."""
    ranks = context.ranks
    with torch.random.fork_rng(devices=context.random_devices):
        costs = measured_costs(context) if context.world.leads else {}
        context.costs = ranks.broadcast_object(costs)
        context.peak_bytes = ranks.broadcast_object(peak_of_a_step(context))
    start_streams(context)
    name = f"dropout/{ranks.rank}" if ranks.rank else "dropout"
    torch.manual_seed(stream(context.plan.seed, name))


def start_streams(context: RunContext) -> None:
    """Set the streams of targets and of further mini-batches to their start."""
    context.state.fresh_drawn = 0
    context.minibatches.generator.manual_seed(stream(context.plan.seed, "optimizer"))


def measured_costs(context: RunContext) -> oracle_costs.Costs:
    """The oracle costs of the run's task on this machine."""
    plan, task, config = context.plan, context.task, context.plan.config
    facts = [
        config["task"],
        config["precision"],
        context.place.type,
        environment.processor(),
        torch.get_num_threads(),
        torch.__version__,
        oracle_costs.ORACLES,
    ]
    path = plan.results / "costs" / f"{plan.task}-{digest(facts)}.json"

    def measure() -> oracle_costs.Costs:
        # products need a graph that a compiled model does not keep
        objective = context.minibatches.objective(task.model(0), compiled=False)
        return oracle_costs.measure(task, objective, context.clock)

    return oracle_costs.load_or_measure(path, measure)


def peak_of_a_step(context: RunContext) -> int | None:
    """The memory of the second of two untimed steps of a copy; a compiled model is compiled here.

    None where the steps take too long: the CPU's profiler keeps every operation, and a minute of a
    second-order method's products would fill the memory. Of several processes each takes the steps
    by itself, on its share.
    """
    plan, task, place, ranks = context.plan, context.task, context.place, context.ranks
    counts = memory.Limited(memory.LONGEST) if place.type == "cpu" else None
    inputs, targets = context.minibatches.first()
    share = ranks.share(len(inputs))
    batch = (inputs[share], targets[share]) if ranks.size > 1 else (inputs, targets)

    def first() -> memory.Step:
        twin = task.model(stream(plan.seed, "model"))
        optimizer = build_optimizer(plan, task, twin, ranks)
        objective = context.minibatches.objective(
            twin, counts=counts, parts=plan.config["accumulate"], batch=batch
        )
        optimizer.step(objective)
        return lambda: optimizer.step(objective.on(*batch))

    try:
        return memory.peak_bytes(first, sum(tensor.nbytes for tensor in batch), place)
    except memory.TooLongError:
        return None
