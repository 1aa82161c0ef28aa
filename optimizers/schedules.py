"""Learning rates that warm up first."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from optimizers.method import require_choice, require_range

Shape = Callable[[float], float]

SHAPES: dict[str, Shape] = {
    "constant": lambda share: 1.0,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - 0.99 * share,
}


def warmup(
    optimizer: Optimizer, total_iters: int, warmup: float = 0.1, after: str = "constant"
) -> LambdaLR:
    r"""A straight line up to the learning rate in the first w steps, then the shape of `after`.

    Step t = 0, 1, ... has the factor (t + 1) / (w + 1) for t < w, so that no step is lost to a rate
    of zero; then, with s = (t - w) / (total_iters - w), the factor is 1 (`constant`), (1 + cos(pi
    s)) / 2 (`cosine`) or 1 - 0.99 s (`linear`), as in the schedules without a warm-up.

    Args:
        optimizer: whose groups' learning rates it sets.
        total_iters: the steps of the run.
        warmup: w, as a share of the run if below 1 (rounded to whole steps), else as a number of
            steps.
        after: `constant`, `cosine` or `linear`.

    Raises:
        ValueError: an argument out of its range, or a warm-up longer than the run.
    """
    require_range("total_iters", total_iters, low=1, whole=True)
    require_range("warmup", warmup, high=total_iters)
    require_choice("after", after, SHAPES)
    steps = round(warmup * total_iters) if warmup < 1 else round(warmup)
    shape, rest = SHAPES[after], max(total_iters - steps, 1)

    def factor(step: int) -> float:
        return (step + 1) / (steps + 1) if step < steps else shape(min((step - steps) / rest, 1.0))

    return LambdaLR(optimizer, factor)
