"""Successive halving (Jamieson and Talwalkar 2016): the worse runs end early.

All trials run to a ninth of their steps; the best third of them continues to a third of the steps,
and the best third of those to the end. A run is planned for its whole length, so its schedule is
that of a whole run. It stops and resumes bit for bit, so a survivor ends where an uninterrupted run
ends, whatever the order of the trials. Trial 0, the default, is never stopped. The cost of a
stopped trial is recorded.
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
    """Stops a run at the first evaluation at or after a step."""

    step: int
    steps: int

    def __call__(self, step: int, value: float) -> str | None:
        """The reason to stop here, or None."""
        if step < self.step:
            return None
        return f"stopped by successive halving at step {step} of {self.steps}"


def rungs(steps: int) -> list[int]:
    """The steps at which trials are compared."""
    return [math.ceil(steps / REDUCTION**power) for power in range(RUNGS, 0, -1)]


def survivors(scores: Mapping[int, float], rung: int) -> set[int]:
    """The trials that continue beyond a rung, counted from 1.

    Args:
        scores: of all trials of the study at the rung; -inf for one that did not reach it. Of equal
            scores the earlier trial continues.
        rung: its number.
    """
    places = math.ceil(len(scores) / REDUCTION**rung)
    order = sorted(scores, key=lambda number: (-scores[number], number))
    return {0} | {number for number in order[:places] if scores[number] > -math.inf}


def scores_of(directory: Path, steps: int, metric: str, sign: float) -> list[float]:
    """The score of a run at each rung it reached: that of the first evaluation from the rung on."""
    try:
        with (directory / "history.csv").open(newline="") as file:
            rows = [(int(row["step"]), row.get(f"val/{metric}")) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    evaluated = [(step, sign * float(value)) for step, value in rows if value]
    later = [[score for step, score in evaluated if step >= rung] for rung in rungs(steps)]
    return [scores[0] for scores in later if scores]
