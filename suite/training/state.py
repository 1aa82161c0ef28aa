"""The numbers of a run that change with its steps, as a checkpoint keeps them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

EXPLODED = 1e6  # a loss of this many times the first one will not come back


@dataclass(slots=True)
class RunState:
    """Where a run is.

    Attributes:
        step: steps taken.
        seconds: of the optimizer's steps, on the run's clock.
        loss: of the latest step, at its start.
        first_loss: of the first step; NaN before it.
        value: the metric at the latest evaluation.
        best: the best value of the metric.
        target: step, seconds and gradient equivalents when the target was first reached, or empty.
        fresh_drawn: mini-batches drawn beside those of the steps.
    """

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    first_loss: float = math.nan
    value: float = math.nan
    best: float = math.nan
    target: dict[str, float] = field(default_factory=dict)
    fresh_drawn: int = 0

    def advance(self, loss: float, seconds: float) -> bool:
        """Count a step; whether its loss is a number of a believable size."""
        self.step += 1
        self.seconds += seconds
        self.loss = loss
        if math.isnan(self.first_loss):
            self.first_loss = loss
        return -math.inf < loss <= EXPLODED * max(1.0, abs(self.first_loss))

    def judge(self, value: float, sign: float) -> None:
        """Note a value of the metric, of which `sign` times is to be large."""
        self.value = value
        if math.isnan(self.best) or sign * value > sign * self.best:
            self.best = value

    def to_dict(self) -> dict[str, Any]:
        """The numbers by name, for a checkpoint."""
        return asdict(self)

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Take over the numbers of a checkpoint."""
        for each in fields(self):
            setattr(self, each.name, numbers[each.name])


def failures_of(optimizer: object) -> dict[str, int]:
    """The failures that an optimizer survived so far, by name."""
    return dict(getattr(optimizer, "failures", {}))


def restore_failures(optimizer: Any, counts: Mapping[str, int]) -> None:
    """Let an optimizer count on from the failures of a checkpoint."""
    if counts:
        optimizer.failures = Counter(counts)
