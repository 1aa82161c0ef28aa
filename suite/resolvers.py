"""The interpolations of the configuration that are our own."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from suite import paths

SCALES = ("quick", "small", "full")


def register() -> None:
    """Make `${size:QUICK,SMALL,FULL}` (by the configuration's scale) and `${results:}` known to OmegaConf."""
    OmegaConf.register_new_resolver("size", _size, replace=True)
    OmegaConf.register_new_resolver("results", lambda: str(paths.results()), replace=True)


def _size(quick: Any, small: Any, full: Any, *, _root_: DictConfig) -> Any:
    return (quick, small, full)[SCALES.index(_root_._get_node("scale")._value())]  # type: ignore[union-attr]
