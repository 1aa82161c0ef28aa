"""The cost of K-FAC and its relatives on a small character transformer and ResNet-20, one thread.

A whole step in gradient-equivalents, measured as in benchmarks/matrix.py: amortised over a whole
period, the median, and the worst step after the first one. Then the seconds of the factors of one
mini-batch beside the same factors by curvlinops, and the bytes of state beside the formula.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any

import torch
from matrix import clocked
from rich.console import Console
from rich.table import Table
from torch import nn

from optimizers import Objective
from optimizers.natural_gradient import EKFAC, KFAC
from optimizers.natural_gradient.blocks import Measure
from optimizers.natural_gradient.model_blocks import blocks_of
from optimizers.registry import builder
from suite.training.measures.memory import state_bytes
from tasks.language.char_transformer import CharTransformer
from tasks.task import Batch, DataTask
from tasks.vision.mlp import MLP
from tasks.vision.resnet import ResNet

try:
    import curvlinops
except ImportError:  # its table then has no rows
    curvlinops = None

PERIOD = 100
FACTORS = 10
ROUNDS = 9
Make = Callable[[Iterable[Any]], torch.optim.Optimizer]

PERIODS: dict[str, Any] = {"statistics_period": FACTORS, "inverse_period": PERIOD, "lr": 1e-3}
METHODS: dict[str, Make] = {
    "kfac": partial(KFAC, **PERIODS),
    "kfac, staggered": partial(KFAC, **PERIODS, staggered=True),
    "kfac, eigen": partial(KFAC, **PERIODS, inverse="eigen"),
    "ekfac": partial(EKFAC, **PERIODS),
    "singd": partial(builder("singd"), lr=1e-4, statistics_period=FACTORS),
    "kbfgs": partial(builder("kbfgs"), lr=1e-4),
}
BARS = {("GPT", "kfac"): "1.35", ("ResNet-20", "kfac"): "1.60"}


def nets() -> dict[str, DataTask]:
    """The networks, by the names of the table."""
    return {
        "GPT": CharTransformer(),
        "ResNet-20": ResNet(data="fashion_mnist_small", depth=20, width=16),
    }


def fresh(task: DataTask) -> tuple[Objective, list[Batch]]:
    """A new model's loss and ten mini-batches."""
    batches = [batch for batch, _ in zip(task.batches("train", 0), range(10), strict=False)]
    return Objective(task.model(0), task.loss_fn, *batches[0]), batches


def step_costs(task: DataTask, make: Make) -> tuple[float, float, float]:
    """The mean, the median and the worst step in gradient-equivalents, without the first."""
    objective, batches = fresh(task)
    optimizer = make(list(objective.model.named_parameters()))
    optimizer.step(objective)  # type: ignore[arg-type]
    steps, gradients = [], []
    for number in range(1, PERIOD + 1):
        batch = batches[number % len(batches)]
        gradients.append(clocked(objective.on(*batch)))
        steps.append(clocked(partial(optimizer.step, objective.on(*batch))))  # type: ignore[arg-type]
    one = median(gradients)
    return sum(steps) / sum(gradients), median(steps) / one, max(steps) / one


def step_rows(table: Table) -> None:
    """Every method on every net."""
    for net, task in nets().items():
        for name, make in METHODS.items():
            mean, middle, worst = step_costs(task, make)
            cells = (
                f"{mean:.3f}",
                BARS.get((net, name), ""),
                f"{middle:.3f}",
                f"{worst:.2f}",
                f"{worst / middle:.2f}",
            )
            table.add_row(net, name, *cells, "2.00" if "staggered" in name else "")


def our_factors(model: nn.Module, task: DataTask, batch: Batch) -> Callable[[], Any]:
    """All factors of one mini-batch by drawn targets."""
    objective = Objective(model, task.loss_fn, *batch)
    blocks = blocks_of(model, {id(parameter): 0 for parameter in model.parameters()})
    kinds = tuple({type(module) for block in blocks for module in block.modules})

    def compute() -> None:
        _, passes = objective.scores(kinds, gradient=False)
        measure = Measure(objective.terms, objective.scale)
        for block in blocks:
            block.factors(block.sums(passes, measure) or {})

    return compute


def their_factors(model: nn.Module, task: DataTask, batch: Batch) -> Callable[[], Any]:
    """The same factors by curvlinops."""

    def compute() -> None:
        operator = curvlinops.KFACLinearOperator(
            model,
            task.loss_fn,
            list(model.parameters()),
            [batch],
            fisher_type=curvlinops.FisherType.MC,
            mc_samples=1,
            separate_weight_and_bias=False,
            check_deterministic=False,
        )
        operator.compute_kronecker_factors()

    return compute


def factor_rows(table: Table) -> None:
    """Factors of nets of Linear and Conv2d layers, which curvlinops takes."""
    convolutions = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    task = MLP(data="fashion_mnist_small", batch_size=128)
    batch = next(task.batches("train", 0))
    for name, model in (
        ("784-256-10 MLP", task.model(0)),
        ("two convolutions, two Linear", convolutions),
    ):
        sides = our_factors(model, task, batch), their_factors(model, task, batch)
        times = [(clocked(sides[0]), clocked(sides[1])) for _ in range(ROUNDS + 2)][2:]
        ours, theirs = (1e3 * median(column) for column in zip(*times, strict=True))
        ratio = median(one / other for one, other in times)
        table.add_row(name, f"{ours:.1f} ms", f"{theirs:.1f} ms", f"{ratio:.2f}", "1.00")


def state_rows(table: Table) -> None:
    """Bytes of state on the MLP: 2 (in^2 + out^2) floats a layer, and more for momentum."""
    task = MLP(data="fashion_mnist_small", batch_size=128)
    sizes = [(785, 256), (257, 10)]
    extra = {"kfac": (KFAC, 1), "ekfac": (EKFAC, 2)}
    for name, (method, matrices) in extra.items():
        objective, _ = fresh(task)
        optimizer = method(objective.model.named_parameters())
        optimizer.step(objective)
        expected = 4 * sum(2 * (m * m + n * n) + matrices * m * n for m, n in sizes)
        measured = state_bytes(optimizer)
        table.add_row(
            name, f"{measured:,}", f"{expected:,}", f"{measured / expected:.4f}", "0.99 to 1.01"
        )


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    console = Console(width=130)
    title = (
        f"a step in gradient-equivalents; factors every {FACTORS}, inverses every {PERIOD} steps"
    )
    steps = Table(
        "net", "method", "amortised", "bar", "median", "worst", "worst / median", "bar", title=title
    )
    step_rows(steps)
    console.print(steps)
    factors = Table(
        "net", "ours", "curvlinops", "ratio", "bar", title="the K-FAC factors of one mini-batch"
    )
    if curvlinops is not None:
        factor_rows(factors)
    console.print(factors)
    states = Table(
        "method", "bytes", "formula", "ratio", "bar", title="state on the 784-256-10 MLP"
    )
    state_rows(states)
    console.print(states)


if __name__ == "__main__":
    main()
