"""Runs in this process: one thread, nothing sent anywhere, all results in the test's own folder."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import suite.app
from suite import paths
from suite.config.compose import Choices, as_command, compose_config, plan_from
from suite.config.instantiate import locate
from suite.config.plan import Plan
from suite.results.frame import Records
from suite.training.runner import Outcome, run
from suite.training.summary import Summary
from suite.tune import __main__ as tune
from tests.suite.verdict_cases import ADAMW, KFAC, Sown, built

QUICK = ("scale=quick", "threads=1", "device=cpu", "wandb.mode=disabled")
UNREPEATABLE = ("seconds", "seconds_per_step", "target_seconds")


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and what it left on disk."""

    plan: Plan
    outcome: Outcome

    @property
    def summary(self) -> Summary:
        return self.outcome.summary

    @property
    def status(self) -> str:
        return str(self.summary["status"])

    @property
    def directory(self) -> Path:
        return self.plan.directory

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        return read_rows(self.directory)

    @property
    def repeatable_rows(self) -> list[dict[str, str]]:
        """The history without the column that no two runs share."""
        return [{key: value for key, value in row.items() if key != "seconds"} for row in self.rows]

    @property
    def repeatable_summary(self) -> Summary:
        return {key: value for key, value in self.summary.items() if key not in UNREPEATABLE}

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.directory / "config.yaml").read_text()))

    @cached_property
    def environment(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "environment.json").read_text()))

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        return dict(torch.load(self.directory / "checkpoint.pt", weights_only=True))

    def column(self, name: str) -> list[float]:
        """The numbers of a column, its empty cells left out."""
        return [float(row[name]) for row in self.rows if row[name] != ""]


@dataclass(frozen=True)
class CommandOutput:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


def read_rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def measured_costs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The oracle costs that all tests share.

    Measured once, and the same for every run that is compared.
    """
    return tmp_path_factory.mktemp("costs")


@pytest.fixture
def results(tmp_path: Path, measured_costs: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "costs").symlink_to(measured_costs)
    return folder


@pytest.fixture(autouse=True)
def contained(results: Path) -> Iterator[None]:
    """One thread, results in the test's folder, and the process as it was afterwards."""
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with mock.patch.dict(os.environ):
        for name in [
            name for name in os.environ if name.startswith(("WANDB_", "SUITE_", "HYDRA_"))
        ]:
            del os.environ[name]
        os.environ.update(SUITE_RESULTS=str(results), KINETO_LOG_LEVEL="99")
        yield
    GlobalHydra.instance().clear()
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.fixture
def planned(results: Path) -> Callable[..., Plan]:
    """Compose a configuration as the command does.

    `planned("optimizer=sgd", "task=mlp", workers=2)`.
    """

    def make(*overrides: str, **circumstances: Any) -> Plan:
        config, choices = composed(overrides)
        settings = {"results": results, "command": as_command(overrides), **circumstances}
        return plan_from(config, choices, **{"experiment": None, **settings})

    return make


@cache
def composed(overrides: tuple[str, ...]) -> tuple[DictConfig, Choices]:
    """The quick configuration of the overrides, and the name that each group took."""
    return compose_config([*QUICK, *overrides])


@pytest.fixture
def train(planned: Callable[..., Plan]) -> Callable[..., Finished]:
    """Carry out, in this process, the run that the overrides ask for."""

    def carry_out(*overrides: str, **circumstances: Any) -> Finished:
        plan = planned(*overrides, **circumstances)
        return Finished(plan, run(plan))

    return carry_out


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CommandOutput]:
    """`python -m suite ...` in this process, at quick size unless told otherwise."""

    def call(*arguments: str) -> CommandOutput:
        options = [argument for argument in arguments if argument.startswith("-")]
        overrides = [argument for argument in arguments if not argument.startswith("-")]
        monkeypatch.setattr(sys, "argv", ["suite", *options, *QUICK, *overrides])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code: Any = 0
        try:
            suite.app.main()
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr()
        return CommandOutput(code or 0, printed.out, printed.err)

    return call


