"""The suite's own interpolations in the configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from suite import paths
from suite.config import overrides, targets

SCALES = ("quick", "small", "full")


def register() -> None:
    """Make our interpolations known to OmegaConf.

    `${size:QUICK,SMALL,FULL}` is the value of the configuration's scale, `${results:}` the folder
    of all results, `${levels:}` the levels that `suite.target` stored for the task with its
    settings, and `${target:}` the task's own target or, where that is null, the stored one.
    `${offered:}` is the part of --help about the groups.
    """
    OmegaConf.register_new_resolver("size", _size, replace=True)
    OmegaConf.register_new_resolver("results", lambda: str(paths.results()), replace=True)
    OmegaConf.register_new_resolver("levels", _levels, replace=True)
    OmegaConf.register_new_resolver("target", _target, replace=True)
    OmegaConf.register_new_resolver(
        "offered", lambda: overrides.offered(sys.argv[1:]), replace=True
    )


def _size(quick: Any, small: Any, full: Any, *, _root_: DictConfig) -> Any:
    return (quick, small, full)[SCALES.index(_scale(_root_))]


def _levels(*, _root_: DictConfig) -> targets.Levels | None:
    entry = targets.find(_task(_root_), _scale(_root_))
    return None if entry is None else dict(entry["levels"])


def _target(*, _root_: DictConfig) -> Any:
    task = _task(_root_)
    if (own := task.get("target")) is not None:
        return own
    entry = targets.find(task, _scale(_root_))
    return None if entry is None else entry["target"]


def _task(root: DictConfig) -> dict[str, Any]:
    return dict(cast(Mapping[str, Any], OmegaConf.to_container(root.task, resolve=True)))


def _scale(root: DictConfig) -> str:
    return str(root._get_node("scale")._value())  # type: ignore[union-attr]
