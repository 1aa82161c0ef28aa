"""One run in memory, read from a directory, from an archive or from another project's logs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

FINISHED = ("done", "target")
# a run stopped by its limit of seconds has used up its budget: its last value counts
VALUED = (*FINISHED, "timeout")
TRAINED = (*VALUED, "diverged")
UNFINISHED = "unfinished: no summary.json, so the run is still going or was killed"
HISTORY_COLUMNS = ("step", "seconds", "loss", "grad_equivalents")


class DamagedRunError(Exception):
    """A run with missing or broken files; the message names file and fault."""


@dataclass(frozen=True)
class Damage:
    """A directory that was skipped, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Run:
    """One training as its record tells it.

    Parts of `config` and `environment` may be shared between runs: read only.

    Attributes:
        path: the run's directory; of a run from an archive, where it would stand beneath the
            archive's folder.
        status: a word of `suite.results.status`; `interrupted` while there is no summary.
        summary: empty while the run has not ended.
        history: a row per logged step.
        written: when its record was completed, in seconds since 1970; the later one of two repeats
            is kept.
        trajectory: the points of path.csv where they do not stand in the directory.
    """

    path: Path
    task: str
    optimizer: str
    seed: int
    status: str
    message: str
    config: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    history: pd.DataFrame
    written: float = 0.0
    trajectory: pd.DataFrame | None = None

    def number(self, key: str) -> float:
        """A number of the summary; NaN where it is absent, null or not a number."""
        return as_number(self.summary.get(key))


def assemble(
    path: Path,
    config: dict[str, Any],
    summary: dict[str, Any],
    environment: dict[str, Any],
    history: pd.DataFrame,
    written: float = 0.0,
    trajectory: pd.DataFrame | None = None,
) -> Run:
    """A run from the contents of its files; `path` ends in `<task>/<optimizer>/<run_id>`.

    Raises:
        DamagedRunError: the configuration or the summary lacks what the record's format asks for.
    """
    for key, kind in (("optimizer", Mapping), ("task", Mapping), ("seed", int)):
        if not isinstance(config.get(key), kind):
            raise DamagedRunError(f"config.yaml has no usable {key!r}")
    return Run(
        path=path,
        task=plain(summary.get("task") or path.parent.parent.name),
        optimizer=plain(summary.get("optimizer") or path.parent.name),
        seed=config["seed"],
        status=status_of(summary),
        message=plain(summary.get("message") or "") if summary else UNFINISHED,
        config=config,
        summary=summary,
        environment=environment,
        history=history,
        written=written,
        trajectory=trajectory,
    )


def status_of(summary: Mapping[str, Any]) -> str:
    """The summary's word for how the run ended; `interrupted` without a summary.

    Raises:
        DamagedRunError: there is a summary without that word.
    """
    status = summary.get("status", "") if summary else "interrupted"
    if not isinstance(status, str) or not status:
        raise DamagedRunError("summary.json has no status")
    return plain(status)


def as_number(value: object) -> float:
    """A float, or NaN for anything that is not a plain number."""
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    )


def plain(value: object) -> str:
    """Text on one line, without control characters that a terminal would obey."""
    return " ".join(
        "".join(letter if letter.isprintable() else " " for letter in str(value)).split()
    )
