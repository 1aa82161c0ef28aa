"""The cost of cheap curvature on an MLP, a residual net and a character transformer, one thread.

Three tables. A whole step in gradient-equivalents: processor seconds of `optimizer.step` over those
of a bare gradient, the two alternating, summed over whole periods of the curvature; and the median
step and the worst. A whole step beside a packaged peer's, the gradient included (and its graph
where the peer needs one): periods of each alternate, and the median ratio is reported. The bytes of
state beside the formula.

A row in `STEPS`, `PEERS` or `FLOATS` adds a method.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from matrix import clocked
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers import Objective
from optimizers.diagonal import SGDPH, SOAA, AdaFisher, AdaHessian, SophiaG, SophiaH
from optimizers.low_rank import FOSI
from optimizers.online import OGR
from optimizers.step_size import ALIG
from suite.training.measures.memory import state_bytes
from tasks.language.char_transformer import CharTransformer
from tasks.task import Batch, DataTask
from tasks.vision.mlp import MLP
from tasks.vision.resnet import ResNet

try:
    import pytorch_optimizer as peers
except ImportError:  # their rows are left out
    peers = None

LR = 1e-4
LEAST = 40  # measured steps, rounded up to whole periods
ROUNDS = 9
Make = Callable[[Iterable[Any]], torch.optim.Optimizer]


class Method(NamedTuple):
    """A row of the first table: title, constructor, steps in a period, bar."""

    title: str
    make: Make
    period: int
    bar: str


class Pair(NamedTuple):
    """A row of the second table; `graph` if the peer needs differentiable gradients."""

    title: str
    ours: Make
    theirs: Make
    period: int
    graph: bool


STEPS = [
    Method("adamw (torch, fused)", partial(torch.optim.AdamW, lr=LR, fused=True), 1, ""),
    Method("adahessian", partial(AdaHessian, lr=LR), 1, "3.5"),
    Method("adahessian, period 10", partial(AdaHessian, lr=LR, period=10), 10, "1.3"),
    Method("sophia_h, period 10", partial(SophiaH, lr=LR), 10, "1.5"),
    Method("sophia_g, period 10", partial(SophiaG, lr=LR), 10, "1.5"),
    Method("ogr, diagonal", partial(OGR, lr=LR), 1, "1.1"),
    Method("fosi, period 100", partial(FOSI, lr=LR), 100, "1.3"),
    Method("soaa", partial(SOAA, lr=LR, total_steps=1000), 1, ""),
    Method("adafisher, period 100", partial(AdaFisher, lr=LR), 100, ""),
    Method("sgd_ph", partial(SGDPH, lr=LR), 1, ""),
    Method("alig", partial(ALIG, lr=LR), 1, ""),
]
PEERS: list[Pair] = []
if peers is not None:
    PEERS += [
        Pair(
            "adahessian | pytorch_optimizer.AdaHessian",
            partial(AdaHessian, lr=LR, averaging="none"),
            partial(peers.AdaHessian, lr=LR, eps=1e-4),
            1,
            True,
        ),
        Pair(
            "sophia_h | pytorch_optimizer.SophiaH",
            partial(SophiaH, lr=LR),
            partial(peers.SophiaH, lr=LR),
            10,
            True,
        ),
        Pair(
            "alig | pytorch_optimizer.AliG",
            partial(ALIG, lr=LR),
            partial(peers.AliG, max_lr=LR, momentum=0.9),
            1,
            False,
        ),
    ]
# numbers in the state of n parameters in some tensors
FLOATS: dict[str, tuple[Make, Callable[[int, int], int]]] = {
    "adahessian": (AdaHessian, lambda n, tensors: 2 * n),
    "sophia_h": (SophiaH, lambda n, tensors: 2 * n),
    "sophia_g": (SophiaG, lambda n, tensors: 2 * n),
}


def nets() -> dict[str, DataTask]:
    """The networks, by the names of the tables."""
    return {"MLP 784-256-10": MLP(), "ResNet-8": ResNet(), "GPT": CharTransformer()}


def fresh(task: DataTask) -> tuple[Objective, list[Batch]]:
    """A new model's loss and ten mini-batches."""
    batches = [batch for batch, _ in zip(task.batches("train", 0), range(10), strict=False)]
    return Objective(task.model(0), task.loss_fn, *batches[0]), batches


