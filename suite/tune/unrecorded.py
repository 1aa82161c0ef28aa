"""Trials that no journal knows of.

Runs under results/tune/runs that were made before there were journals.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from suite.files import digest
from suite.results.status import Status
from suite.tune.sampling import QUASI, sequence
from suite.tune.space import Settings, Space, checked
from suite.tune.trial import grad_equivalents

CIRCUMSTANCES = frozenset(
    {
        "allow",
        "command",
        "experiment",
        "force",
        "levels",
        "log_every",
        "optimizer",
        "threads",
        "timeout",
        "wandb",
    }
)
MOST = 64  # points of the sequence that a setting is looked up in

Row = dict[str, Any]


def rows(results: Path, known: Collection[str], damaged: list[tuple[str, str]]) -> list[Row]:
    """A row for each run that ended and is not among the known ones, numbered as its study would have been."""
    found: dict[str, list[Row]] = {}
    for directory in sorted((results / "tune" / "runs").glob("*/*/*")):
        place = directory.relative_to(results).as_posix()
        if place in known or not (directory / "summary.json").exists():
            continue
        try:
            row = _row(directory)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            damaged.append((place, f"{type(error).__name__}: {error}"))
            continue
        if row["status"] != Status.INTERRUPTED:
            found.setdefault(row["study"], []).append(row)
    return [row for study in sorted(found) for row in _numbered(found[study])]


def _row(directory: Path) -> Row:
    """What a run's record tells of the trial it was.

    Its settings are those that its command line set.
    """
    config = yaml.load(
        (directory / "config.yaml").read_text(),
        Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    summary = json.loads((directory / "summary.json").read_text())
    task, optimizer = directory.parent.parent.name, directory.parent.name
    space = checked(config["optimizer"].get("search"), f"optimizer {optimizer}")
    settings = _settings(config, space)
    metric = str(config.get("metric") or "")
    value = summary.get(f"final_{metric}")
    sign = 1.0 if config.get("direction") == "max" else -1.0
    return {
        "study": f"{task}_{optimizer}_{digest(_setup(config, space))}",
        "task": task,
        "optimizer": optimizer,
        "number": -1,
        "status": str(Status(summary["status"])),
        "value": math.nan if value is None else float(value),
        "score": -math.inf if value is None else sign * float(value),
        "sign": sign,
        "metric": metric,
        "settings": settings,
        "seconds": float(summary.get("seconds") or 0.0),
        "grad_equivalents": grad_equivalents(directory),
        "sampler": QUASI,
        "pruner": "none",
        "seeds": 1,
        "space": space,
        "path": str(directory),
    }


def _settings(config: Mapping[str, Any], space: Space) -> Settings:
    words = dict(
        word.lstrip("+").partition("=")[::2] for word in shlex.split(str(config["command"]))
    )
    return {
        name: yaml.safe_load(words[f"optimizer.{name}"])
        for name in space
        if f"optimizer.{name}" in words
    }


def _setup(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """What all trials of a study have in common."""
    optimizer = json.loads(json.dumps(config["optimizer"]))
    for name in space:
        node = optimizer
        *outer, last = name.split(".")
        for part in outer:
            node = node[part]
        node.pop(last, None)
    rest = {name: value for name, value in config.items() if name not in CIRCUMSTANCES}
    return {**rest, "optimizer": optimizer}


def _numbered(trials: list[Row]) -> Iterator[Row]:
    """In the order of the sequence of points.

    A setting that is not in it comes after those that are.
    """
    space = trials[0]["space"]
    points = [_text(point) for point in sequence(space, MOST)] if space else [_text({})]
    there = [
        points.index(_text(row["settings"])) if _text(row["settings"]) in points else MOST
        for row in trials
    ]
    order = sorted(range(len(trials)), key=lambda index: there[index])
    after = MOST
    for index in order:
        number = there[index]
        if number >= MOST:
            number, after = after, after + 1
        yield {**trials[index], "number": number}


def _text(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True)
