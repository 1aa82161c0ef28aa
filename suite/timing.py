"""Seconds that were measured with the machine to oneself: what they belong to, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from suite import user_file
from suite.build import DESCRIPTIVE
from suite.record import digest, to_json, write_atomically

SPEED = ("precision", "compile", "accumulate", "clip_grad_norm")  # settings beside optimizer and task that cost time
LENGTH = ("steps", "target", "eval_every")  # settings of a task that say how long it runs, not how long a step takes


@dataclass(frozen=True)
class Timing:
    """What one step of a pair costs on one machine.

    Attributes:
        key: of the settings that a step's seconds depend on (`speed_key`).
        hardware: what it was measured on, as in the report's tables.
        seconds_per_step: the median over windows of their mean step, refreshes included.
        windows: the mean step of each window.
        phases: seconds per step by phase, from a pass of its own; what no phase claims is `other`.
        command: what repeats it.
        steps: the number of steps that a window's mean is over.
        first: how many steps were taken before those; 0 where a window begins where a run does.
        period: the number of steps after which refreshes repeat; a window that is shorter than a run has whole ones.
        others: how many cores other processes kept busy meanwhile; None where nobody can tell.
        shared: whether that was enough to doubt the figures.
    """

    key: str
    task: str
    optimizer: str
    hardware: str
    seconds_per_step: float
    windows: tuple[float, ...]
    phases: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    steps: int = 0
    first: int = 0
    period: int = 1
    others: float | None = None
    shared: bool = False

    @property
    def spread(self) -> float:
        """The largest window's mean step over the smallest one's."""
        return max(self.windows) / min(self.windows) if self.windows and min(self.windows) > 0 else float("inf")


def speed_key(config: Mapping[str, Any], kind: str) -> str:
    """8 hex digits over what a step's seconds depend on, from a composed or a recorded configuration."""
    task = {name: value for name, value in user_file.identifying(config["task"]).items() if name not in LENGTH}
    optimizer = {name: value for name, value in config["optimizer"].items() if name not in DESCRIPTIVE}
    rest = {name: config.get(name) for name in SPEED}
    return digest({"task": task, "optimizer": optimizer, "kind": kind, **rest})


def store(timing: Timing, folder: Path) -> Path:
    """Write `<folder>/<task>/<optimizer>/<key>.json`, in place of an earlier measurement."""
    path = folder / timing.task / timing.optimizer / f"{timing.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(asdict(timing)))
    return path


def load(folder: Path) -> dict[str, Timing]:
    """All stored timings by their key; a file that cannot be read is left out."""
    found: dict[str, Timing] = {}
    for path in sorted(folder.glob("*/*/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            timing = Timing(**{**content, "windows": tuple(content["windows"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        found[timing.key] = timing
    return found
