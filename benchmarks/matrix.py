"""The cost of matrix methods on a small character transformer, one thread.

Three tables. A whole step in gradient-equivalents: processor seconds of `optimizer.step`, which
computes one gradient, over those of a bare gradient, the two alternating, summed over whole periods
of the preconditioner; and the most expensive step beside the median one. The optimizer's own
seconds beside packaged peers on the same gradients: periods of each alternate, and the median ratio
is reported; torch's AdamW takes the parameters that a peer does not. The bytes of state beside the
formula.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from optimizers import Objective
from optimizers.layers.roles import Role, model_roles
from optimizers.matrix import SOAP, KLShampoo, Muon, Shampoo
from suite.training.measures.memory import state_bytes
from tasks.language.char_transformer import CharTransformer
from tasks.task import Batch

try:
    import pytorch_optimizer
except ImportError:  # the peers' table then lacks its rows
    pytorch_optimizer = None

PERIODS = 4
ROUNDS = 9
LR = 1e-4
Make = Callable[[Iterable[Any]], torch.optim.Optimizer]
Row = tuple[str, Make, int, str]

STEPS: list[Row] = [  # title, method, steps in a period, bar
    ("adamw (torch, fused)", partial(torch.optim.AdamW, lr=LR, fused=True), 10, ""),
    ("muon", partial(Muon, lr=LR), 10, "1.15"),
    ("shampoo, period 20", partial(Shampoo, lr=LR), 20, "1.20"),
    ("shampoo, period 20, staggered", partial(Shampoo, lr=LR, staggered=True), 20, ""),
    ("soap, period 10", partial(SOAP, lr=LR), 10, "1.20"),
    ("soap, period 10, staggered", partial(SOAP, lr=LR, staggered=True), 10, ""),
    ("kl_shampoo, period 10", partial(KLShampoo, lr=LR), 10, ""),
    ("kl_shampoo, adam_in_basis", partial(KLShampoo, lr=LR, adam_in_basis=True), 10, ""),
]
FLOATS: dict[str, tuple[Make, Callable[[int, int], int]]] = {  # state of a matrix m x n
    "muon": (Muon, lambda m, n: m * n),
    "shampoo (adam grafting, momentum)": (
        partial(Shampoo, start=1),
        lambda m, n: 2 * (m * m + n * n) + 2 * m * n,
    ),
    "soap": (SOAP, lambda m, n: 2 * (m * m + n * n) + 2 * m * n),
    "kl_shampoo": (KLShampoo, lambda m, n: 2 * (m * m + n * n) + m * n),
}


def objective_for(task: CharTransformer) -> tuple[Objective, list[Batch]]:
    """A new model's loss and twenty mini-batches."""
    batches = [batch for batch, _ in zip(task.batches("train", 0), range(20), strict=False)]
    return Objective(task.model(0), task.loss_fn, *batches[0]), batches


