"""Runs whose cost to reach a target is planted, in memory or on disk.

What comparisons find must be what was put in.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import yaml

from suite.results.run import Run, assemble

CLASSES = {
    "adamw": "torch.optim.AdamW",
    "sgd": "torch.optim.SGD",
    "kfac": "optimizers.natural_gradient.KFAC",
}
START, TARGET = 2.0, 0.5


@dataclass(frozen=True)
class Planted:
    """One run of a method that is at the target from step `cost` on (never where it is None) and
    ends at `final`.

    Attributes:
        every: steps between evaluations, so that the cost is seen at the next multiple of it.
        work: gradient-equivalents of a step.
        pace: seconds of a step.
        cut: the step at which the run broke off.
        hyper, task_settings, config, summary, environment: further entries of its files.
    """

    optimizer: str = "adamw"
    seed: int = 0
    cost: float | None = 100
    final: float | None = 0.25
    task: str = "mlp"
    steps: int = 400
    every: int = 1
    work: float = 1.0
    pace: float = 0.01
    status: str = "done"
    cut: int | None = None
    parallel: bool = False
    memory: int = 1000
    hyper: tuple[tuple[str, Any], ...] = (("lr", 0.123),)
    task_settings: tuple[tuple[str, Any], ...] = (("data", "digits"),)
    config: tuple[tuple[str, Any], ...] = ()
    summary: tuple[tuple[str, Any], ...] = ()
    environment: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What stands in config.yaml."""
        target = CLASSES.get(self.optimizer, f"elsewhere.{self.optimizer}")
        return {
            "optimizer": {"_target_": target, **dict(self.hyper)},
            "task": {"_target_": f"tasks.vision.{self.task}.Task", **dict(self.task_settings)},
            "seed": self.seed,
            "scale": "quick",
            "steps": self.steps,
            "target": TARGET,
            "device": "cpu",
            "precision": "float32",
            "metric": "error",
            "direction": "min",
            "command": f"python -m suite optimizer={self.optimizer} task={self.task} "
            f"seed={self.seed} scale=quick",
            **dict(self.config),
        }

    @property
    def summary_json(self) -> dict[str, Any]:
        """What stands in summary.json."""
        if self.status == "unfinished":
            return {}
        ended = self.status in ("done", "target", "timeout")
        return {
            "status": self.status,
            "task": self.task,
            "optimizer": self.optimizer,
            "seed": self.seed,
            "steps": self._last,
            "seconds": self._last * self.pace,
            "seconds_per_step": self.pace,
            "final_error": self.final if ended else None,
            "final_loss": 0.1,
            "target": TARGET,
            "peak_memory_bytes": self.memory,
            "state_bytes": 10,
            "parallel": self.parallel,
            "message": "",
            **dict(self.summary),
        }

    @property
    def history(self) -> pd.DataFrame:
        """What stands in history.csv: a row an evaluation."""
        steps = np.arange(0, self._last + 1, self.every, dtype=float)
        values = np.where(steps >= (math.inf if self.cost is None else self.cost), TARGET, START)
        values[0] = START + 0.001 * self.seed
        values[-1:] = values[-1] if self.final is None or self.cut is not None else self.final
        columns = {
            "step": steps,
            "seconds": steps * self.pace,
            "loss": values,
            "grad_equivalents": steps * self.work,
        }
        return pd.DataFrame({**columns, "val/error": values})

    @property
    def run(self) -> Run:
        """The run in memory."""
        return assemble(
            self._folder(Path("runs")),
            self.settings,
            self.summary_json,
            self._machine,
            self.history,
            1.0,
        )

    def write(self, root: Path) -> Path:
        """The run as a directory under `root`."""
        folder = self._folder(root)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        self.history.to_csv(folder / "history.csv", index=False)
        (folder / "environment.json").write_text(json.dumps(self._machine), encoding="utf-8")
        if self.summary_json:
            (folder / "summary.json").write_text(json.dumps(self.summary_json), encoding="utf-8")
        return folder

    @property
    def _last(self) -> int:
        return self.steps if self.cut is None else self.cut

    @property
    def _machine(self) -> dict[str, Any]:
        return {"cpu": "Some CPU", "gpu": None, "threads": 1, **dict(self.environment)}

    def _folder(self, root: Path) -> Path:
        return root / self.task / self.optimizer / f"{crc32(repr(self).encode()):08x}"


@pytest.fixture(scope="session")
def sown() -> type[Planted]:
    """The class of runs with a planted cost.

    `sown("kfac", seed, cost, ...).run`, or `.write(folder)`.
    """
    return Planted
