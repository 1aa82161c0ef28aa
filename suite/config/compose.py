"""Composition: the one place where words, as `python -m suite` takes them, become a Plan."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from suite import paths
from suite.config import overrides, resolvers
from suite.errors import require_one_of

if TYPE_CHECKING:
    from suite.config.plan import Plan

Choices = Mapping[str, Any]  # the name of the YAML that each group took


def compose_plan(
    words: Sequence[str], results: Path, *, unnamed: Sequence[str] = (), **circumstances: Any
) -> Plan:
    """The plan of one run, as `python -m suite <words>` composes it.

    Args:
        words: the command line.
        results: the folder of all results.
        unnamed: further words, which the command that repeats the run leaves out.
        **circumstances: further fields of the plan, such as `workers`.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a name or a value that does not exist.
    """
    opened = overrides.opened(words)
    config, choices = compose_config([*opened, *unnamed])
    return plan_from(config, choices, results, as_command(opened), **circumstances)


def compose_config(words: Sequence[str]) -> tuple[DictConfig, Choices]:
    """The configuration of the words, and the name that each group took.

    Raises:
        HydraException: a name that does not exist.
    """
    resolvers.register()
    with _separate_hydra(), initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        config = compose("config", list(words), return_hydra_config=True)
    choices: Choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
    return config, choices


def plan_from(
    config: DictConfig, choices: Choices, results: Path, command: str, **circumstances: Any
) -> Plan:
    """The plan that a composed configuration describes.

    Raises:
        ConfigError, OmegaConfBaseException: a value that does not exist.
    """
    from suite.config.plan import Plan  # which brings in torch

    require_one_of("scale", config.scale, resolvers.SCALES)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    names = {group: choices.get(group) for group in ("optimizer", "task", "experiment")}
    return Plan(plain, results=results, command=command, **{**names, **circumstances})


def as_command(arguments: Iterable[str], world_size: int = 1) -> str:
    """The shell command with these arguments."""
    start = ["python"] if world_size == 1 else ["torchrun", "--nproc-per-node", str(world_size)]
    return shlex.join([*start, "-m", "suite", *arguments])


@contextmanager
def _separate_hydra() -> Iterator[None]:
    """Hydra's global state for one composition; a notebook's own stands again afterwards."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer
