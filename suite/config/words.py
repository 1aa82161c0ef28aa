"""Words of a command line: the command's own `key=value`, and the settings of its runs."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suite.config import registry
from suite.errors import ConfigError, require_one_of

Reader = Callable[[str, str], Any]  # of a key and its text; raises ConfigError


def read(
    words: Sequence[str],
    own: Mapping[str, Reader],
    refused: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Split a command line into the values of the command's own keys and the settings of its runs.

    Args:
        words: what was typed: `key=value`, or `~key` for a setting that is to go.
        own: the reader of each key of the command itself.
        refused: keys that the command sets by itself, each with the reason.

    Returns:
        The own keys that were typed with their values; all other words, as typed.

    Raises:
        ConfigError: a word of another form, a key that is refused or typed twice, or a value that
            its reader does not take.
    """
    for key in _keys(words):
        if key in (refused or {}):
            raise ConfigError(f"{key}= is not for this command: {(refused or {})[key]}")
    typed = _pairs(words)
    values = {key: own[key](key, text) for key, text in typed.items() if key in own}
    return values, [word for word in words if word.partition("=")[0] not in own]


def lacking(usage: str | None, **values: Any) -> ConfigError:
    """The refusal of a command line without a needed word: the command's help, then the word."""
    words = " ".join(f"{key}=..." for key, value in values.items() if not value)
    return ConfigError(f"{(usage or '').rstrip()}\n\nMissing: {words}")


def filters(
    words: Sequence[str], flags: Mapping[str, Sequence[str] | str | None]
) -> dict[str, str]:
    """The settings by which a command chooses among recorded runs.

    Args:
        words: `key=value`, several values with commas between them.
        flags: the same as flags, `--task a b`; None for one that was not typed.

    Raises:
        ConfigError: a word of another form, or a key that is typed twice.
    """
    texts = {
        key: value if isinstance(value, str) else ",".join(value)
        for key, value in flags.items()
        if value is not None
    }
    _keys([*words, *(f"{key}={text}" for key, text in texts.items())])
    return {**texts, **_pairs(words)}


def key_of(word: str) -> str:
    """The key of a word, without Hydra's signs for a new, a forced or a removed one."""
    return word.partition("=")[0].lstrip("+~")


def answer_help(words: Sequence[str], text: str | None) -> None:
    """Print the text and end the process where -h or --help is among the words."""
    if {"-h", "--help"} & set(words):
        print(text)
        sys.exit(0)


def _keys(words: Sequence[str]) -> list[str]:
    """The keys of the words, each of which has one and has it alone."""
    for word in words:
        if not key_of(word) or not ("=" in word or word.startswith("~")):
            raise ConfigError(f"{word!r} is not of the form key=value")
    keys = [key_of(word) for word in words]
    for key, count in Counter(keys).items():
        if count > 1:
            raise ConfigError(f"{key} is given twice; several go with commas: {key}=a,b")
    return keys


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in words)


# -- readers of values -----------------------------------------------------------------------------


def positive_int(key: str, text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{key} must be a whole number from 1 on, got {text!r}")
    return int(text)


def positive_number(key: str, text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{key} must be a number above 0, got {text!r}")
    return number


def whole_numbers(key: str, text: str) -> list[int]:
    """Whole numbers with commas between them, none of them twice."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{key} must be whole numbers with commas between them, as in {key}=0,1,2; got {text!r}"
        ) from None
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{key}={text} has one twice, and the same run counts once")
    return numbers


def truth(key: str, text: str) -> bool:
    """`true` or `false`."""
    require_one_of(key, text, ("true", "false"))
    return text == "true"


def folder(key: str, text: str) -> Path:
    """A folder, `~` for the user's home."""
    return Path(text).expanduser()


def names(group: str, text: str) -> list[str]:
    """Names of a group's YAML files, with commas between them."""
    chosen = text.split(",")
    for name in chosen:
        require_one_of(group, name, registry.names(group))
    return chosen


def one_name(group: str, text: str) -> str:
    """One name of a group's YAML files."""
    if "," in text:
        raise ConfigError(f"{group}={text} has several names, and this command takes one")
    return str(names(group, text)[0])


def one_of(*known: str) -> Reader:
    """One of these words."""

    def choice(key: str, text: str) -> str:
        require_one_of(key, text, known)
        return text

    return choice
