"""The suite from Python: the functions `run`, `sweep` and `load`; `compare` is in its own room.

They take names and plain values, compose and run as `python -m suite` does, and leave the process
as it was: the arguments of its command, its current folder, its random streams and Hydra's state.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from suite import paths
from suite.config import messages, overrides, registry, torchrun
from suite.config.compose import compose_plan
from suite.errors import ConfigError
from suite.multirun import entry_of, in_words, note_outcome, run_of_a_sweep
from suite.results.parse import read_history
from suite.results.select import filter_texts, load_records, runs_folder
from suite.results.status import Status

if TYPE_CHECKING:
    from suite.config.plan import Plan
    from suite.training.runner import Outcome

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write between the lines
# Hydra's state, torch's random stream and its profiler exist once in a process
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True, repr=False)
class RunResult:
    """A run that has ended, and its record.

    Attributes:
        plan: the run's configuration and names.
        outcome: the summary, and whether it was read from an earlier record.
    """

    plan: Plan
    outcome: Outcome

    @property
    def optimizer(self) -> str:
        """The optimizer's name in results and reports."""
        return self.plan.optimizer

    @property
    def task(self) -> str:
        """The task's name in results and reports."""
        return self.plan.task

    @property
    def seed(self) -> int:
        """The integer that all random streams come from."""
        return self.plan.seed

    @property
    def status(self) -> str:
        """How the run ended: `done`, `diverged`, `unsupported` and so on."""
        return str(self.outcome.status)

    @property
    def metric(self) -> str:
        """The name of the task's metric."""
        return self.outcome.metric

    @property
    def value(self) -> float | None:
        """The final validation value of the metric; None where the run has none."""
        return self.summary.get(f"final_{self.metric}")

    @property
    def summary(self) -> Mapping[str, Any]:
        """The content of summary.json."""
        return self.outcome.summary

    @property
    def directory(self) -> Path:
        """The folder of the record."""
        return self.plan.directory

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        return self.plan.command

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row a logged step: the content of history.csv."""
        return read_history(self.directory / "history.csv", needed=False, ended=True)

    def __repr__(self) -> str:
        return f"<{self.plan.title}: {in_words(entry_of(self.plan, self.outcome))}>"


def run(
    optimizer: str, task: str, /, *, results: str | Path | None = None, **settings: Any
) -> RunResult:
    """Train one optimizer on one task and record the run, as `python -m suite` does.

    A run that is recorded already is read from its record; `force=True` repeats it.

    Examples:
        >>> suite.run("kfac", "mlp", seed=1, optimizer={"lr": 0.1})  # doctest: +SKIP
        <kfac on mlp, seed 1: done, accuracy 0.9, 3.1 s of steps>

    Args:
        optimizer: a name that `python -m suite.list optimizers` lists.
        task: a name that `python -m suite.list tasks` lists.
        results: the folder of all results; None for the usual one.
        **settings: settings of the run by name (`seed=1`, `scale="quick"`, `steps=300`), those of
            the optimizer and the task in mappings (`optimizer={"lr": 0.1}`).

    Returns:
        The status, the summary and the history. A training that fails is a result as well: its
        `status` says so.

    Raises:
        ConfigError: a name or a value that does not exist; the message says what to type.
        ValueError, FileNotFoundError, ImportError: the optimizer or the task cannot be built.
    """
    from suite.training.runner import run as train  # torch comes with it

    plan = _plan(optimizer, task, settings, results)
    with _callers_randomness():
        return RunResult(plan, train(plan))


def sweep(
    optimizers: str | Iterable[str],
    tasks: str | Iterable[str],
    /,
    *,
    seeds: int | Iterable[int] = 1,
    results: str | Path | None = None,
    **settings: Any,
) -> list[RunResult]:
    """Run every optimizer on every task with every seed, one after the other.

    Each run prints a line as it ends. A run that fails is a result, and the others go on.

    Examples:
        >>> suite.sweep(["adamw", "kfac"], ["mlp"], seeds=3, scale="quick")  # doctest: +SKIP
        [1/6] adamw on mlp, seed 0: done, accuracy 0.93, 0.8 s of steps

    Args:
        optimizers: names that `python -m suite.list optimizers` lists.
        tasks: names that `python -m suite.list tasks` lists.
        seeds: the number of seeds, counted from 0, or the seeds.
        results: the folder of all results; None for the usual one.
        **settings: settings of every run, as `run` takes them.

    Returns:
        The runs, task by task, optimizer by optimizer, seed by seed.

    Raises:
        ConfigError: a name or a value that does not exist; no run has begun then.
        KeyboardInterrupt: a run was interrupted; the same call resumes the sweep.
    """
    grid = list(product(_names("tasks", tasks), _names("optimizers", optimizers), _seeds(seeds)))
    plans = [
        _plan(optimizer, task, {"seed": seed, **settings}, results, number=number, total=len(grid))
        for number, (task, optimizer, seed) in enumerate(grid, 1)
    ]
    ended = []
    for plan in plans:
        with _callers_randomness():
            outcome = run_of_a_sweep(plan)
        note_outcome(plan, outcome)
        ended.append(RunResult(plan, outcome))
        if outcome.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
    return ended


def load(results: str | Path | None = None, /, **filters: Any) -> pd.DataFrame:
    """Recorded runs as one tidy frame: a row a logged step of a run.

    Examples:
        >>> frame = suite.load("results", experiment="quick", task="mlp")  # doctest: +SKIP
        >>> frame.groupby("optimizer")["value"].max()  # doctest: +SKIP

    Args:
        results: the folder of all results, or a folder of runs or an archive; None for the usual
            one.
        **filters: only runs with these settings: `task="mlp"`, `seed=[0, 1]`,
            `optimizer={"lr": 0.1}`.

    Returns:
        The columns of `Records.tidy`, those of the run first: run_id, experiment, problem and
        optimizer (the labels of the report), task, scale, seed, status, device, parallel, metric
        and direction (`max` or `min`). Those of the step are: step, seconds, grad_equivalents,
        loss, value and test_value, the metric on the validation and the test split, NaN between
        evaluations. A run without a history has one row without a step. A repeat of a
        (configuration, seed) is left out.

    Raises:
        ConfigError: no run fits; the message says what there is.
    """
    return load_records(runs_folder(results), filter_texts(filters)).tidy()


@contextmanager
def _callers_randomness() -> Iterator[None]:
    """Leave the caller's random streams and torch's threads where they were."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices):
        threads, state = torch.get_num_threads(), random.getstate()
        try:
            yield
        finally:
            random.setstate(state)
            torch.set_num_threads(threads)


