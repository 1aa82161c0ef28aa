"""What the user is told when a request cannot be carried out."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """The configuration asks for something that does not exist; the message says what to type instead (exit code 2)."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean x?' for the names closest to a word, or nothing."""
    close = get_close_matches(word, list(known), n=2, cutoff=0.55)
    return f" Did you mean {' or '.join(close)}?" if close else ""
