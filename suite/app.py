"""The command `python -m suite`: composes a configuration with Hydra and runs it or its sweep."""

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
from suite.multirun import as_typed, note_outcome, run_of_a_sweep
from suite.results.status import Status

if TYPE_CHECKING:
    from suite.config.plan import Plan
    from suite.training.runner import Outcome


REFUSALS = (ValueError, FileNotFoundError, ImportError)  # ConfigError is a ValueError

resolvers.register()


@hydra.main(version_base="1.3", config_path=str(paths.CONFIGS), config_name="config")
def compose_and_run(config: DictConfig) -> None:
    """Run what Hydra composed; of a sweep Hydra calls this for each run."""
    sweeping = HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN
    try:
        plan = plan_of(config)
    except ConfigError as error:  # wrong for every run of a sweep, so none is started
        torchrun.complain(error)
        sys.exit(2)
    try:
        outcome = run_of_a_sweep(plan) if sweeping else _single_run(plan)
    except FatalConfigError as error:
        torchrun.complain(error)
        torchrun.leave(2)
    note_outcome(plan, outcome)
    if not sweeping:
        torchrun.leave(outcome.status.exit_code)
    if outcome.status is Status.INTERRUPTED:  # Ctrl-C ends the sweep, not only this run
        raise KeyboardInterrupt


def _single_run(plan: Plan) -> Outcome:
    """The outcome of a run by itself; one that cannot be built ends the process with a message."""
    from suite.training.runner import run  # torch comes with it, and --help need not wait

    try:
        return run(plan)
    except FatalConfigError:
        raise
    except REFUSALS as error:
        torchrun.complain(error)
        torchrun.leave(2)
    except Exception:
        if torchrun.world_size() == 1:
            raise
        traceback.print_exc()
        torchrun.leave(1)


def plan_of(config: DictConfig) -> Plan:
    """The plan of a composed configuration, with the circumstances that Hydra knows."""
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
    """The command that repeats this run alone, without the sweep around it."""
    hydra_config = HydraConfig.get()
    sources = hydra_config.runtime.config_sources
    own = [source.path for source in sources if source.provider == "command-line"]
    folders = [word for path in own for word in ("--config-dir", path)]
    return as_command([*folders, *as_typed(hydra_config.overrides.task)], torchrun.world_size())


def _job_number() -> int:
    """The run's place in its sweep, from 0; a single run has none."""
    job: Any = HydraConfig.get().job
    return 0 if OmegaConf.is_missing(job, "num") else int(job.num)


def _workers(launcher: DictConfig) -> int:
    """How many runs of a sweep share this machine's cores."""
    if "joblib" not in launcher.get("_target_", "").lower():
        return 1
    from suite.config.device import cores  # torch comes with it

    jobs = int(launcher.n_jobs)
    return jobs if jobs > 0 else max(1, cores() + 1 + jobs)


def main() -> None:
    """Run the command; a mistake in the request ends in a message and exit code 2."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes would mix with ours
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the explanation is ours
    with messages.answered(sys.argv[1:]), torchrun.one_voice():
        torchrun.refuse_sweep(sys.argv[1:])
        messages.refuse_shadowed(sys.argv[1:])
        messages.refuse_nothing(sys.argv[1:])
        sys.argv[1:] = overrides.opened(overrides.deferred(sys.argv[1:]))
        compose_and_run()