def _plan(
    optimizer: str,
    task: str,
    settings: Mapping[str, Any],
    results: str | Path | None,
    **circumstances: Any,
) -> Plan:
    """The plan of one run.

    Raises:
        ConfigError: a name or a value that does not exist.
    """
    _refuse_swapped(optimizer, task)
    _refuse_misplaced({"optimizer": optimizer, "task": task}, settings)
    words = [
        *overrides.as_words({"optimizer": optimizer, "task": task}),
        *overrides.as_words(settings),
    ]
    folder = paths.results() if results is None else Path(results).expanduser().resolve()
    with _ONE_AT_A_TIME, messages.explained(words):
        messages.refuse_nothing(words)
        return compose_plan(words, folder, world_size=torchrun.world_size(), **circumstances)


def _refuse_swapped(optimizer: str, task: str) -> None:
    """Refuse `run("mlp", "adamw")`."""
    if optimizer in registry.names("task") and task in registry.names("optimizer"):
        raise ConfigError(f"the optimizer comes first, then the task: {task!r}, {optimizer!r}")


def _refuse_misplaced(names: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Refuse names that are none, and `lr=0.1` where the optimizer has that setting.

    Such a setting belongs into a mapping.
    """
    for group, name in names.items():
        if not isinstance(name, str):
            raise ConfigError(f"{group} must be a name, got {name!r}")
    for key, value in settings.items():
        if key in names and not isinstance(value, Mapping):
            raise ConfigError(f"{key} takes its settings in a mapping, got {value!r}")
        for group, name in names.items():
            known = name in registry.names(group) and key in registry.read(group, name)
            if known and key not in registry.main():
                raise ConfigError(
                    f"{key} is a setting of the {group} {name}: {group}={{{key!r}: {value!r}}}"
                )


def _names(group: str, names: str | Iterable[str]) -> list[str]:
    listed = [names] if isinstance(names, str) else _listed(group, names)
    if not listed:
        raise ConfigError(f"{group} names nothing to run")
    return listed


def _seeds(seeds: int | Iterable[int]) -> Sequence[int]:
    listed = range(seeds) if isinstance(seeds, int) else _listed("seeds", seeds)
    if isinstance(seeds, bool) or not listed:
        raise ConfigError(f"seeds must be a number above 0 or a list of seeds, got {seeds!r}")
    return listed


def _listed(name: str, values: Iterable[Any]) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list, got {values!r}")
    return list(values)
