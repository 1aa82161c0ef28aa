"""A search space: the `search` node of an optimizer's YAML, checked, and as Optuna takes it.

An entry is a range, `{low: 1.0e-4, high: 1.0, log: true}`, of whole numbers with `integer: true`,
or a list, `{choices: [a, b]}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from suite.errors import ConfigError, did_you_mean

EDGE = 0.02  # a share of a range that counts as its end
RANGE, CHOICES = frozenset({"low", "high", "log", "integer"}), frozenset({"choices"})

Settings = dict[str, Any]
Entry = Mapping[str, Any]
Space = Mapping[str, Entry]


def checked(space: Space | None, whose: str) -> dict[str, dict[str, Any]]:
    """The space with plain entries.

    Raises:
        ConfigError: an entry that is neither a range with a low and a higher end nor a list of
            choices.
    """
    for name, entry in (space or {}).items():
        if problem := _problem(entry):
            raise ConfigError(f"the search space of {whose}: {name} {problem}")
    return {name: dict(entry) for name, entry in (space or {}).items()}


def distributions(space: Space) -> dict[str, Any]:
    """The space as Optuna's distributions, in its order."""
    return {name: _distribution(entry) for name, entry in space.items()}


def rounded(value: Any, entry: Entry) -> Any:
    """A sampled value as a person would type it: three digits, within its range."""
    if "choices" in entry or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.3g}"), float(entry["low"])), float(entry["high"]))


def inside(settings: Settings, space: Space) -> bool:
    """Whether settings are a point of the space: a value inside it for each of its names."""
    return set(settings) == set(space) and all(
        _holds(entry, settings[name]) for name, entry in space.items()
    )


def on_edge(settings: Settings, space: Space) -> list[str]:
    """The names whose value lies within two percent of an end of its range."""
    ranged = {name: value for name, value in settings.items() if "choices" not in space[name]}
    return [
        name
        for name, value in ranged.items()
        if not EDGE <= _place(float(value), space[name]) <= 1 - EDGE
    ]


def _place(value: float, entry: Entry) -> float:
    """The place of a value in its range, from 0 to 1; logarithmic where the range is."""
    low, high = float(entry["low"]), float(entry["high"])
    if entry.get("log"):
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _holds(entry: Entry, value: Any) -> bool:
    if "choices" in entry:
        return any(value == choice and type(value) is type(choice) for choice in entry["choices"])
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole if entry.get("integer") else whole or isinstance(value, float)
    return number and entry["low"] <= value <= entry["high"]


def _distribution(entry: Entry) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "choices" in entry:
        return CategoricalDistribution(entry["choices"])
    kind = IntDistribution if entry.get("integer") else FloatDistribution
    return kind(entry["low"], entry["high"], log=bool(entry.get("log", False)))


def _problem(entry: Any) -> str | None:
    """The mistake in an entry, in words that follow its name; None for a correct one."""
    if not isinstance(entry, Mapping):
        return f"must be {{low: ..., high: ...}} or {{choices: [...]}}, got {entry!r}"
    known = RANGE | CHOICES
    for key in entry:
        if key not in known:
            return f"has a key {key!r} that means nothing here.{did_you_mean(str(key), known)}"
    if "choices" in entry:
        return None if entry["choices"] else "has no choices"
    return _problem_of_range(entry)


def _problem_of_range(entry: Entry) -> str | None:
    low, high = entry.get("low"), entry.get("high")
    whole = bool(entry.get("integer"))
    if not (_is_number(low, whole) and _is_number(high, whole)):
        kind = "whole numbers" if whole else "numbers"
        return f"must have {kind} as low and high, got {low!r} and {high!r}"
    if not low < high:  # type: ignore[operator]
        return f"must have a low below its high, got {low!r} and {high!r}"
    if entry.get("log") and low <= 0:  # type: ignore[operator]
        return f"is searched in the logarithm, so low must be above 0, got {low!r}"
    return None


def _is_number(value: Any, whole: bool) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
