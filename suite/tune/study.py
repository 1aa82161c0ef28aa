"""A request for tuning, and its studies: one for each optimizer and task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite import paths
from suite.config.overrides import as_word
from suite.config.search_space import Settings, Space, checked
from suite.errors import ConfigError
from suite.files import digest
from suite.tune.sampling import EXCHANGEABLE, QUASI, SEED

if TYPE_CHECKING:
    from suite.config.plan import Plan

TUNING_SEED = 1000  # none of the seeds that comparisons use
GROUP = "tune"  # the experiment, and W&B's job_type, of every trial
NO_PRUNER, HALVING = PRUNERS = ("none", "halving")


def _cores() -> int:
    from suite.config.device import cores  # which brings in torch

    return cores()


@dataclass(frozen=True)
class Request:
    """The pairs to tune, and the budget.

    Attributes:
        optimizers, tasks: the pairs to tune are their product.
        trials: the number of settings tried for each pair.
        jobs: how many run at once.
        overrides: further settings of every run, as typed.
        out: where the tuned YAML files go.
        sampler, pruner: how settings are chosen, and whether the worse runs are stopped early.
        seeds: how many seeds a setting is tried with; its value is their mean.
        storage: the folder of the studies, shared by all processes that work on them.
    """

    optimizers: Sequence[str]
    tasks: Sequence[str]
    trials: int = 12
    jobs: int = field(default_factory=_cores)
    overrides: Sequence[str] = ()
    out: Path = paths.CONFIGS / "tuned"
    sampler: str = QUASI
    pruner: str = NO_PRUNER
    seeds: int = 1
    storage: Path | None = None

    def __post_init__(self) -> None:
        if self.pruner == HALVING and (self.seeds > 1 or self.sampler not in EXCHANGEABLE):
            raise ConfigError(
                "pruner=halving runs all trials side by side, a run each: leave out seeds and "
                "sampler=tpe, or the pruner"
            )

    @property
    def command(self) -> str:
        """The command that repeats the study."""
        parts = [
            f"optimizer={','.join(self.optimizers)}",
            f"task={','.join(self.tasks)}",
            f"trials={self.trials}",
        ]
        usual = {"sampler": QUASI, "pruner": NO_PRUNER, "seeds": 1}
        parts += [
            f"{name}={getattr(self, name)}"
            for name, value in usual.items()
            if getattr(self, name) != value
        ]
        return shlex.join(["python", "-m", "suite.tune", *parts, *self.overrides])

    @property
    def folder(self) -> Path:
        """The folder of the studies."""
        return self.storage or paths.results() / "tune" / "studies"


@dataclass(frozen=True)
class Study:
    """The trials of one optimizer on one task.

    Attributes:
        optimizer, task: the names of the YAML files.
        plan: the run of trial 0, the default setting.
        space: of the search; a setting of the command line is not searched.
        request: the whole that the study is part of.
    """

    optimizer: str
    task: str
    plan: Plan
    space: Space
    request: Request

    @property
    def label(self) -> str:
        """The optimizer's name in results, with that of one of many that a YAML serves."""
        return self.plan.optimizer

    @property
    def problem(self) -> str:
        """The task's name in results, that of its file where a file makes it."""
        return self.plan.task

    @property
    def trials(self) -> int:
        """The number of trials; with an empty space the default is the only one."""
        return self.request.trials if self.space else 1

    @property
    def seeds(self) -> list[int]:
        """The seeds of each setting."""
        return [TUNING_SEED + number for number in range(self.request.seeds)]

    @cached_property
    def name(self) -> str:
        """The study's name: another space, budget, data set or sampler is another study."""
        how = {
            "sampler": self.request.sampler,
            "pruner": self.request.pruner,
            "seeds": self.seeds,
            "points": SEED,
        }
        if self.request.pruner == HALVING:  # which compares all trials of a study
            how["trials"] = self.trials
        identity = {"run": self.plan.run_id, "space": self.space, **how}
        return f"{self.problem}_{self.label}_{digest(identity)}"

    @property
    def journal(self) -> Path:
        """Its file."""
        return self.request.folder / f"{self.name}.journal"

    @property
    def defaults(self) -> Settings:
        """The default setting, as far as it is searched."""
        return {name: _at(self.plan.config["optimizer"], name) for name in self.space}

    def describe(self) -> dict[str, Any]:
        """The study's description in its journal."""
        return {
            "task": self.problem,
            "optimizer": self.label,
            "sampler": self.request.sampler,
            "pruner": self.request.pruner,
            "seeds": self.seeds,
            "space": {name: dict(entry) for name, entry in self.space.items()},
            "defaults": self.defaults,
            "overrides": list(self.request.overrides),
        }


def studies(request: Request) -> list[Study]:
    """The studies of a request; each is composed, so that a wrong name stops it at once."""
    return [
        study_of(request, optimizer, task)
        for task in request.tasks
        for optimizer in request.optimizers
    ]


def study_of(request: Request, optimizer: str, task: str) -> Study:
    """The study of one pair.

    Raises:
        ConfigError: a setting that does not exist, or a wrong search space.
    """
    plan = trial_plan(request, optimizer, task)
    space = checked(plan.config["optimizer"].get("search"), f"optimizer {optimizer}")
    for name in space:
        _at(plan.config["optimizer"], name)
    return Study(
        optimizer,
        task,
        plan,
        {name: space[name] for name in space if name not in _set(request)},
        request,
    )


def trial_plan(
    request: Request,
    optimizer: str,
    task: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = TUNING_SEED,
) -> Plan:
    """The plan of one run of a trial, at a seed that no comparison uses.

    Its target is the task's own, so that one stored later does not make it another run.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a name or a value that does not exist.
    """
    from suite.config.compose import compose_plan

    pair = [f"optimizer={optimizer}", f"task={task}", f"seed={seed}", "~tuned", "threads=1"]
    tried = [f"optimizer.{name}={as_word(value)}" for name, value in (settings or {}).items()]
    return compose_plan(
        [*pair, "target=${task.target}", *request.overrides, *tried],
        paths.results() / GROUP,
        unnamed=["wandb.mode=disabled", f"wandb.job_type={GROUP}"],
        experiment=GROUP,
        workers=request.jobs,
    )


def _set(request: Request) -> set[str]:
    """The optimizer's settings on the command line."""
    keys = [word.partition("=")[0].lstrip("+") for word in request.overrides]
    return {key.removeprefix("optimizer.") for key in keys if key.startswith("optimizer.")}


def _at(node: Any, name: str) -> Any:
    """The value under a dotted name."""
    for part in name.split("."):
        if not isinstance(node, dict) or part not in node:
            raise ConfigError(
                f"the search space names {name!r}, which is no setting of "
                f"{node.get('_target_', 'it')}"
            )
        node = node[part]
    return node
