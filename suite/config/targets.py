"""Levels of a validation metric that runs are timed to: shares of a baseline's improvement.

With u the untrained value and m the baseline's final one, the level of a share p is u + p (m - u).
A positive metric that is to become small and falls by more than two decades, such as the gap to a
minimum, is shared out on a log scale: u (m / u)^p. There half of the improvement is half of the
decades; half of the difference would be reached by the first steps, and so would 95 % of it.

Nothing here imports torch: the configuration's resolvers read the stored levels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from suite import paths
from suite.config import task_file
from suite.errors import ConfigError

SHARES = (50, 80, 95, 100)
DECADES = 2.0  # a fall by more is shared out on a log scale
DIGITS = 4  # of a level; the last one is rounded towards the untrained value
RESOLUTION = 2.0**-52  # of the untrained value: a gap below it is zero
# settings of the training; a value of the metric means the same with any
LENGTH = ("steps", "eval_every", "target", "batch_size")
FOLDER = paths.CONFIGS / "targets"

Levels = dict[int, float]
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Ladder:
    """The levels by their share in percent, and their scale: `linear` or `log`."""

    scale: str
    values: Levels


def ladder(untrained: float, final: float, direction: str) -> Ladder:
    """The levels between an untrained value and the baseline's final one.

    Each is rounded to four digits, its own or those of the improvement where these are finer,
    towards the untrained value: so the run that sets the last level reaches it on a machine with
    other round-off too.

    Raises:
        ValueError: a value is not finite, or the final one is no improvement.
    """
    _require_improvement(untrained, final, direction)
    least = RESOLUTION * untrained
    reached = least if direction == "min" and abs(final) <= least else final
    scale = "log" if _falls_by_decades(untrained, reached, direction) else "linear"
    if scale == "log":
        between = {share: untrained * (reached / untrained) ** (share / 100) for share in SHARES}
    else:
        between = {share: untrained + share / 100 * (final - untrained) for share in SHARES}
    improvement = abs(final - untrained)
    return Ladder(
        scale, {share: lenient(value, improvement, direction) for share, value in between.items()}
    )


def _require_improvement(untrained: float, final: float, direction: str) -> None:
    sign = 1.0 if direction == "max" else -1.0
    if not (math.isfinite(untrained) and math.isfinite(final)):
        raise ValueError(
            f"the metric went from {untrained:g} to {final:g}, and levels need finite values"
        )
    if sign * final <= sign * untrained:
        raise ValueError(
            f"the metric went from {untrained:.6g} to {final:.6g}, which is no improvement "
            f"({direction})"
        )


def _falls_by_decades(untrained: float, reached: float, direction: str) -> bool:
    return direction == "min" and reached > 0 and math.log10(untrained / reached) > DECADES


def lenient(value: float, improvement: float, direction: str) -> float:
    """The value to the fourth digit of the smaller of the two: rounded down for `max`, else up."""
    size = min(abs(value) or improvement, improvement)
    last = Decimal(1).scaleb(math.floor(math.log10(size)) - DIGITS + 1)
    exact = Decimal(f"{value:.15g}")  # 0.1 + 0.2 is 0.3
    return float(
        (exact / last).to_integral_value(ROUND_FLOOR if direction == "max" else ROUND_CEILING)
        * last
    )


# -- the stored levels -----------------------------------------------------------------------------


def read(path: Path) -> dict[str, Entry]:
    """The entries of a file by the scale they were made at; none where there is no file.

    Raises:
        ConfigError: the file is no YAML, or no entry of levels.
    """
    try:
        stamp = path.stat()
    except OSError:
        return {}
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=512)
def _read(path: Path, *stamp: int) -> dict[str, Entry]:
    again = "; make it anew: python -m suite.target task=..."
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {str(scale): _checked(entry) for scale, entry in content.items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path.parent.name}/{path.name} holds no levels ({reason}){again}"
        ) from error


def _checked(entry: Any) -> Entry:
    levels = {int(share): float(value) for share, value in entry["levels"].items()}
    return {
        **entry,
        "levels": levels,
        "target": float(entry["target"]),
        "setting": dict(entry["setting"]),
    }


def find(task: Mapping[str, Any], scale: str, folder: Path | None = None) -> Entry | None:
    """The stored entry for a task's resolved settings at a scale.

    The settings decide, not the name of the task's YAML: data, model and metric have to be the
    same, while steps, evaluations and the size of a batch may differ.
    """
    wanted = setting(task)
    for path in sorted((folder or FOLDER).glob("*.yaml")):
        entry = read(path).get(scale)
        if entry is not None and _same(entry["setting"], wanted):
            return entry
    return None


def of(config: Mapping[str, Any], folder: Path | None = None) -> Levels | None:
    """The stored levels for a composed configuration, or for a recorded one that may be older."""
    entry = find(config["task"], str(config.get("scale")), folder)
    return None if entry is None else dict(entry["levels"])


def setting(task: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a task that decide what a value of its metric means."""
    known = task_file.identifying(task_file.digested(task))
    return {name: value for name, value in known.items() if name not in LENGTH}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(
        other, sort_keys=True, default=str
    )
