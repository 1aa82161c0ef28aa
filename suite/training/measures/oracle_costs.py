"""The cost of each oracle on a task, in forward and backward passes, measured once a machine."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from optimizers import Objective
from suite.files import to_json
from tasks.task import Task

JACOBIAN_LIMIT = 20_000_000
REPEATS = 5
# raised when an oracle is computed in another way: figures measured before are not used any more
ORACLES = 2
SLOW = 2.0  # seconds of a call that is not repeated

Costs = dict[str, float]


def grad_equivalents(counts: Mapping[str, int], costs: Costs) -> float:
    """Oracle calls weighted by their cost: one forward and backward pass is 1."""
    return sum(count * costs.get(name, 0.0) for name, count in counts.items())


def load_or_measure(path: Path, measure: Callable[[], Costs]) -> Costs:
    """The costs stored for this task and machine.

    The first run to ask measures them, and all others use its figures.

    All runs of a task are thus weighted alike, and a resumed run counts as before.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(to_json(measure()))
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another run was first, and its figures count
        finally:
            temporary.unlink()
    costs: Costs = json.loads(path.read_text())
    return costs


def measure(task: Task, objective: Objective, clock: Callable[[], float] = perf_counter) -> Costs:
    """Medians of interleaved timings.

    Forward, forward and backward, and each product that the task offers.

    `value` is a forward pass and `grad` the rest of a gradient, so that the two add up to 1;
    products are taken on a kept graph; `examples` is one example's gradient.
    """
    with (
        warnings.catch_warnings()
    ):  # an operator without a batching rule is slow, which is what is measured here
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        calls = _calls(task, objective)
        times = {name: [_seconds(call, clock)] for name, call in calls.items()}
    for _ in range(REPEATS):
        for name, call in calls.items():
            if times[name][0] < SLOW:
                times[name].append(_seconds(call, clock))
    times = {
        name: seconds[1:] or seconds for name, seconds in times.items()
    }  # the first call warms up
    unit = median(times["both"])
    costs = {name: median(seconds) / unit for name, seconds in times.items() if name != "both"}
    costs["value"] = min(costs["value"], 1.0)
    costs["grad"] = 1.0 - costs["value"]
    if "examples" in costs:
        costs["examples"] /= len(objective.inputs)
    return {name: round(cost, 4) for name, cost in costs.items()}


def _seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def _calls(task: Task, objective: Objective) -> dict[str, Callable[[], Any]]:
    size = sum(parameter.numel() for parameter in objective.params)
    vector = torch.ones(size, dtype=objective.params[0].dtype, device=objective.params[0].device)
    calls: dict[str, Callable[[], Any]] = {"both": objective, "value": objective.value}
    objective()
    if "hessian" in task.offers:
        hessian = objective.hessian()
        calls["hvp"] = lambda: hessian(vector)
    if "ggn" in task.offers:
        ggn = objective.ggn()
        calls["ggnvp"] = lambda: ggn(vector)
    if "jacobian" in task.offers and size * objective.terms < JACOBIAN_LIMIT:
        calls["jac"] = objective.jacobian
    if "per_example" in task.offers and size * len(objective.inputs) < JACOBIAN_LIMIT:
        calls["examples"] = objective.per_example_grads
    return calls
