"""Aggregation over problems: the problems that count, and the reasons against the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from suite.results.frame import Records
from suite.results.levels import main_level
from suite.results.time_to_target import UNITS, roughly_timed
from suite.tables.formats import listed

LABELS = {"steps": "steps", "seconds": "seconds", "grad_equivalents": "gradient-equivalents"}
ILLUSTRATION = "functions of a few numbers, which only illustrate"
NO_LEVEL = "no target"
UNTIMED = "runs shared the machine, and `python -m suite.time` has not timed them"
# test functions show how methods behave; no overall rank counts them
ILLUSTRATIONS = "tasks.functions."


def is_illustration(records: Records, problem: str) -> bool:
    """Whether a problem is a test function: shown, and left out of every aggregate."""
    return records.problem_settings[problem].get("_target_", "").startswith(ILLUSTRATIONS)


@dataclass(frozen=True)
class Aggregated:
    """The runs that may be aggregated over problems, and the problems left out.

    Attributes:
        by_unit: for each unit a row per run with `problem`, `optimizer`, `seed`, `cost` of reaching
            the main level; a unit's problems are those whose costs in it compare.
        methods: those that ran on any of them, in the order of the tables.
        ran: on how many of the problems each method was run.
        left_out: why other problems do not count.
        rough: the problems whose seconds do not compare.
        indices: the runs behind it all.
    """

    by_unit: dict[str, pd.DataFrame]
    methods: list[str]
    ran: dict[str, int]
    left_out: dict[str, str]
    rough: dict[str, str]
    indices: pd.Index

    @property
    def note(self) -> str:
        """What is left out, in words for a caption."""
        parts = [
            _left_out("Left out", self.left_out),
            _left_out("Left out of the seconds", self.rough),
        ]
        short = [name for name in self.methods if self.ran[name] < max(self.ran.values())]
        missing = (
            f"Not run on every problem, which counts as not reached: {listed(short)}."
            if short
            else ""
        )
        return " ".join(part for part in [*parts, missing] if part)

    def why_not(self, what: str) -> str:
        """Why there is no picture; nothing where there is no problem with a target at all."""
        problems = set(self.by_unit["steps"]["problem"])
        if not problems and all(why == NO_LEVEL for why in self.left_out.values()):
            return ""
        many = (
            f"{len(problems)} problem{'s' if len(problems) != 1 else ''} and {len(self.methods)} "
            f"method" + ("s" if len(self.methods) != 1 else "")
        )
        counts = f"{what} need two problems and two methods; here are {many} that count."
        return f"{counts} {self.note}".strip()


def aggregated(records: Records, reached: pd.DataFrame, level: str | None = None) -> Aggregated:
    """The costs to reach each problem's main level or `level`, of problems that may be averaged.

    Test functions of a few numbers only illustrate, and problems without levels have no costs.
    Seconds compare only where all runs that reached the level come from one kind of hardware that
    no other run shared, or were timed in isolation.
    """
    left_out = _uncounted(records, set(reached["problem"]))
    wanted = {
        name: level or _main(reached, name) for name in records.problems if name not in left_out
    }
    rows = reached[reached["level"] == reached["problem"].map(wanted)]
    rough = _rough(rows)
    keys = ["problem", "optimizer", "seed"]
    by_unit = {
        unit: rows.loc[~rows["problem"].isin(rough) | (unit != "seconds"), [*keys, unit]].rename(
            columns={unit: "cost"}
        )
        for unit in UNITS
    }
    ran = rows.groupby("optimizer")["problem"].nunique()
    methods = [name for name in records.optimizers if name in ran.index]
    return Aggregated(
        by_unit, methods, {name: int(ran[name]) for name in methods}, left_out, rough, rows.index
    )


def _uncounted(records: Records, leveled: set[str]) -> dict[str, str]:
    """The problems that no overall figure counts, and why."""
    reasons = {}
    for problem in records.problems:
        if is_illustration(records, problem):
            reasons[problem] = ILLUSTRATION
        elif problem not in leveled:
            reasons[problem] = NO_LEVEL
    return reasons


def _rough(rows: pd.DataFrame) -> dict[str, str]:
    """The problems whose seconds do not compare, and why."""
    reasons = {}
    for problem, group in rows.groupby("problem", sort=False):
        if len(set(group["hardware"])) > 1:
            reasons[str(problem)] = "several kinds of hardware"
        elif roughly_timed(group).any():
            reasons[str(problem)] = UNTIMED
    return reasons


def _main(reached: pd.DataFrame, problem: str) -> str:
    names = dict.fromkeys(reached.loc[reached["problem"] == problem, "level"])
    return str(main_level(dict.fromkeys(map(str, names), 0.0)))


def _left_out(start: str, why: Mapping[str, str]) -> str:
    """`Left out: a, b (reason); c (another)`."""
    reasons = {
        reason: [name for name, other in why.items() if other == reason] for reason in why.values()
    }
    text = "; ".join(f"{listed(names)} ({reason})" for reason, names in reasons.items())
    return f"{start}: {text}." if text else ""
