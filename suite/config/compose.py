"""Plans made by commands other than `python -m suite`, from the same words that it takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict

from suite import paths
from suite.config import resolvers
from suite.config.open_settings import opened
from suite.config.plan import Plan
from suite.errors import require_one_of

if TYPE_CHECKING:
    from suite.config.plan import Plan


def planned(words: Sequence[str], results: Path, workers: int = 1) -> Plan:
    """The plan of one run, as `python -m suite <words>` composes it.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a name or a value that there is not, as
            for a run.
    """
    resolvers.register()
    given = opened(words)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        config = compose("config", given, return_hydra_config=True)
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    require_one_of("scale", config.scale, resolvers.SCALES)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    names = (choices["optimizer"], choices["task"], choices.get("experiment"))
    return Plan(plain, *names, results, as_command(given), workers)


def as_command(arguments: Iterable[str], world_size: int = 1) -> str:
    """The shell command with these arguments."""
    start = ["python"] if world_size == 1 else ["torchrun", "--nproc-per-node", str(world_size)]
    return shlex.join([*start, "-m", "suite", *arguments])
