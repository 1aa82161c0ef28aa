"""A run from a table of steps and a few facts, and errors that name a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.errors import ConfigError
from suite.results.run import HISTORY_COLUMNS, Run, assemble
from suite.stats import time_to_target

SMALLER_IS_BETTER = ("loss", "error", "error_rate", "wer", "ppl", "perplexity", "nll", "mse", "gap")
LOSS = "loss"
EVALUATED_LOSS = "eval_loss"  # a metric must not be called like the column of the training loss


class ImportFaultError(ConfigError):
    """A file that is not what the format asks for; the message names it."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run beside its history.

    Attributes:
        source: the name of the format, which stands before the names of task and optimizer in the
            configuration.
        task: what was trained.
        optimizer: by what.
        seed: which repetition.
        metric: its name; the history has it as `val/<metric>` and, where known, `test/<metric>`.
        direction: `max` or `min`.
        settings: of the task, what makes it another problem where it differs.
        hyperparameters: of the optimizer, what makes it another configuration where it differs.
        more: further keys of the configuration.
        target: the value of the metric that counts as solved.
        environment: the machine, as far as it is told.
        status: a word of suite.results.status; found out from the history where it is empty.
        message: what else is to be said.
    """

    source: str
    task: str
    optimizer: str
    seed: int
    metric: str
    direction: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""
    message: str = ""


def run_of(facts: Facts, history: pd.DataFrame, place: str) -> Run:
    """A run as `suite.results.load.read_run` would give it.

    `place` tells it from others with the same facts.
    """
    table = _complete(history, facts)
    status = facts.status or _status(table, facts)
    task, optimizer = _name(facts.task), _name(facts.optimizer)
    run_id = sha256(f"{facts.source} {place}".encode()).hexdigest()[:8]
    return assemble(
        Path(task) / optimizer / run_id,
        _config(facts),
        {
            "status": status,
            "task": task,
            "optimizer": optimizer,
            "seed": facts.seed,
            **_numbers(table, facts, status),
        },
        dict(facts.environment),
        table,
    )


def direction_of(metric: str) -> str:
    """`min` for losses and errors, else `max`."""
    return (
        "min"
        if metric.lower().rsplit("_", 1)[-1] in SMALLER_IS_BETTER or metric in SMALLER_IS_BETTER
        else "max"
    )


def metric_name(metric: str) -> str:
    """The name under which a metric is kept."""
    return EVALUATED_LOSS if metric == LOSS else metric


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file, in which NaN and Infinity may stand."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ImportFaultError(f"{path} cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise ImportFaultError(f"{path} is not JSON, or cut off ({error})") from error
    if not isinstance(content, dict):
        raise ImportFaultError(f"{path} is a {type(content).__name__}, not a mapping of results")
    return content


def read_csv(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """A table of numbers that has at least the columns `needed`."""
    try:
        table = pd.read_csv(path, dtype=float, index_col=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ImportFaultError(
            f"{path} is not a table of numbers, or cut off ({str(error).strip()})"
        ) from error
    absent = [name for name in needed if name not in table]
    if absent:
        raise ImportFaultError(
            f"{path} has no column {absent[0]!r}; it has {', '.join(map(str, table.columns))}"
        )
    if not len(table):
        raise ImportFaultError(f"{path} has no rows")
    return table


def _complete(history: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The columns that every history has; what the format does not tell is NaN."""
    known = {name: history.get(name, np.nan) for name in HISTORY_COLUMNS}
    others = [name for name in history if name not in HISTORY_COLUMNS]
    table = pd.DataFrame(known, index=history.index, dtype=float).join(
        history[others].astype(float)
    )
    if f"val/{facts.metric}" not in table:
        table[f"val/{facts.metric}"] = np.nan
    return table.sort_values("step", kind="stable").reset_index(drop=True)


def _status(table: pd.DataFrame, facts: Facts) -> str:
    """`diverged` where the last loss or the last evaluation is not finite; `done` otherwise."""
    losses = table["loss"].to_numpy(dtype=float)
    evaluated = table.loc[table["step"] > 0, f"val/{facts.metric}"]
    ends = [*losses[-1:], *evaluated.to_numpy(dtype=float)[-1:]]
    known = [value for value in ends if not math.isnan(value)]
    lost = bool(len(losses)) and math.isnan(losses[-1]) and bool(np.isinf(losses).any())
    return "diverged" if lost or any(math.isinf(value) for value in known) else "done"


def _config(facts: Facts) -> dict[str, Any]:
    return {
        "optimizer": {
            "_target_": f"{facts.source}.{_name(facts.optimizer)}",
            **facts.hyperparameters,
        },
        "task": {"_target_": f"{facts.source}.{_name(facts.task)}", **facts.settings},
        "seed": facts.seed,
        "metric": facts.metric,
        "direction": facts.direction,
        "target": facts.target,
        "experiment": facts.source,
        **facts.more,
    }


def _numbers(table: pd.DataFrame, facts: Facts, status: str) -> dict[str, Any]:
    values = table[f"val/{facts.metric}"].dropna()
    best = values.max() if facts.direction == "max" else values.min()
    steps, seconds = _last(table["step"]), _last(table["seconds"])
    ended = status != "diverged"
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_per_step": seconds / steps if seconds is not None and steps else None,
        "final_loss": _last(table["loss"]) if ended else None,
        f"best_{facts.metric}": _number(best) if len(values) else None,
        f"final_{facts.metric}": _number(values.iloc[-1]) if len(values) and ended else None,
        "target": facts.target,
        **_reached(table, facts),
        "parallel": False,
        "message": facts.message,
    }


def _reached(table: pd.DataFrame, facts: Facts) -> dict[str, float | None]:
    spent: dict[str, float | None] = {}
    for key, unit in (
        ("step", "step"),
        ("seconds", "seconds"),
        ("grad_equivalents", "grad_equivalents"),
    ):
        first = math.inf
        if facts.target is not None:
            metric = f"val/{facts.metric}"
            first = time_to_target(table, facts.target, facts.direction, metric=metric, unit=unit)
        spent[f"target_{key}"] = _number(first)
    return spent


def _last(values: pd.Series[float]) -> float | None:
    known = values.dropna()
    return _number(known.iloc[-1]) if len(known) else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _name(text: str) -> str:
    """A name that can be that of a folder."""
    letters = "".join(
        letter if letter.isalnum() or letter in "_-+." else "_" for letter in text
    ).strip(".")
    return letters or "unnamed"
