"""What is wrong with a command line, in words that say what to type instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException

from suite import registry
from suite.errors import ConfigError, did_you_mean

OVERRIDE = re.compile(r"Could not (?:override|append|delete)[^']*'(?P<key>[^'=]+)")


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """The message for the user; what Hydra says is kept where nothing better is known."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group:
            return _unknown_name(group, name, _folders(arguments))
    if found := OVERRIDE.search(str(error)):
        return _unknown_key(found["key"], arguments)
    cause = error.__cause__
    return f"{error}" + (f"\n{cause}" if cause is not None and str(cause) not in str(error) else "")


def _unknown_name(group: str, name: str, folders: list[Path]) -> str:
    known = registry.names(group, folders)
    return f"There is no {group} {name!r}.{did_you_mean(name, known)}\nKnown: {', '.join(known)}"


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    """A key that the composed configuration does not have: look at what its part does have."""
    group, _, name = key.partition(".")
    folders = _folders(arguments)
    if not name:
        known = [*_top_level(), *registry.GROUPS]
        return f"There is no setting {key!r}.{did_you_mean(key, known)}\nKnown: {', '.join(sorted(set(known)))}"
    chosen = _choice(group, arguments) or _default(group)
    if not chosen:
        return f"There is no setting {key!r}.{did_you_mean(group, registry.GROUPS)}"
    known = [item for item in registry.read(group, chosen, folders) if not item.startswith("_")]
    return f"{group} {chosen} has no {name!r}.{did_you_mean(name, known)}\nIt has: {', '.join(known)}"


def _choice(group: str, arguments: Sequence[str]) -> str | None:
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == group:
            return value.split(",")[0]
    return None


def _default(group: str) -> str | None:
    for entry in registry.main()["defaults"]:
        if isinstance(entry, dict) and group in entry:
            return str(entry[group])
    return None


def _top_level() -> list[Any]:
    return [key for key in registry.main() if key not in ("defaults", "hydra")]


def _folders(arguments: Sequence[str]) -> list[Path]:
    """The user's configuration folders: `--config-dir PATH`, `--config-dir=PATH` or `-cd PATH`."""
    found = []
    for here, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if here in ("--config-dir", "-cd"):
            found.append(Path(following))
        elif here.startswith("--config-dir="):
            found.append(Path(here.partition("=")[2]))
    return found
