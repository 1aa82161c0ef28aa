"""The runs that have the settings asked for: one way of choosing for every command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suite.errors import ConfigError, did_you_mean
from suite.results.labels import flatten, show
from suite.results.run import Run

NAMES = ("task", "optimizer")  # as filters these are names, not the settings below them
PARTS = ("", "task", "optimizer")  # where a setting is looked for: `depth` is `task.depth`
SAMPLE = 50  # runs whose settings a message about an unknown one knows


def select(runs: Sequence[Run], filters: Mapping[str, str]) -> list[Run]:
    """The runs that pass all filters, in their order.

    Args:
        runs: those to choose from.
        filters: setting to value, or to several values with commas between them: `experiment`,
            `task`, `optimizer`, `seed`, `scale`, `depth` or `optimizer.lr`.

    Raises:
        ConfigError: a filter names a setting that no run has, or a value of it that none has.
    """
    selected = list(runs)
    for key, wanted in filters.items():
        texts = [setting(run, key) for run in selected]
        values = {wanted, *wanted.split(",")}
        passed = [run for run, text in zip(selected, texts, strict=True) if text in values]
        if selected and not passed:
            raise ConfigError(_no_such(key, wanted, {text for text in texts if text}, runs))
        selected = passed
    return selected


def setting(run: Run, key: str) -> str | None:
    """A setting's value as text; None where the run has no such setting."""
    if key in NAMES:
        return str(getattr(run, key))
    for part in PARTS:
        value: Any = run.config
        for name in filter(None, [part, *key.split(".")]):
            value = value.get(name, KeyError) if isinstance(value, Mapping) else KeyError
        if value is not KeyError and not isinstance(value, Mapping):
            return show(value)
    return None


def _no_such(key: str, wanted: str, texts: set[str], runs: Sequence[Run]) -> str:
    """Why no run has a setting of this value, and what to type."""
    if texts:
        known = sorted(texts)
        nearest = did_you_mean(wanted, known)
        return f"no run has {key}={wanted}.{nearest} There are: {', '.join(known)}"
    keys = sorted({name for run in runs[:SAMPLE] for name in flatten(run.config)})
    return f"no run has a setting {key!r}.{did_you_mean(key, keys)}\nFor example: scale=quick"
