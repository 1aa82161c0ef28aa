"""The method that all others are measured against, problem by problem, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from suite.compare.sides import CostTable, Side, sides
from suite.compare.verdict import Verdict, judge
from suite.config import registry
from suite.config.registry import FIRST_ORDER
from suite.errors import ConfigError, did_you_mean
from suite.results.frame import Records
from suite.results.labels import flatten
from suite.results.levels import level_setter, origin
from suite.results.time_to_target import level_costs


def against_baseline(
    cost_table: CostTable, wanted: str | None = None, *, mixed: bool = False
) -> list[Verdict]:
    """The verdict on every method against the baseline, on every problem that the baseline ran.

    Raises:
        ConfigError: `wanted` has no run.
    """
    records = cost_table.records
    if wanted is not None and wanted not in set(records.frame["name"]) | set(
        records.frame["optimizer"]
    ):
        known = sorted(set(records.frame["name"]))
        raise ConfigError(
            f"baseline {wanted} has no run.{did_you_mean(wanted, known)} There are runs of: "
            f"{', '.join(known)}"
        )
    verdicts: list[Verdict] = []
    for problem in records.problems:
        present = sides(records, problem)
        base = baseline_side(records, problem, wanted, present)
        if base is not None:
            others = [present[name] for name in records.optimizers if name in present]
            verdicts += [
                judge(cost_table, side, base, mixed=mixed)
                for side in others
                if side.label != base.label
            ]
    return verdicts


def baseline_side(
    records: Records,
    problem: str,
    wanted: str | None = None,
    present: Mapping[str, Side] | None = None,
) -> Side | None:
    """The baseline's runs on a problem; None where it has none.

    Args:
        records: all runs.
        problem: the problem's label.
        wanted: the baseline asked for, by name or label; see `baseline_label` for the rule else.
        present: the sides of the problem, where they are at hand.
    """
    label = baseline_label(records, problem, wanted)
    own = sides(records, problem) if present is None else present
    return own.get(label) if label else None


def baseline_label(records: Records, problem: str, wanted: str | None = None) -> str | None:
    """The label of the method that the others on a problem are measured against.

    The one asked for and no other; else the optimizer whose runs set the problem's levels; else
    that of configs/config.yaml, which a run gets that names none; else the usual first-order
    method. Of several configurations it is the one that set the levels, else the one with most
    runs. None where no such method fits the problem and has a run.
    """
    runs = records.of(problem)
    runs = runs[runs["status"] != "unsupported"]
    for name in [wanted] if wanted else _candidates(records, problem):
        own = runs.loc[(runs["name"] == name) | (runs["optimizer"] == name), "optimizer"]
        counts = own.value_counts(sort=False)
        if len(counts):
            sets = {label: _set_levels(records, problem, str(label)) for label in counts.index}
            return str(max(counts.index, key=lambda label: (sets[label], counts[label])))
    return None


def baseline_labels(records: Records) -> dict[str, str]:
    """The baseline of every problem that has one, by the rule of `baseline_label`."""
    labels = {problem: baseline_label(records, problem) for problem in records.problems}
    return {problem: label for problem, label in labels.items() if label is not None}


def default_optimizer() -> str:
    """The optimizer of configs/config.yaml."""
    defaults = registry.main()["defaults"]
    return next(str(entry["optimizer"]) for entry in defaults if "optimizer" in entry)


def _set_levels(records: Records, problem: str, label: str) -> bool:
    """Whether a configuration's settings are those of the runs that set the problem's levels."""
    source = flatten(origin(records, problem).get("optimizer") or {"": None})
    own = records.optimizer_settings[problem, label]
    return bool(source) and all(own.get(key) == value for key, value in source.items() if key)


def _candidates(records: Records, problem: str) -> Iterator[str | None]:
    """Names of baselines in the order in which they are tried."""
    yield level_setter(records, problem)
    yield default_optimizer()
    yield _usual_first_order(records)


def _usual_first_order(records: Records) -> str | None:
    """The first-order method that ran on most problems.

    Of those with equally many it is the one most of whose runs reached a level.
    """
    frame = records.frame[records.frame["status"] != "unsupported"]
    ran = frame[frame["family"] == FIRST_ORDER].groupby("optimizer")["problem"].nunique()
    most = [name for name in records.optimizers if ran.get(name, 0) == ran.max()]
    reached = level_costs(records)
    share = np.isfinite(reached["steps"]).groupby(reached["optimizer"]).mean()
    return max(most, key=lambda name: float(share.get(name, 0.0)), default=None)
