"""The runs of a trial.

The same words as `python -m suite` takes, at seeds that comparisons do not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from suite import paths
from suite.config import resolvers
from suite.config.compose import as_command
from suite.config.open_settings import opened
from suite.config.plan import Plan
from suite.errors import require_one_of
from suite.tune.study import TUNING_SEED, Request

GROUP = "tune"  # the experiment, and W&B's job_type, of every trial


def planned(
    request: Request,
    optimizer: str,
    task: str,
    settings: Mapping[str, Any] | None = None,
    seed: int = TUNING_SEED,
) -> Plan:
    """One run of a trial.

    Its target is the task's own, so that one stored later does not make it another run.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a name or a value that there is not, as
            for a run.
    """
    resolvers.register()
    pair = [f"optimizer={optimizer}", f"task={task}", f"seed={seed}", "~tuned", "threads=1"]
    tried = [f"optimizer.{name}={_typed(value)}" for name, value in (settings or {}).items()]
    given = opened([*pair, "target=${task.target}", *request.overrides, *tried])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        config = compose("config", [*given, "wandb.mode=disabled", f"wandb.job_type={GROUP}"])
    require_one_of("scale", config.scale, resolvers.SCALES)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return Plan(
        plain,
        optimizer,
        task,
        GROUP,
        paths.results() / GROUP,
        as_command(given),
        workers=request.jobs,
    )


def _typed(value: Any) -> Any:
    """As the command line has it: Hydra reads `null`, `true` and `false`."""
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else value
    )