def clocked(call: Callable[[], Any]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def step_costs(task: CharTransformer, make: Make, period: int) -> tuple[float, float, float]:
    """A step in gradient-equivalents: the mean over whole periods, the median, the worst one."""
    objective, batches = objective_for(task)
    optimizer = make(list(objective.model.named_parameters()))
    steps, gradients = [], []
    for number in range((PERIODS + 2) * period):
        batch = batches[number % len(batches)]
        bare = clocked(objective.on(*batch))
        taken = clocked(partial(optimizer.step, objective.on(*batch)))  # type: ignore[arg-type]
        if number >= 2 * period:
            steps.append(taken)
            gradients.append(bare)
    one = median(gradients)
    return sum(steps) / sum(gradients), median(steps) / one, max(steps) / one


class Given:
    """Precomputed gradients in the place of an objective."""

    def __init__(self, objective: Objective, batches: list[Batch]) -> None:
        self.params, self.model = objective.params, objective.model
        self.loss = torch.zeros(())
        self.gradients: list[list[Tensor | None]] = []
        for batch in batches:
            objective.on(*batch)()
            self.gradients.append([None if p.grad is None else p.grad.clone() for p in self.params])

    def use(self, number: int) -> None:
        """Set one batch's gradients."""
        for parameter, gradient in zip(
            self.params, self.gradients[number % len(self.gradients)], strict=True
        ):
            parameter.grad = gradient

    def __call__(self) -> Tensor:
        return self.loss


Step = Callable[[], Any]


def split(
    model: nn.Module, kinds: tuple[Role, ...]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of some roles, and the others."""
    roles = model_roles(model)
    return [p for p, role in roles.items() if role in kinds], [
        p for p, role in roles.items() if role not in kinds
    ]


def packaged(task: CharTransformer, kinds: tuple[Role, ...], make: Make) -> tuple[Given, Step]:
    """A peer on the matrices of some roles, and torch's AdamW on all other parameters."""
    given = Given(*objective_for(task))
    matrices, others = split(given.model, kinds)
    peer, adamw = make(matrices), torch.optim.AdamW(others, lr=LR, fused=True)
    return given, lambda: (peer.step(), adamw.step())


def own(task: CharTransformer, make: Make) -> tuple[Given, Step]:
    """One of our methods on the whole model."""
    given = Given(*objective_for(task))
    optimizer = make(list(given.model.named_parameters()))
    return given, lambda: optimizer.step(given)  # type: ignore[arg-type]


def compared(
    ours: tuple[Given, Step], theirs: tuple[Given, Step], period: int
) -> tuple[float, float, float]:
    """Milliseconds of a step of each, and the median ratio, over alternating periods."""
    sides = (ours, theirs)
    totals: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 2):
        for side, (given, step) in enumerate(sides):
            seconds = 0.0
            for number in range(period):
                given.use(turn * period + number)
                seconds += clocked(step)
            if turn >= 2:  # after the first root or basis
                totals[side].append(1e3 * seconds / period)
    return median(totals[0]), median(totals[1]), median(a / b for a, b in zip(*totals, strict=True))


def peers() -> list[tuple[str, Make, Make, tuple[Role, ...], int]]:
    """A row for each pair: ours, the peer with the same work, the peer's roles, the period."""
    matrices = (Role.HIDDEN, Role.EMBEDDING, Role.HEAD)
    half = partial(Muon, lr=LR, precision="bfloat16")
    rows: list[tuple[str, Make, Make, tuple[Role, ...], int]] = [
        ("muon, bfloat16 | torch.optim.Muon", half, torch.optim.Muon, (Role.HIDDEN,), 10),
        (
            "muon, float32 | torch.optim.Muon",
            partial(Muon, lr=LR),
            partial(torch.optim.Muon, lr=LR),
            (Role.HIDDEN,),
            10,
        ),
    ]
    if pytorch_optimizer is None:
        return rows
    soap = partial(pytorch_optimizer.SOAP, lr=LR, precondition_frequency=10)
    plain = partial(Shampoo, lr=LR, beta1=0.0, beta2=1.0, grafting="none", eps=1e-6)
    shampoo = partial(pytorch_optimizer.Shampoo, lr=LR, preconditioning_compute_steps=20)
    often = {"start_preconditioning_step": 20, "preconditioning_compute_steps": 20}
    scalable = partial(pytorch_optimizer.ScalableShampoo, lr=LR, graft_type=2, **often)
    return [
        *rows,
        ("soap | pytorch_optimizer.SOAP", partial(SOAP, lr=LR), soap, matrices, 10),
        ("shampoo, no graft, sums | pytorch_optimizer.Shampoo", plain, shampoo, matrices, 20),
        (
            "shampoo | ScalableShampoo, svd",
            partial(Shampoo, lr=LR),
            partial(scalable, use_svd=True),
            matrices,
            20,
        ),
        (
            "shampoo | ScalableShampoo, Schur-Newton",
            partial(Shampoo, lr=LR),
            scalable,
            matrices,
            20,
        ),
    ]


def bytes_of_state(
    task: CharTransformer, make: Make, floats: Callable[[int, int], int]
) -> tuple[int, int]:
    """The state's bytes after a few steps, and those of the formula with AdamW's for the rest."""
    objective, batches = objective_for(task)
    optimizer: Any = make(list(objective.model.named_parameters()))
    for batch in batches[:3]:
        optimizer.step(objective.on(*batch))
    rules = optimizer.layer_coverage()
    expected = 0
    for name, parameter in objective.model.named_parameters():
        taken = rules[name] == optimizer.rule
        expected += 4 * floats(*parameter.flatten(1).shape) if taken else 8 * parameter.numel() + 4
    return state_bytes(optimizer), expected


def main() -> None:
    """Print every measurement beside its bar."""
    torch.set_num_threads(1)
    task, console = CharTransformer(), Console(width=130)
    table = Table(
        "a whole step, in gradients",
        "amortised",
        "bar",
        "median step",
        "worst step",
        "worst over median",
    )
    for title, make, period, bar in STEPS:
        mean, middle, worst = step_costs(task, make, period)
        table.add_row(
            title, f"{mean:.3f}", bar, f"{middle:.3f}", f"{worst:.2f}", f"{worst / middle:.2f}"
        )
    console.print(table)
    table = Table("the optimizer alone, ours | theirs", "ours", "theirs", "ratio (bar 1.0x)")
    for title, make, peer, kinds, period in peers():
        ours, theirs, ratio = compared(own(task, make), packaged(task, kinds, peer), period)
        table.add_row(title, f"{ours:.2f} ms", f"{theirs:.2f} ms", f"{ratio:.2f}x")
    console.print(table)
    table = Table("state", "measured", "formula", "ratio (bar 1.01)")
    for title, (make, floats) in FLOATS.items():
        measured, expected = bytes_of_state(task, make, floats)
        table.add_row(title, f"{measured:,} B", f"{expected:,} B", f"{measured / expected:.4f}")
    console.print(table)


if __name__ == "__main__":
    main()
