"""From a YAML node with a `_target_` to an object, names and origin checked first."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from suite.errors import ConfigError, did_you_mean

PACKAGED = ("torch.optim", "pytorch_optimizer", "schedulefree", "prodigyopt")  # of others
ALWAYS_ALLOWED = ("optimizers", "tasks", *PACKAGED)
DESCRIPTIVE = frozenset({"about", "search"})  # keys of an optimizer's YAML that no run depends on
RESERVED = DESCRIPTIVE | {"_target_", "_partial_"}

Node = Mapping[str, Any]


def construct(node: Node, *args: Any, allow: Sequence[str] = ()) -> Any:
    """Call the node's `_target_` with `args` and the node's other keys.

    Inner nodes with a `_target_` come first.

    Raises:
        ConfigError: a target outside the allow-list or that cannot be imported, a name its
            signature does not have, or values that it cannot take.
    """
    target = locate(str(node["_target_"]), allow)
    kwargs = {key: _value(value, allow) for key, value in node.items() if key not in RESERVED}
    check_names(target, str(node["_target_"]), kwargs)
    if node.get("_partial_"):
        return functools.partial(target, **kwargs)
    try:
        return target(*args, **kwargs)
    except TypeError as error:  # a word where a number belongs, or an argument left out
        values = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise ConfigError(
            f"{node['_target_']} cannot be made from {values or 'nothing'}: {error}"
        ) from error


def locate(path: str, allow: Sequence[str] = ()) -> Callable[..., Any]:
    """Import the class or function that a dotted path names."""
    allowed = (*ALWAYS_ALLOWED, *allow)
    if not any(f"{path}.".startswith(f"{name.rstrip('.')}.") for name in allowed):
        raise ConfigError(
            f"_target_: {path} is not on the allow-list ({', '.join(allowed)}). If you trust it, "
            f"add 'allow=[{path.split('.')[0]}]' to the command."
        )
    module, _, name = path.rpartition(".")
    try:
        target = getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigError(
            f"_target_: {path} cannot be imported: {error}{_install(path, error)}"
        ) from error
    except AttributeError as error:
        known = [item for item in vars(import_module(module)) if not item.startswith("_")]
        raise ConfigError(
            f"_target_: {module} has no {name}.{did_you_mean(name, known)}"
        ) from error
    if not callable(target):
        raise ConfigError(f"_target_: {path} is not a class or function")
    return target  # type: ignore[no-any-return]


def check_names(target: Callable[..., Any], path: str, names: Mapping[str, Any]) -> None:
    """Refuse keys that the target's signature does not have; the message lists its own."""
    parameters = inspect.signature(target).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in names:
        if name not in parameters:
            known = [p for p in parameters if p not in ("params", "self")]
            raise ConfigError(
                f"{path} has no hyperparameter {name!r}.{did_you_mean(name, known)} It has: "
                f"{', '.join(known)}."
            )


def _install(path: str, error: ImportError) -> str:
    """The command that installs the target's package, where that one is missing."""
    missing = path.split(".")[0]
    if error.name != missing:
        return ""
    return f". Install it: python -m pip install {missing.replace('_', '-')}"


def _value(value: Any, allow: Sequence[str]) -> Any:
    inner = isinstance(value, Mapping) and "_target_" in value
    return construct(value, allow=allow) if inner else value
