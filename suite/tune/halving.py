"""Successive halving (Jamieson and Talwalkar 2016).

Runs that do badly, for their length, are not gone on with.

All trials run to a ninth of their steps; the best third of them goes on to a third of the steps,
and the best third of those to the end. A run is planned for its whole length, so its schedule is
that of a whole run, and it is stopped and gone on with bit for bit, so what a survivor comes to is
what it would have come to by itself, in whatever order the trials ran. Trial 0, the default, is
never stopped. What was spent on a trial until it was stopped is recorded.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REDUCTION = 3
RUNGS = 2


@dataclass(frozen=True)
class Halt:
    """Watches one run: it is stopped at the first evaluation at or after a step."""

    step: int
    steps: int

    def __call__(self, step: int, value: float) -> str | None:
        """The reason to stop here, or None."""
        return (
            f"stopped by successive halving at step {step} of {self.steps}"
            if step >= self.step
            else None
        )


def rungs(steps: int) -> list[int]:
    """The steps at which trials are compared."""
    return [math.ceil(steps / REDUCTION**power) for power in range(RUNGS, 0, -1)]


def survivors(scores: Mapping[int, float], rung: int) -> set[int]:
    """The trials that go on beyond a rung, counted from 1, of the scores that all trials of the study had there.

    A trial that did not get there has the score -inf. Of equal ones the earlier goes on.
    """
    places = math.ceil(len(scores) / REDUCTION**rung)
    order = sorted(scores, key=lambda number: (-scores[number], number))
    return {0} | {number for number in order[:places] if scores[number] > -math.inf}


def scores_of(directory: Path, steps: int, metric: str, sign: float) -> list[float]:
    """The score of a run at each rung it has come to: of its first evaluation at or after the rung."""
    try:
        with (directory / "history.csv").open(newline="") as file:
            rows = [(int(row["step"]), row.get(f"val/{metric}")) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    evaluated = [(step, sign * float(value)) for step, value in rows if value]
    found = [
        next((score for step, score in evaluated if step >= rung), None) for rung in rungs(steps)
    ]
    return [score for score in found if score is not None]
