"""Messages for mistakes in a command line; each says what to type instead."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

from suite.config import overrides, registry, torchrun
from suite.config.instantiate import DESCRIPTIVE
from suite.errors import ConfigError, did_you_mean

EXPLAINED = (ConfigError, ConfigCompositionException, HydraException, OmegaConfBaseException)
MOST = 8  # names in a hint
OVERRIDE = re.compile(r"Could not (?:override|append|delete)[^']*'(?P<key>[^'=]+)")


@contextmanager
def answered(arguments: Sequence[str]) -> Iterator[None]:
    """End the process with a message and the exit code of the mistake or the interruption."""
    try:
        yield
    except EXPLAINED as error:
        torchrun.complain(explain(error, arguments))
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` for one, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except BrokenExecutor:
        print(
            "A worker was killed. The same command goes on where this one stopped.", file=sys.stderr
        )
        sys.exit(1)


@contextmanager
def explained(arguments: Sequence[str]) -> Iterator[None]:
    """Raise ConfigError, with the words of `explain`, for a mistake that Hydra finds."""
    try:
        yield
    except ConfigError:
        raise
    except EXPLAINED as error:
        raise ConfigError(explain(error, arguments)) from error


def refuse_shadowed(arguments: Sequence[str]) -> None:
    """Refuse a YAML of the user's that has the name of one of the suite's.

    Hydra would take the suite's without a warning.

    Raises:
        ConfigError: which file it is, and what to do.
    """
    for folder in overrides.folders(arguments):
        for group in registry.GROUPS:
            both = {path.stem for path in (folder / group).glob("*.yaml")}
            both &= set(registry.names(group))
            for name in sorted(both)[:1]:
                raise ConfigError(
                    f"{folder / group / name}.yaml would not be used: the suite has a {group} "
                    f"{name!r} of its own, which goes first. Give it another name and choose it "
                    f"with {group}=NAME"
                )


def refuse_nothing(arguments: Sequence[str]) -> None:
    """Refuse `group=null`, at which Hydra stops with a traceback.

    Raises:
        ConfigError: what to type for no choice of the group.
    """
    for group in registry.GROUPS:
        if overrides.typed(group, arguments) == ["null"]:
            instead = (
                f"for none type ~{group}"
                if group in overrides.BY_ITSELF
                else f"leave {group}= out for the default"
            )
            raise ConfigError(f"{group}=null is no choice: {instead}")


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """The message for the user: that of Hydra where no better one is known."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, name = _group_and_name(str(error.missing_cfg_file))
        if group:
            return _unknown_name(group, name, overrides.folders(arguments))
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return f"{error}\nIf the value has spaces or brackets, quote it twice: '{key}=\"{value}\"'"
    if override := OVERRIDE.search(str(error)):
        return _unknown_key(override["key"], arguments)
    cause = error.__cause__
    return f"{error}" + (f"\n{cause}" if cause is not None and str(cause) not in str(error) else "")


def _group_and_name(missing: str) -> tuple[str, str]:
    """The group of a YAML that does not exist, and the name; a path may stand for the name."""
    first, _, rest = missing.partition("/")
    if first in registry.GROUPS:
        return first, rest
    group, _, name = missing.rpartition("/")
    return group, name


def _unknown_name(group: str, name: str, folders: list[Path]) -> str:
    known = registry.names(group, folders)
    message = f"There is no {group} {name!r}.{did_you_mean(name, known)}"
    lines = [message, f"Known: {', '.join(known)}", *_elsewhere(group, name, known, folders)]
    return "\n".join(lines)


def _elsewhere(group: str, word: str, known: Sequence[str], folders: list[Path]) -> list[str]:
    """Choices that have no YAML: a file of the user's, or one of many that a YAML serves."""
    keys = {name: registry.read(group, name, folders) for name in known}
    if word.endswith("py"):
        files = [name for name, node in keys.items() if "file" in node]
        return [f"A file of your own: {group}={name} {group}.file={word}" for name in files]
    return [
        f"More: {group}={name} {group}.name=..."
        for name, node in keys.items()
        if {} in node.values()
    ]


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    """The message for a key that the configuration does not have; it lists those of its part."""
    group, _, name = key.partition(".")
    settings = registry.main().get(group)
    if name and group in registry.GROUPS and (lacking := _lacking(group, name, arguments)):
        known = _keys(registry.read(group, lacking, overrides.folders(arguments)))
        what = f"{group} {lacking}{_origin(group, arguments)}"
        more = _who_has(group, name, arguments)
    elif name and isinstance(settings, dict):
        what, known, more = group, list(settings), ""
    else:
        known = sorted({*_top_level(), *registry.GROUPS})
        return (
            f"There is no setting {key!r}.{did_you_mean(group, known)}\nKnown: {', '.join(known)}"
        )
    return f"{what} has no {name!r}.{did_you_mean(name, known)}\nIt has: {', '.join(known)}{more}"


def _origin(group: str, arguments: Sequence[str]) -> str:
    """` (of experiment=quick)` where an experiment chose what the command line did not."""
    experiment = overrides.typed("experiment", arguments)
    by_experiment = overrides.is_sweep(arguments) and not overrides.typed(group, arguments)
    return f" (of experiment={experiment[0]})" if by_experiment and experiment else ""


def _lacking(group: str, key: str, arguments: Sequence[str]) -> str | None:
    """The choice of a group that lacks the key: of a sweep's list the first that does."""
    names = overrides.chosen(group, arguments)
    folders = overrides.folders(arguments)
    lacking = [
        name for name in names if not overrides.has(registry.read(group, name, folders), key)
    ]
    return next(iter(lacking or names), None)


def _who_has(group: str, key: str, arguments: Sequence[str]) -> str:
    """A line that names others of the group that have the key, or nothing."""
    folders = overrides.folders(arguments)
    names = [
        name
        for name in registry.names(group, folders)
        if overrides.has(registry.read(group, name, folders), key)
    ]
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"\nThese have it: {', '.join(names[:MOST])}{more}. Add {group}=NAME" if names else ""


def _keys(node: dict[str, Any], prefix: str = "") -> list[str]:
    """The names of a YAML's values, those of inner nodes with a dot.

    What is not an argument is left out.
    """
    keys = []
    for key, value in node.items():
        if key.startswith("_") or key in DESCRIPTIVE:
            continue
        if value == {}:  # an open one: see overrides.opened
            keys.append(f"{prefix}{key}.NAME")
        elif isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def _top_level() -> list[Any]:
    return [key for key in registry.main() if key not in ("defaults", "hydra")]
