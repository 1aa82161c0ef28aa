"""Errors in a request, with messages for the user."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class ConfigError(ValueError):
    """The configuration asks for something that does not exist.

    The message says what to type instead (exit code 2).
    """


class FatalConfigError(ConfigError):
    """The mistake concerns every run of a sweep, so that none is started."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean x?' for the names closest to a word, or nothing."""
    close = get_close_matches(word, list(known), n=2, cutoff=0.55)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def require_one_of(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise ConfigError, with the known names, for a value that is none of them."""
    if value not in known:
        raise ConfigError(
            f"{name}={value} is not one of {', '.join(known)}.{did_you_mean(str(value), known)}"
        )
