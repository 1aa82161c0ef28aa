"""A trial: one setting, and its outcome."""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suite.config.search_space import Settings
from suite.results.status import Status

# a trial whose run was stopped early: the run is `interrupted`, the trial has ended
PRUNED = "pruned"


@dataclass(frozen=True)
class Trial:
    """One setting, and its outcome.

    Attributes:
        number: of the point of the space; 0 is the default setting.
        status: the word of its worst run, or `pruned`.
        value: the final validation metric, over several seeds their mean; None for a trial that
            failed.
        sign: 1 where larger values are better, -1 where smaller ones are.
        seconds, grad_equivalents: spent by its runs.
        runs: their directories, below the folder of all results.
        scores: under successive halving, the score at each rung that it reached.
    """

    number: int
    settings: Settings
    status: str
    value: float | None = None
    sign: float = 1.0
    metric: str = ""
    seconds: float = 0.0
    grad_equivalents: float = 0.0
    runs: Sequence[str] = field(default_factory=list)
    message: str = ""
    scores: Sequence[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Larger is better; a failure is worst."""
        return -math.inf if self.value is None else self.sign * self.value

    @property
    def failed(self) -> bool:
        """Whether it has no value: it diverged, ran out of memory, did not fit."""
        return self.value is None

    def to_dict(self) -> dict[str, Any]:
        """The journal's record of the trial, beside its number and settings."""
        names = (
            "status",
            "value",
            "sign",
            "metric",
            "seconds",
            "grad_equivalents",
            "message",
            "score",
        )
        return {
            **{name: getattr(self, name) for name in names},
            "runs": list(self.runs),
            "scores": list(self.scores),
        }

    @classmethod
    def from_dict(cls, number: int, settings: Settings, record: Mapping[str, Any]) -> Trial:
        """The trial of a journal's record."""
        fields = {name: value for name, value in record.items() if name != "score"}
        return cls(number, settings, **fields)


def grad_equivalents(directory: Path) -> float:
    """Gradient-equivalents of a run, from the last row of its history; 0 where it did not begin."""
    try:
        with (directory / "history.csv").open(newline="") as file:
            (last,) = deque(csv.DictReader(file), maxlen=1)
        return float(last["grad_equivalents"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def killed(attempts: int) -> Trial:
    """A trial over which one process after another was killed."""
    message = f"{attempts} processes were killed over this trial"
    return Trial(0, {}, str(Status.ERROR), message=message)
