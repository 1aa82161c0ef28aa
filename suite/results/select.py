"""The runs that have the settings asked for: one way of choosing for every command."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suite import paths
from suite.errors import ConfigError, did_you_mean
from suite.results.frame import Records, build_records
from suite.results.labels import flatten, show
from suite.results.load import load_runs, load_timings
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
        passed = [run for run in selected if has_setting(run, key, wanted)]
        if selected and not passed:
            texts = {text for run in selected if (text := setting(run, key))}
            raise ConfigError(_no_such(key, wanted, texts, runs))
        selected = passed
    return selected


def load_records(runs: Path, filters: Mapping[str, str]) -> Records:
    """The runs in a folder that pass the filters, with warnings about those that are left out.

    Raises:
        ConfigError: no run is left.
    """
    loaded, damaged = load_runs(runs)
    if not loaded:
        raise ConfigError(
            f"no runs in {runs}\n"
            "Make some:  make compare\n"
            "       or:  python -m suite -m optimizer=adamw,kfac seed=0,1,2"
        )
    for damage in damaged:
        print(f"warning: skipped {damage.path}: {damage.reason}", file=sys.stderr)
    chosen = select(loaded, filters)
    records = build_records(chosen, damaged, load_timings(runs))
    if records.repeats:
        repeats = ", ".join(records.repeats)
        print(
            f"warning: left out as repeats of a (configuration, seed): {repeats}", file=sys.stderr
        )
    return records


def runs_folder(results: str | Path | None) -> Path:
    """The folder of runs of a folder of results; itself where it holds runs or an archive."""
    folder = paths.results() if results is None else Path(results).expanduser().resolve()
    return folder / "runs" if (folder / "runs").is_dir() or results is None else folder


def filter_texts(filters: Mapping[str, Any]) -> dict[str, str]:
    """Filters as they are typed: `{"optimizer": {"lr": 0.1}}` is `optimizer.lr=0.1`."""
    texts: dict[str, str] = {}
    for key, value in filters.items():
        if isinstance(value, Mapping):
            texts |= flatten(value, key)
        elif isinstance(value, str):
            texts[key] = value
        else:
            values = value if isinstance(value, Sequence) else [value]
            texts[key] = ",".join(map(show, values))
    return texts


def has_setting(run: Run, key: str, wanted: str) -> bool:
    """Whether a setting has the wanted value, or one of several with commas between them."""
    return setting(run, key) in {wanted, *wanted.split(",")}


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
    if texts == {"null"}:
        return f"no run has {key}={wanted}; {key} is not set in any of them"
    if texts:
        known = sorted(texts)
        nearest = did_you_mean(wanted, known)
        return f"no run has {key}={wanted}.{nearest} There are: {', '.join(known)}"
    keys = sorted({*NAMES, *(name for run in runs[:SAMPLE] for name in flatten(run.config))})
    return f"no run has a setting {key!r}.{did_you_mean(key, keys)}\nFor example: scale=quick"
