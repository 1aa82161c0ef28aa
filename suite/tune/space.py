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
    """Whether settings are a point of the space: every name of it has a value there."""
    return set(settings) == set(space) and all(
        _holds(entry, settings[name]) for name, entry in space.items()
    )


def on_edge(settings: Settings, space: Space) -> list[str]:
    """The names whose value lies within two percent of an end of its range; choices have no ends."""
    ranged = {name: value for name, value in settings.items() if "choices" not in space[name]}
    return [
        name
        for name, value in ranged.items()
        if not EDGE <= _place(float(value), space[name]) <= 1 - EDGE
    ]


def _place(value: float, entry: Entry) -> float:
    """Where in its range a value lies, from 0 to 1, in the logarithm if the range is searched so."""
    low, high = float(entry["low"]), float(entry["high"])
    return (
        math.log(value / low) / math.log(high / low)
        if entry.get("log")
        else (value - low) / (high - low)
    )


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
    """What is wrong with an entry, in words that follow its name."""
    if not isinstance(entry, Mapping):
        return f"must be {{low: ..., high: ...}} or {{choices: [...]}}, got {entry!r}"
    for key in entry:
        if key not in RANGE | CHOICES:
            return f"has a key {key!r} that means nothing here.{did_you_mean(str(key), RANGE | CHOICES)}"
    if "choices" in entry:
        return None if entry["choices"] else "has no choices"
    low, high = entry.get("low"), entry.get("high")
    kinds = (int,) if entry.get("integer") else (int, float)
    if not all(
        isinstance(end, kinds) and not isinstance(end, bool) and math.isfinite(end)
        for end in (low, high)
    ):
        what = "whole numbers" if entry.get("integer") else "numbers"
        return f"must have {what} as low and high, got {low!r} and {high!r}"
    if not low < high:  # type: ignore[operator]
        return f"must have a low below its high, got {low!r} and {high!r}"
    if entry.get("log") and low <= 0:  # type: ignore[operator]
        return f"is searched in the logarithm, so low must be above 0, got {low!r}"
    return None
