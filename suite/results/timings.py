"""Isolated timings: seconds measured while the machine ran nothing else.

A timing belongs to an optimizer, a task and a machine, and lies in a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from suite.config import task_file
from suite.config.instantiate import DESCRIPTIVE
from suite.files import digest, to_json, write_atomically

# settings beside optimizer and task that cost time
SPEED = ("precision", "compile", "accumulate", "clip_grad_norm")
# settings of a task that say how long it runs, not how long a step takes
LENGTH = ("steps", "target", "eval_every")


Place = tuple[str, str]  # the key of the settings, and the hardware


@dataclass(frozen=True)
class Timing:
    """What one step of a pair costs on one machine.

    Attributes:
        key: of the settings that a step's seconds depend on (`speed_key`).
        hardware: device, model and threads that it was measured on, as in the report's tables.
        seconds_per_step: the median over windows of their mean step, refreshes included.
        windows: the mean step of each window.
        phases: seconds per step by phase, from a pass of its own; what no phase claims is `other`.
        command: what repeats it.
        steps: the number of steps that a window's mean is over.
        first: how many steps were taken before those; 0 where a window begins where a run does.
        period: the number of steps after which refreshes repeat; a window that is shorter than a
            run has whole ones.
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
    def place(self) -> Place:
        """What it holds for: runs of these settings on this hardware."""
        return self.key, self.hardware

    @property
    def name(self) -> str:
        """`<key>-<digits>`, the digits those of the hardware's name."""
        return f"{self.key}-{digest(self.hardware)}"

    @property
    def spread(self) -> float:
        """The largest window's mean step over the smallest one's."""
        return (
            max(self.windows) / min(self.windows)
            if self.windows and min(self.windows) > 0
            else float("inf")
        )


Timings = Mapping[Place, Timing]


def speed_key(config: Mapping[str, Any]) -> str:
    """8 hex digits over the settings that a step's seconds depend on.

    Of the device it is the kind that counts; a timing holds on its own hardware alone
    (`Timing.place`).
    """
    task = {
        name: value
        for name, value in task_file.identifying(config["task"]).items()
        if name not in LENGTH
    }
    optimizer = {
        name: value for name, value in config["optimizer"].items() if name not in DESCRIPTIVE
    }
    rest = {name: config.get(name) for name in SPEED}
    if (ranks := config.get("world_size") or 1) > 1:
        rest["world_size"] = ranks
    return digest(
        {"task": task, "optimizer": optimizer, "kind": str(config.get("device", "cpu")), **rest}
    )


def placed(timings: Iterable[Timing]) -> dict[Place, Timing]:
    """Timings by what they hold for; of two for the same the later one."""
    return {one.place: one for one in timings}


def store(timing: Timing, folder: Path) -> Path:
    """Write `<folder>/<task>/<optimizer>/<name>.json`.

    It replaces an earlier measurement on the same hardware; those of several machines lie side by
    side.
    """
    pair = folder / timing.task / timing.optimizer
    path = pair / f"{timing.name}.json"
    write_atomically(path, to_json(asdict(timing)))
    return path


def load(folder: Path) -> dict[Place, Timing]:
    """All stored timings by what they hold for; a file that cannot be read is left out."""
    return placed(
        timing
        for path in sorted(folder.glob("*/*/*-*.json"))
        if (timing := _read(path)) is not None
    )


def from_json(content: Mapping[str, Any]) -> Timing:
    """A timing from what `asdict` made of one; TypeError or KeyError where it is something else."""
    return Timing(**{**content, "windows": tuple(content["windows"])})


def _read(path: Path) -> Timing | None:
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