def step_costs(task: DataTask, method: Method) -> tuple[float, float, float]:
    """The mean over whole periods, the median and the worst step, in gradient-equivalents."""
    objective, batches = fresh(task)
    optimizer = method.make(list(objective.model.named_parameters()))
    warm = 2 * method.period
    steps, gradients = [], []
    for number in range(warm + -(-LEAST // method.period) * method.period):
        batch = batches[number % len(batches)]
        bare = clocked(objective.on(*batch))
        taken = clocked(partial(optimizer.step, objective.on(*batch)))  # type: ignore[arg-type]
        if number >= warm:
            steps.append(taken)
            gradients.append(bare)
    one = median(gradients)
    return sum(steps) / sum(gradients), median(steps) / one, max(steps) / one


def own(task: DataTask, make: Make) -> Callable[[int], None]:
    """Steps of a method."""
    objective, batches = fresh(task)
    optimizer = make(list(objective.model.named_parameters()))
    return lambda number: optimizer.step(objective.on(*batches[number % len(batches)]))  # type: ignore[arg-type,func-returns-value]


def packaged(task: DataTask, make: Make, graph: bool) -> Callable[[int], None]:
    """Steps of a peer in its package's loop."""
    objective, batches = fresh(task)
    model, loss_fn = objective.model, task.loss_fn
    optimizer = make(list(model.parameters()))

    def step(number: int) -> None:
        inputs, targets = batches[number % len(batches)]
        optimizer.zero_grad()
        loss: Tensor = loss_fn(model(inputs), targets)
        loss.backward(create_graph=graph)
        optimizer.step(lambda: loss.detach())  # type: ignore[arg-type,return-value]

    def twice_differentiable(number: int) -> None:
        with sdpa_kernel(SDPBackend.MATH):
            step(number)

    return twice_differentiable if graph else step


def compared(task: DataTask, pair: Pair) -> tuple[float, float, float]:
    """Milliseconds of a step of each, and the median ratio, over alternating periods."""
    sides = own(task, pair.ours), packaged(task, pair.theirs, pair.graph)
    length = max(pair.period, 5)
    totals: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 1):
        for side, step in enumerate(sides):
            seconds = sum(
                clocked(partial(step, turn * length + number)) for number in range(length)
            )
            if turn:
                totals[side].append(1e3 * seconds / length)
    return median(totals[0]), median(totals[1]), median(a / b for a, b in zip(*totals, strict=True))


def bytes_of_state(
    task: DataTask, make: Make, floats: Callable[[int, int], int]
) -> tuple[int, int]:
    """The state's bytes after a few steps, and those of the formula."""
    objective, batches = fresh(task)
    optimizer = make(list(objective.model.named_parameters()))
    for batch in batches[:3]:
        optimizer.step(objective.on(*batch))  # type: ignore[arg-type]
    sizes = [parameter.numel() for parameter in objective.params]
    return state_bytes(optimizer), 4 * floats(sum(sizes), len(sizes))


def main() -> None:
    """Print every measurement beside its bar."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Using backward")
    console = Console(width=130)
    table = Table(
        "net", "a whole step, in gradients", "amortised", "bar", "median step", "worst step"
    )
    for net, task in nets().items():
        for method in STEPS:
            mean, middle, worst = step_costs(task, method)
            table.add_row(
                net, method.title, f"{mean:.3f}", method.bar, f"{middle:.3f}", f"{worst:.2f}"
            )
    console.print(table)
    table = Table("net", "a whole step, ours | theirs", "ours", "theirs", "ratio (bar 1.0x)")
    for net, task in nets().items():
        for pair in PEERS:
            ours, theirs, ratio = compared(task, pair)
            table.add_row(net, pair.title, f"{ours:.2f} ms", f"{theirs:.2f} ms", f"{ratio:.3f}x")
    console.print(table)
    table = Table("state of the MLP", "measured", "formula", "ratio")
    for title, (make, floats) in FLOATS.items():
        measured, expected = bytes_of_state(MLP(), make, floats)
        table.add_row(title, f"{measured:,} B", f"{expected:,} B", f"{measured / expected:.4f}")
    console.print(table)


if __name__ == "__main__":
    main()
