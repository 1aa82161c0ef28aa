"""Run directories in, one `Run` per readable directory out; what cannot be read is named with its reason."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

FINISHED = ("done", "target")
VALUED = (*FINISHED, "timeout")  # a run stopped by its limit of seconds has used up its budget: its last value counts
TRAINED = (*VALUED, "diverged")
UNFINISHED = "unfinished: no summary.json, so the run is still going or was killed"
HISTORY_COLUMNS = ("step", "seconds", "loss", "grad_equivalents")


class DamagedRunError(Exception):
    """A run directory whose files are missing or broken; the message says which and how."""


@dataclass(frozen=True)
class Damage:
    """A directory that was skipped, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Run:
    """One training as its directory tells it. `summary` is empty while the run has not ended."""

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

    def number(self, key: str) -> float:
        """A number of the summary; NaN where it is absent, null or not a number."""
        return as_number(self.summary.get(key))


def load_runs(root: Path) -> tuple[list[Run], list[Damage]]:
    """Read every `<task>/<optimizer>/<run_id>` under `root`, in the order of their names."""
    runs: list[Run] = []
    damaged: list[Damage] = []
    for directory in sorted(root.glob("*/*/*")):
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        try:
            runs.append(read_run(directory))
        except DamagedRunError as error:
            damaged.append(Damage(directory.relative_to(root).as_posix(), str(error)))
    return runs, damaged


def read_run(directory: Path) -> Run:
    """Read one directory.

    Raises:
        DamagedRunError: a file is missing, cannot be parsed, or lacks what the record's format asks for.
    """
    config = _read_config(directory / "config.yaml")
    summary = _read_json(directory / "summary.json")
    status = summary.get("status", "") if summary else "interrupted"
    if not isinstance(status, str) or not status:
        raise DamagedRunError("summary.json has no status")
    return Run(
        path=directory,
        task=plain(summary.get("task") or directory.parent.parent.name),
        optimizer=plain(summary.get("optimizer") or directory.parent.name),
        seed=config["seed"],
        status=plain(status),
        message=plain(summary.get("message") or "") if summary else UNFINISHED,
        config=config,
        summary=summary,
        environment=_read_json(directory / "environment.json"),
        history=_read_history(directory / "history.csv", needed=status in TRAINED, ended=bool(summary)),
    )


def as_number(value: object) -> float:
    """A float, or NaN for anything that is not a plain number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def plain(value: object) -> str:
    """Text on one line, without control characters that a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedRunError(f"{path.name} cannot be read ({error})") from error


def _read_config(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    if text is None:
        raise DamagedRunError("config.yaml is missing")
    try:
        config = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise DamagedRunError(f"config.yaml is not YAML ({_first_line(error)})") from error
    if not isinstance(config, dict):
        raise DamagedRunError("config.yaml is not a mapping")
    for key, kind in (("optimizer", Mapping), ("task", Mapping), ("seed", int)):
        if not isinstance(config.get(key), kind):
            raise DamagedRunError(f"config.yaml has no usable {key!r}")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty when there is no such file."""
    text = _read_text(path)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedRunError(f"{path.name} is not JSON ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise DamagedRunError(f"{path.name} is not a mapping")
    return content


def _read_history(path: Path, *, needed: bool, ended: bool) -> pd.DataFrame:
    text = _read_text(path)
    if not text:
        if needed:
            raise DamagedRunError("history.csv is missing or empty")
        return pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float)
    if not ended:  # a killed run may have been cut off in the middle of its last line
        text = text[: text.rfind("\n") + 1] or text
    try:
        history = pd.read_csv(io.StringIO(text), dtype=float, index_col=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise DamagedRunError(f"history.csv is not a table of numbers ({_first_line(error)})") from error
    absent = [column for column in HISTORY_COLUMNS if column not in history]
    if absent:
        raise DamagedRunError(f"history.csv lacks the column {absent[0]!r}")
    return history


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