@pytest.fixture
def home(results: Path) -> Path:
    """The results of tuning, with the oracle costs that all tests share."""
    (results / "tune").mkdir()
    (results / "tune" / "costs").symlink_to(results / "costs")
    return results


@pytest.fixture
def tune_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> Callable[..., Any]:
    """`python -m suite.tune ...` in this process: its exit code, and its output."""

    def call(*words: str) -> tuple[int, str, str]:
        out = [] if any(word.startswith("out=") for word in words) else [f"out={home / 'tuned'}"]
        monkeypatch.setattr("sys.argv", ["suite.tune", *words, *out])
        capsys.readouterr()
        code = 0
        try:
            tune.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Write a module of the user's own, importable in this test: `module("mine", source)`.

    Gives its name.
    """
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    written: list[str] = []

    def write(name: str, source: str) -> str:
        (folder / f"{name}.py").write_text(source)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def at_batch() -> Callable[[Plan, int, Callable[[], object]], AbstractContextManager[None]]:
    """Call something when the training data of a step, counted from 1, is drawn.

    `with at_batch(plan, 5, act): ...`.
    """

    @contextmanager
    def arrange(plan: Plan, step: int, act: Callable[[], object]) -> Iterator[None]:
        kind: Any = locate(plan.config["task"]["_target_"], plan.config["allow"])
        original = kind.batches

        def batches(self: Any, split: str, seed: int, start: int = 0) -> Iterator[Any]:
            for number, batch in enumerate(original(self, split, seed, start), start + 1):
                if split == "train" and number == step:
                    act()
                yield batch

        with mock.patch.object(kind, "batches", batches):
            yield

    return arrange


@pytest.fixture
def root() -> Path:
    """The repository."""
    return paths.ROOT


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    """The file of an offline run of this suite's tracker, written by W&B itself."""
    from suite.training.wandb_mirror import Tracker

    config = {
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "betas": [0.9, 0.99]},
        "task": {
            "_target_": "tasks.vision.mlp.Task",
            "note": "x" * 40_000,
        },  # a record longer than a block
        "seed": 3,
        "metric": "accuracy",
        "direction": "max",
        "target": 0.5,
    }
    tracker = Tracker("offline", tmp_path, "0a1b2c3d", config, project="test")
    for step in range(0, 50, 10):
        row = {
            "step": step,
            "seconds": 0.5 * step,
            "loss": "" if step == 0 else 1 / step,
            "grad_equivalents": 2.0 * step,
        }
        tracker.log({**row, "val/accuracy": step / 50, "test/accuracy": step / 100, "grad": step})
    summary = {
        "status": "done",
        "task": "mlp",
        "optimizer": "sgd",
        "seed": 3,
        "steps": 40,
        "final_accuracy": 0.8,
    }
    tracker.finish({**summary, "target": 0.5, "target_step": 30, "counts": {"grad": 40}}, 0)
    importlib.import_module("wandb").teardown()  # its service writes the rest of the file
    (file,) = tmp_path.rglob("*.wandb")
    return file


@pytest.fixture
def two_sides(sown: Sown) -> Callable[..., Records]:
    """Five seeds of kfac and adamw with known costs; `a` and `b` change one side's runs."""

    def make(a: Any = None, b: Any = None, **common: Any) -> Records:
        mine = {"work": 2.0, "pace": 0.03, "memory": 2300, **common, **(a or {})}
        theirs = {"memory": 1000, **common, **(b or {})}
        return built(
            *(
                sown("kfac", seed, cost, final=0.2 + 0.01 * seed, **mine)
                for seed, cost in enumerate(KFAC)
            ),
            *(
                sown("adamw", seed, cost, final=0.3 + 0.013 * seed, **theirs)
                for seed, cost in enumerate(ADAMW)
            ),
        )

    return make
