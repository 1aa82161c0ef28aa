"""The cost of matrix-free methods beyond their oracle calls, on the digits autoencoder.

A step's seconds are compared with those of the same calls alone (as many gradients, graphs,
products and evaluations), the two interleaved on one thread. Memory is the exact high-water mark of
a step's tensors, less that of a retained graph and one product on it, in units of the n parameters.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from optimizers import Objective
from optimizers.registry import builder
from suite.training.measures.memory import peak_bytes
from tasks.task import Task
from tasks.vision.autoencoder import Autoencoder

ROUNDS = 15
METHODS: dict[str, dict[str, Any]] = {  # with the bar for floats beyond the graph, in n
    "hessian_free": {"curvature": "ggn", "bar": 30},
    "ggn_cg": {"curvature": "ggn", "bar": None},
    "ksd": {"curvature": "ggn", "bar": None},
    "tron": {"curvature": "hessian", "bar": 8},
    "newton_cg": {"curvature": "hessian", "bar": None},
    "trust_region": {"curvature": "hessian", "bar": None},
    "lbfgs": {"curvature": None, "bar": 2 * 10 + 4},
}
OPTIONS: dict[str, dict[str, Any]] = {"trust_region": {"subproblem": "steihaug"}}


def objective_for(task: Task) -> Objective:
    """The loss of the full batch for a new model."""
    inputs, targets = next(task.batches("train", 0))
    generator = torch.Generator().manual_seed(0)
    return Objective(task.model(0), task.loss_fn, inputs, targets, generator=generator)


def stepping(task: Task, name: str) -> tuple[Callable[[], Any], Objective]:
    """A method's next step, after three steps of training."""
    objective = objective_for(task)
    named = list(objective.model.named_parameters())
    optimizer = builder(name)(named, **OPTIONS.get(name, {}))

    def step() -> Any:
        return optimizer.step(objective.on(objective.inputs, objective.inputs))

    for _ in range(3):
        step()
    return step, objective


def bare(objective: Objective, counts: Counter[str], curvature: str | None) -> None:
    """Make the oracle calls of a step, and nothing else."""
    here = objective.on(objective.inputs, objective.inputs)
    vector = torch.ones_like(objective.gradient())
    products = counts["ggnvp"] + counts["hvp"]
    graphs = 1 if curvature and products else 0
    if graphs:
        matrix = getattr(here, str(curvature))()
        for _ in range(products):
            matrix(vector)
    for _ in range(counts["grad"] - graphs):
        here.value_and_gradient(0 * vector)
    for _ in range(counts["value"] - counts["grad"]):
        here.value(0 * vector)


def clocked(call: Callable[[], Any]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def overhead(task: Task, name: str, curvature: str | None) -> tuple[float, float, Counter[str]]:
    """Median seconds of a step, the median ratio to its bare calls, and the last step's calls."""
    step, objective = stepping(task, name)
    seconds, ratios, calls = [], [], Counter[str]()
    for _ in range(ROUNDS):
        before = objective.counts.copy()
        taken = clocked(step)
        calls = objective.counts - before
        plain = clocked(lambda calls=calls: bare(objective, calls, curvature))  # type: ignore[misc]
        objective.counts.update(before - objective.counts)
        seconds.append(taken)
        ratios.append(taken / plain)
    return median(seconds), median(ratios), calls


def product_cost(task: Task, curvature: str) -> float:
    """A product on a retained graph in gradient-equivalents."""
    objective = objective_for(task)
    objective()
    matrix, vector = getattr(objective, curvature)(), objective.gradient()
    pairs = [
        (
            clocked(lambda: [matrix(vector) for _ in range(10)]),
            clocked(lambda: [objective() for _ in range(10)]),
        )
        for _ in range(ROUNDS)
    ]
    return median(a / b for a, b in pairs)


def floats(task: Task, name: str, curvature: str | None) -> float:
    """Floats beyond the graph, in n."""
    size = sum(parameter.numel() for parameter in task.model(0).parameters())

    def graph() -> Callable[[], Any]:
        objective = objective_for(task)
        vector = torch.ones(size)

        def use() -> None:
            if curvature is None:
                objective.value_and_gradient()
            else:
                getattr(objective, curvature)()(vector)

        return use

    device = torch.device("cpu")
    step = peak_bytes(lambda: stepping(task, name)[0], 0, device)
    return (step - peak_bytes(graph, 0, device)) / (4 * size)


def main() -> None:
    """Print every measurement beside its bar."""
    torch.set_num_threads(1)
    task = Autoencoder()
    console = Console(width=120)
    for curvature, bar in (("ggn", " (bar 2.7)"), ("hessian", "")):
        console.print(
            f"a product with the {curvature} on a kept graph: {product_cost(task, curvature):.2f} "
            f"gradients{bar}"
        )
    table = Table(
        "method",
        "a step",
        "over its oracle calls (bar 1.1x)",
        "calls",
        "floats beyond the graph",
        "bar",
    )
    for name, facts in METHODS.items():
        seconds, ratio, calls = overhead(task, name, facts["curvature"])
        bar = f"{facts['bar']} n" if facts["bar"] else ""
        used = ", ".join(f"{count} {key}" for key, count in calls.items())
        size = f"{floats(task, name, facts['curvature']):.1f} n"
        table.add_row(name, f"{1e3 * seconds:.1f} ms", f"{ratio:.3f}x", used, size, bar)
    console.print(table)


if __name__ == "__main__":
    main()
