"""The tuning behind the settings of a run: the trials of their file in configs/tuned, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from suite import paths
from suite.compare.sides import Side
from suite.config import registry
from suite.config.instantiate import DESCRIPTIVE
from suite.results.frame import Records
from suite.results.labels import flatten

TRIAL = re.compile(r"^# Trial \d+ of (?P<trials>\d+)", re.MULTILINE)
FOLDER = paths.CONFIGS / "tuned"


@dataclass(frozen=True)
class Tuning:
    """What is known of one side's tuning: the number of trials (None: unknown), and it in words."""

    trials: int | None
    words: str


def tuning(records: Records, side: Side, folders: Sequence[Path] = (FOLDER,)) -> Tuning:
    """The budget behind a side's settings, by the file of tuned values that holds them."""
    run = records.runs[side.runs[0].index]
    settings, defaults = flatten(run.config["optimizer"]), _defaults(run.optimizer)
    for path in (folder / f"{run.task}_{run.optimizer}.yaml" for folder in folders):
        trials, values = _read(path)
        if trials and _agree(settings, defaults, values):
            return Tuning(trials, f"{trials} trials")
    if defaults and _agree(settings, defaults, {}):
        return Tuning(0, "default settings")
    return Tuning(None, "settings of its own, whose tuning is not recorded")


def tuning_text(a: Tuning, b: Tuning, names: tuple[str, str]) -> str:
    """Both budgets in a line; unequal ones are called so."""
    if a.trials is not None and a.trials == b.trials:
        return f"tuning: {a.words} each"
    unequal = "unequal tuning" if None not in (a.trials, b.trials) else "tuning"
    return f"{unequal}: {names[0]} {a.words}, {names[1]} {b.words}"


def _read(path: Path) -> tuple[int, Mapping[str, str]]:
    """The number of trials that a file of tuned values names, and the values.

    (0, {}) where there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = yaml.safe_load(text) or {}
        match = TRIAL.search(text)
        return (int(match["trials"]) if match else 0), flatten(content["optimizer"]) if content.get(
            "optimizer"
        ) else {}
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return 0, {}


def _defaults(name: str) -> Mapping[str, str]:
    """The plain values of an optimizer's YAML; none where its name has no YAML."""
    if name not in registry.names("optimizer"):
        return {}
    node = registry.read("optimizer", name)
    flat = flatten({key: value for key, value in node.items() if key not in DESCRIPTIVE})
    return {key: value for key, value in flat.items() if "${" not in value}


def _agree(
    settings: Mapping[str, str], defaults: Mapping[str, str], values: Mapping[str, str]
) -> bool:
    """Whether the settings are the tuned values, and defaults in all else that the run knew."""
    others = {
        key: value for key, value in defaults.items() if key in settings and key not in values
    }
    return all(_same(settings.get(key), value) for key, value in {**others, **values}.items())


def _same(one: str | None, other: str) -> bool:
    try:
        return one is not None and float(one) == float(other)
    except ValueError:
        return one == other
