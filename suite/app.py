"""The command `python -m suite`.

Compose a configuration with Hydra, carry out one run or, with -m, a sweep.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from suite import paths
from suite.config import messages, overrides, resolvers, torchrun
from suite.config.compose import as_command, plan_from
from suite.errors import ConfigError, FatalConfigError
from suite.results.status import Status
from suite.multirun import as_typed, note_outcome

if TYPE_CHECKING:
    from suite.config.plan import Plan


REFUSALS = (ValueError, FileNotFoundError, ImportError)  # ConfigError is a ValueError

resolvers.register()


@hydra.main(version_base="1.3", config_path=str(paths.CONFIGS), config_name="config")
def compose_and_run(config: DictConfig) -> None:
    """Hydra calls this once for each run."""
    from suite.training.runner import (
        refuse,
        run,
    )  # torch is imported here, so that --help need not wait for it

    sweeping = HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN
    try:
        plan = plan_of(config)
    except ConfigError as error:  # wrong for every run of a sweep, so none is started
        torchrun.complain(error)
        sys.exit(2)
    try:
        outcome = run(plan)
    except FatalConfigError as error:
        torchrun.complain(error)
        torchrun.leave(2)
    except Exception as error:
        if sweeping:
            outcome = refuse(plan, error)
        elif isinstance(error, REFUSALS):
            torchrun.complain(error)
            torchrun.leave(2)
        elif torchrun.world_size() > 1:
            traceback.print_exc()
            torchrun.leave(1)
        else:
            raise
    note_outcome(plan, outcome)
    if not sweeping:
        torchrun.leave(outcome.status.exit_code)
    if (
        outcome.status is Status.INTERRUPTED
    ):  # Ctrl-C is meant for the sweep, not only for the run it met
        raise KeyboardInterrupt


def plan_of(config: DictConfig) -> Plan:
    """The plan that a composed configuration describes, with the circumstances that Hydra knows."""
    hydra_config = HydraConfig.get()
    return plan_from(
        config,
        hydra_config.runtime.choices,
        paths.results(),
        repeating_command(),
        workers=_workers(hydra_config.launcher),
        world_size=torchrun.world_size(),
        number=_job_number() + 1,
        total=int(os.environ.get("SUITE_SWEEP_TOTAL", "1")),
    )


def repeating_command() -> str:
    """What to type to run this one run again.

    Its own choices, without those of the sweep around it.
    """
    hydra_config = HydraConfig.get()
    own = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    arguments = [
        *(word for path in own for word in ("--config-dir", path)),
        *as_typed(hydra_config.overrides.task),
    ]
    return as_command(arguments, torchrun.world_size())


def _job_number() -> int:
    """The run's place in its sweep, from 0; a single run has none."""
    job: Any = HydraConfig.get().job
    return 0 if OmegaConf.is_missing(job, "num") else int(job.num)


def _workers(launcher: DictConfig) -> int:
    """How many runs of a sweep share this machine's cores."""
    if "joblib" not in launcher.get("_target_", "").lower():
        return 1
    jobs = int(launcher.n_jobs)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return jobs if jobs > 0 else max(1, cores + 1 + jobs)


def main() -> None:
    """Run the command and turn what is wrong with a request into a message and exit code 2."""
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # the profiler's own notes would land between ours
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the explanation is ours
    with messages.answered(sys.argv[1:]), torchrun.one_voice():
        torchrun.refuse_sweep(sys.argv[1:])
        messages.refuse_shadowed(sys.argv[1:])
        messages.refuse_nothing(sys.argv[1:])
        sys.argv[1:] = overrides.opened(overrides.deferred(sys.argv[1:]))
        compose_and_run()
