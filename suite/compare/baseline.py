"""The method that all others are measured against, problem by problem, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from suite.compare.sides import CostTable, Side, sides
from suite.compare.verdict import Verdict, judge
from suite.config import registry
from suite.config.registry import FIRST_ORDER
from suite.errors import ConfigError, did_you_mean
from suite.results.frame import Records
from suite.results.labels import flatten
from suite.results.levels import level_setter, origin


def against_baseline(
    ledger: CostTable, wanted: str | None = None, *, mixed: bool = False
) -> list[Verdict]:
    """The verdict on every method against the baseline, on every problem that the baseline ran.

    Raises:
        ConfigError: `wanted` has no run.
    """
    records = ledger.records
    if wanted is not None and wanted not in set(records.frame["name"]) | set(
        records.frame["optimizer"]
    ):
        known = sorted(set(records.frame["name"]))
        raise ConfigError(
            f"baseline {wanted} has no run.{did_you_mean(wanted, known)} There are runs of: "
            f"{', '.join(known)}"
        )
    found: list[Verdict] = []
    for problem in records.problems:
        there = sides(records, problem)
        base = baseline_side(records, problem, wanted, there)
        if base is not None:
            others = [
                there[name] for name in records.optimizers if name in there and name != base.label
            ]
            found += [judge(ledger, side, base, mixed=mixed) for side in others]
    return found


def baseline_side(
    records: Records,
    problem: str,
    wanted: str | None = None,
    there: Mapping[str, Side] | None = None,
) -> Side | None:
    """The baseline's runs on a problem; None where it has none.

    It is the one asked for, else the one whose runs set the problem's levels, else the optimizer
    that a run gets which names none. Of several configurations it is the one that set the levels,
    else the one with most runs.
    """
    there = sides(records, problem) if there is None else there
    for wish in (wanted,) if wanted else (level_setter(records, problem), default_optimizer()):
        own = [side for side in there.values() if wish in (side.name, side.label)]
        if own:
            return max(
                own, key=lambda side: (_set_levels(records, problem, side.label), len(side.runs))
            )
    return None


def default_optimizer() -> str:
    """The optimizer of configs/config.yaml."""
    chosen = [entry["optimizer"] for entry in registry.main()["defaults"] if "optimizer" in entry]
    return str(chosen[0])


def _set_levels(records: Records, problem: str, label: str) -> bool:
    """Whether a configuration's settings are those of the runs that set the problem's levels."""
    source = flatten(origin(records, problem).get("optimizer") or {"": None})
    own = records.optimizer_settings[problem, label]
    return bool(source) and all(own.get(key) == value for key, value in source.items() if key)


def baselines(records: Records, reached: pd.DataFrame) -> dict[str, str]:
    """The method that the others are measured against, for every problem that has one.

    It is the one that set the problem's levels, where that is stored and it was run; else what is
    the baseline of most problems; else the first-order method that ran on most, of those the one
    most of whose runs reached a level.
    """
    own = {problem: label for problem in records.problems if (label := _named(records, problem))}
    usual = (
        max(own.values(), key=list(own.values()).count) if own else _first_order(records, reached)
    )
    ran = set(zip(reached["problem"], reached["optimizer"], strict=True))
    return {
        problem: own.get(problem, str(usual))
        for problem in records.problems
        if problem in own or (problem, usual) in ran
    }


def _named(records: Records, problem: str) -> str | None:
    """The label of the optimizer whose runs set the levels.

    The one with most runs, where it has several settings.
    """
    runs = records.of(problem)
    own = runs.loc[
        (runs["name"] == level_setter(records, problem)) & (runs["status"] != "unsupported"),
        "optimizer",
    ]
    return str(own.value_counts(sort=False).idxmax()) if len(own) else None


def _first_order(records: Records, reached: pd.DataFrame) -> str | None:
    first = records.frame[
        (records.frame["family"] == FIRST_ORDER) & (records.frame["status"] != "unsupported")
    ]
    ran = first.groupby("optimizer")["problem"].nunique()
    most = [name for name in records.optimizers if ran.get(name, 0) == ran.max()]
    share = np.isfinite(reached["steps"]).groupby(reached["optimizer"]).mean()
    return max(most, key=lambda name: float(share.get(name, 0.0)), default=None)
