"""The classes of pytorch-optimizer by name, and the settings of each.

There is no list of names: all is read from the package's registry, signatures and sources.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import torch

from optimizers.errors import UnsupportedError

PACKAGE = "pytorch_optimizer"
INSTALL = "python -m pip install 'pytorch-optimizer>=4.1'"
READ = re.compile(
    r"""(?:group|kwargs)(?:\.get\(|\[)\s*['"](\w+)['"]|['"](\w+)['"] (?:not )?in group\b"""
)
WRITTEN = re.compile(
    r"""group\[['"](\w+)['"]\](?:, \w+)* *[-+*/]?=[^=]|group\[['"](\w+)['"]\]\.\w+_\("""
)
ABOUT_PARAMETERS = frozenset({"self", "params", "model"})  # arguments that are no settings

Kind = type[torch.optim.Optimizer]
Answer = TypeVar("Answer")


def once(function: Callable[[Kind], Answer]) -> Callable[[Kind], Answer]:
    """The function with its answers cached by class."""
    known: dict[Kind, Answer] = {}

    @wraps(function)
    def remembered(kind: Kind) -> Answer:
        if kind not in known:
            known[kind] = function(kind)
        return known[kind]

    return remembered


def package() -> ModuleType:
    """The package itself.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return import_module(PACKAGE)
    except ImportError as error:
        raise UnsupportedError(
            f"pytorch-optimizer is not there ({error}); install it: {INSTALL}"
        ) from error


@cache
def listed() -> dict[str, Kind]:
    """The optimizers that the package lists as its own, by the name of their class."""
    module = package()
    kinds = [module.load_optimizer(name) for name in module.get_supported_optimizers()]
    return {
        kind.__name__: kind for kind in sorted(kinds, key=lambda kind: str(kind.__name__).lower())
    }


@cache
def wrappers() -> dict[str, Kind]:
    """The optimizers that the package exports without listing them: those that wrap another one."""
    exported = {name: value for name, value in vars(package()).items() if inspect.isclass(value)}
    kinds = {
        name: kind for name, kind in exported.items() if issubclass(kind, torch.optim.Optimizer)
    }
    return {
        name: kind
        for name, kind in sorted(kinds.items())
        if name not in listed() and not inspect.isabstract(kind)
    }


def find(name: str) -> Kind:
    """The class of a name, upper and lower case being the same.

    Raises:
        ValueError: there is none; the message says which names are close.
    """
    known = {**listed(), **wrappers()}
    by_lower = {title.lower(): kind for title, kind in known.items()}
    if isinstance(name, str) and name.lower() in by_lower:
        return by_lower[name.lower()]
    hint = close_to(str(name), known) or f" There are: {', '.join(known)}."
    raise ValueError(f"pytorch-optimizer has no optimizer {name!r}.{hint}")


def close_to(word: str, known: Iterable[str]) -> str:
    """' Did you mean x?' for the names closest to a word, or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = [by_lower[name] for name in get_close_matches(word.lower(), by_lower, n=2, cutoff=0.55)]
    return f" Did you mean {' or '.join(close)}?" if close else ""


@once
def signature(kind: Kind) -> dict[str, inspect.Parameter]:
    """The arguments of a class's constructor."""
    arguments = inspect.signature(kind.__init__).parameters
    return {
        name: argument for name, argument in arguments.items() if name not in ("self", "kwargs")
    }


@once
def options(kind: Kind) -> frozenset[str]:
    """The settings that a class takes as further keywords: read of its groups, never written."""
    named = inspect.signature(kind.__init__).parameters.values()
    if not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in named):
        return frozenset()
    sources = [_source(base) for base in kind.__mro__ if _has_settings(base)]
    read, written = _words(READ, sources), _words(WRITTEN, sources)
    return frozenset(read - written - set(signature(kind)) - ABOUT_PARAMETERS)


def _has_settings(base: type[Any]) -> bool:
    """Whether a class is of the package and none of its base classes."""
    module = base.__module__
    return module.startswith(PACKAGE) and not module.startswith(f"{PACKAGE}.base")


def _words(pattern: re.Pattern[str], sources: Iterable[str]) -> set[str]:
    """The words that a pattern's groups match in the sources."""
    matches = (groups for text in sources for groups in pattern.findall(text))
    return {word for groups in matches for word in groups if word}


def settings_of(kind: Kind) -> list[str]:
    """The names of all settings of a class, those of its signature first."""
    return [
        *(name for name in signature(kind) if name not in ABOUT_PARAMETERS),
        *sorted(options(kind)),
    ]


def require_settings(kind: Kind, given: Iterable[str], *others: Kind) -> None:
    """Raise ValueError for a setting that neither the class nor one of those it wraps has."""
    kinds = (kind, *others)
    unusual = [name for name in given if not any(name in signature(each) for each in kinds)]
    known = (
        list(dict.fromkeys(name for each in kinds for name in settings_of(each))) if unusual else []
    )
    for name in unusual:  # sources are read only where a signature does not say
        if name not in known:
            raise ValueError(
                f"{kind.__name__} of pytorch-optimizer has no setting "
                f"{name!r}.{close_to(name, known)} It has: {', '.join(known)}."
            )


@once
def wants_gradients(kind: Kind) -> bool:
    """Whether `first_step` comes before the closure, and so needs gradients from before."""
    if not hasattr(kind, "first_step"):
        return False
    text = inspect.getsource(kind.step)
    return text.find("first_step(") < text.find("closure()")


@once
def draws_elsewhere(kind: Kind) -> bool:
    """Whether a class draws random numbers from Python's or numpy's generator beside torch's."""
    modules = (
        value for value in vars(import_module(kind.__module__)).values() if inspect.ismodule(value)
    )
    return any(module.__name__ in ("random", "numpy") for module in modules)


def step_takes(kind: Kind, argument: str) -> bool:
    """Whether the step of a class has an argument of that name beside the closure."""
    return argument in inspect.signature(kind.step).parameters


def is_out_of_range(error: BaseException) -> bool:
    """Whether a constructor's exception is about a value; two of them are no ValueError."""
    return isinstance(error, ValueError) or type(error).__name__ in (
        "NegativeLRError",
        "NegativeStepError",
    )


def is_own(error: BaseException) -> bool:
    """Whether an exception is of a kind that the package defines."""
    return type(error).__module__.startswith(PACKAGE)


def _source(kind: type[Any]) -> str:
    try:
        return inspect.getsource(kind)
    except OSError:  # installed without its sources: the signature is all there is
        return ""
