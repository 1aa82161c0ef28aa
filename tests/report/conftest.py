"""Synthetic run directories, written in the record's format, whose numbers the tests can work out
by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import yaml

from suite.report.drawing.style import Look, looks
from suite.report.section import PROBLEM, Context
from suite.results.frame import Records, build_records
from suite.results.load import load_runs
from suite.results.timings import Timings

TARGETS = {
    "sgd": "torch.optim.SGD",
    "adamw": "torch.optim.AdamW",
    "lbfgs": "torch.optim.LBFGS",
    "kfac": "optimizers.natural_gradient.kfac.KFAC",
    "newton": "optimizers.newton.newton.Newton",
}


@dataclass(frozen=True)
class Training:
    """What a synthetic run went through. `final` is the metric at the end.

    `cut` the step at which it stopped.
    """

    final: float = 0.9
    steps: int = 20
    status: str = "done"
    message: str = ""
    cut: int | None = None
    target_step: int | None = None
    seconds_per_step: float = 0.01


def write_run(
    root: Path,
    task: str = "mlp",
    optimizer: str = "sgd",
    seed: int = 0,
    training: Training | None = None,
    *,
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    hyper: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write one run directory and give back its path.

    Every keyword overrides keys of one of its files.
    """
    training = training or Training()
    full = _config(task, optimizer, seed, training, hyper or {}, settings or {}) | (config or {})
    identity = json.dumps(
        {key: full[key] for key in full if key not in ("experiment", "command")}, sort_keys=True
    )
    directory = root / task / optimizer / f"{crc32(identity.encode()):08x}"
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(full), encoding="utf-8")
    (directory / "history.csv").write_text(_history(training, full["metric"]), encoding="utf-8")
    (directory / "environment.json").write_text(
        json.dumps(_environment() | (environment or {})), encoding="utf-8"
    )
    if training.status != "unfinished":
        content = _summary(task, optimizer, seed, training, full["metric"]) | (summary or {})
        (directory / "summary.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """`write_run` for a folder of the test's own choice."""
    return write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder that the synthetic runs of a test go to."""
    return tmp_path / "runs"


@pytest.fixture
def record(runs: Path) -> Callable[..., Path]:
    """`write_run` into the test's folder: `record(task, optimizer, seed, Training(...), ...)`."""
    return partial(write_run, runs)


@pytest.fixture(scope="session")
def training() -> type[Training]:
    """The class that describes what a synthetic run went through."""
    return Training


def _config(
    task: str,
    optimizer: str,
    seed: int,
    training: Training,
    hyper: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    return {
        "optimizer": {
            "_target_": TARGETS.get(optimizer, f"elsewhere.{optimizer}"),
            "lr": 0.1,
            **hyper,
        },
        "task": {"_target_": f"tasks.vision.{task}.Task", "data": "digits", **settings},
        "schedule": {"name": "constant"},
        "seed": seed,
        "scale": "quick",
        "steps": training.steps,
        "eval_every": 5,
        "experiment": None,
        "device": "cpu",
        "precision": "float32",
        "metric": "accuracy",
        "direction": "max",
        "command": f"python -m suite optimizer={optimizer} task={task} seed={seed}",
    }


def _history(training: Training, metric: str) -> str:
    """Loss falls from 2 to its end along an exponential; the metric rises evenly to `final`."""
    counted = "value,grad,hvp,ggnvp,jac,grad_equivalents"
    header = f"step,epoch,seconds,loss,lr,{counted},val/{metric},test/{metric}"
    lines = [header]
    last = training.steps if training.cut is None else training.cut
    if training.status == "unsupported":
        return header + "\n"
    for step in range(last + 1):
        part = step / training.steps
        loss = "" if step == 0 else f"{2 * np.exp(-4 * part):.6g}"
        if training.status == "diverged" and step == last:
            loss = "nan"
        value = f"{training.final * part:.6g}" if step % 5 == 0 else ""
        seconds = step * training.seconds_per_step
        lines.append(
            f"{step},{part:.4g},{seconds:.6g},{loss},0.1,0,{step},0,0,0,{2 * step},{value},{value}"
        )
    return "\n".join(lines) + "\n"


def _summary(
    task: str, optimizer: str, seed: int, training: Training, metric: str
) -> dict[str, Any]:
    reached = training.target_step
    ended = training.status in ("done", "target")
    return {
        "status": training.status,
        "task": task,
        "optimizer": optimizer,
        "seed": seed,
        "steps": training.steps if training.cut is None else training.cut,
        "seconds": training.steps * training.seconds_per_step,
        "seconds_per_step": None if training.status == "unsupported" else training.seconds_per_step,
        "final_loss": 0.25 if ended else None,
        f"best_{metric}": training.final if ended else None,
        f"final_{metric}": training.final if ended else None,
        "target": 0.8,
        "target_step": reached,
        "target_seconds": None if reached is None else reached * training.seconds_per_step,
        "target_grad_equivalents": None if reached is None else 2.0 * reached,
        "counts": {"value": 0, "grad": training.steps},
        "state_bytes": 2048,
        "peak_memory_bytes": 3 * 2**20,
        "parallel": False,
        "message": training.message,
    }


def _environment() -> dict[str, Any]:
    return {
        "python": "3.11.7",
        "torch": "2.13.0",
        "cpu": "Some CPU",
        "gpu": None,
        "threads": 1,
        "commit": "abc1234",
    }


STEPS = 100  # of a planted run; its metric is looked at every fifth step
Planted = Mapping[tuple[str, str], Sequence[float]]


@pytest.fixture
def plant(runs: Path) -> Callable[..., Records]:
    """Records of runs that reach level 0.5 at the steps asked for.

    `plant({("mlp", "sgd"): [10, 20, inf]}, ...)` has three seeds of sgd, the last of which never
    gets there. Every keyword goes to `write_run`, or is a function of (task, optimizer) that gives
    it.
    """

    def planted(cells: Planted, timings: Timings | None = None, **options: Any) -> Records:
        for (task, optimizer), steps in cells.items():
            settings = {
                name: one(task, optimizer) if callable(one) else one
                for name, one in options.items()
            }
            config = {"target": 0.5, **settings.pop("config", {})}
            seconds = settings.pop("seconds_per_step", 0.01)
            for seed, step in enumerate(steps):
                final = 0.25 if np.isinf(step) else 0.5 * STEPS / step * (1 + 1e-5)
                one_run = Training(final=final, steps=STEPS, seconds_per_step=seconds)
                write_run(runs, task, optimizer, seed, one_run, config=config, **settings)
        return build_records(*load_runs(runs), timings)

    return planted


@pytest.fixture(scope="session")
def styled() -> Callable[[Records], dict[str, Look]]:
    """The look of every optimizer of some records."""
    return lambda records: looks([(name, name, "") for name in records.optimizers])


@pytest.fixture
def context(tmp_path: Path, styled: Callable[[Records], dict[str, Look]]) -> Callable[..., Context]:
    """What a problem's page gives its sections, with figures in the test's folder."""

    def build_context(
        records: Records, trials: pd.DataFrame | None = None, timings: Timings | None = None
    ) -> Context:
        measured = records if timings is None else replace(records, timings=timings)
        tried = pd.DataFrame() if trials is None else trials
        return Context(PROBLEM, measured, styled(records), tmp_path, tmp_path, tried)

    return build_context
