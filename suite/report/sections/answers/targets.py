"""Tables of the targets: how many runs got there, and what it cost them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.report.sections.answers.final_metrics import ALL_WELL
from suite.results import time_to_target
from suite.results.frame import SHARED, Records
from suite.results.levels import TARGET, levels
from suite.results.outcomes import failure_words
from suite.stats import expected_running_time, median_with_failures
from suite.tables.formats import NOT_RUN, count_text, number
from suite.tables.table import Cell, Table, make_table, runs_note

LEVEL_TABLES = {
    "levels": ("grad_equivalents", "gradient-equivalents"),
    "levels_steps": ("steps", "steps"),
}


def section(context: Context) -> Content:
    """The tables of the targets and of the levels before them."""
    return Content(target_tables(context.records))


def target_tables(records: Records) -> list[Table]:
    """One table for each kind of device, then those of the levels on the way.

    None where no task has a target.
    """
    devices = sorted(set(records.frame["device"]))
    tables = [_target_table(records, device, alone=len(devices) == 1) for device in devices]
    return [table for table in [*tables, *level_tables(records)] if table.rows]


def level_tables(records: Records) -> list[Table]:
    """What each level on the way to the baseline's final value costs in expectation.

    None where no levels are set.
    """
    known = {problem: levels(records, problem) for problem in records.problems}
    names = sorted(
        {name for told in known.values() for name in told if name != TARGET},
        key=_share,
    )
    return [_level_table(records, known, names, table) for table in LEVEL_TABLES] if names else []


def _level_table(
    records: Records, known: dict[str, dict[str, float]], names: list[str], table: str
) -> Table:
    unit, words = LEVEL_TABLES[table]
    rows: list[dict[str, Cell | str]] = []
    counted = 0
    for problem in (one for one in records.problems if set(known[one]) & set(names)):
        spent = {
            name: time_to_target.costs(records, problem, known[problem][name])
            for name in names
            if name in known[problem]
        }
        for label, runs in records.of(problem).groupby("optimizer", sort=False):
            cells = {
                name: _level_cell(one[one["optimizer"] == label], unit)
                for name, one in spent.items()
            }
            rows.append(
                {
                    "problem": problem,
                    "optimizer": str(label),
                    **dict.fromkeys(names, Cell(NOT_RUN)),
                    **cells,
                }
            )
            counted += len(runs)
    caption = (
        f"Expected {words} to each level, a share of the baseline's improvement: all that the runs "
        "spent, up to the level or in vain, over the number of those that reached it (ERT); in "
        "brackets how many did. Values: "
        f"{'; '.join(_values(problem, told, names) for problem, told in known.items() if set(told) & set(names))}. "
    )
    return make_table(
        table, f"Levels on the way, in {words}", caption + runs_note(counted), rows, "problem"
    )


def _level_cell(costs: pd.DataFrame, unit: str) -> Cell:
    if costs.empty:
        return Cell(NOT_RUN)
    there = np.isfinite(costs[unit].to_numpy(dtype=float))
    expected = expected_running_time(list(costs[f"{unit}_spent"]), list(there))
    return Cell(f"{_expected(expected)} ({there.sum()}/{len(there)})", order=expected)


def _values(problem: str, told: dict[str, float], names: list[str]) -> str:
    return f"{problem} {', '.join(f'{told[name]:.4g}' for name in names if name in told)}"


def _share(name: str) -> float:
    return float(name.split()[0])


def _target_table(records: Records, device: str, *, alone: bool) -> Table:
    rows: list[dict[str, Cell | str]] = []
    counted = 0
    for problem, name, runs in records.pairs():
        target = records.of(problem)["target"].dropna()
        if len(target) and runs["device"].iloc[0] == device:
            counted += len(runs)
            rows.append(_row(problem, name, runs, float(target.iloc[0])))
    caption = (
        "How many runs reached the validation target, and the median cost of getting there; a run "
        "that did not is counted as infinite (∞), so a median exists only where more than half of "
        "the runs arrived. Grad-equivalents: oracle calls weighted by their measured cost relative "
        "to one forward and backward. ERT: expected steps, all that the runs took, up to the "
        f"target or in vain, over the number that arrived. {SHARED} "
    )
    name, title = (
        ("targets", "Target reached")
        if alone
        else (f"targets_{device}", f"Target reached ({device})")
    )
    return make_table(name, title, caption + runs_note(counted), rows)


def _row(problem: str, name: str, runs: pd.DataFrame, target: float) -> dict[str, Cell | str]:
    there = runs[runs["target_step"].notna()]
    failures = failure_words(runs, "status")
    mixed = len(set(there["hardware"])) > 1

    def median(column: str, show: Callable[[float], str], mark: str = "") -> Cell:
        if (
            failures == "unsupported" or there[column].isna().any()
        ):  # nobody ran, or what it took is not known
            return Cell(NOT_RUN)
        middle = median_with_failures([float(value) for value in there[column].dropna()], len(runs))
        return Cell(
            mark + show(middle) if math.isfinite(middle) else count_text(middle), order=middle
        )

    return {
        "problem": problem,
        "optimizer": name,
        "target": Cell(f"{target:.4g}", order=target),
        "reached": Cell(f"{len(there)}/{len(runs)}", order=len(there) / len(runs)),
        "steps": median("target_step", count_text),
        "ERT": Cell(NOT_RUN) if failures == "unsupported" else _expected_steps(runs),
        "grad-equivalents": median("target_grad_equivalents", count_text),
        "seconds": Cell("several machines")
        if mixed
        else median("target_seconds", number, "~" if there["parallel"].any() else ""),
        "outcomes": failures or ALL_WELL,
    }


def _expected_steps(runs: pd.DataFrame) -> Cell:
    there = runs["target_step"].notna()
    spent = runs["target_step"].where(there, runs["steps"].fillna(0.0))
    expected = expected_running_time(list(spent), list(there))
    return Cell(_expected(expected), order=expected)


def _expected(value: float) -> str:
    return number(value) if math.isfinite(value) else count_text(value)


SECTION = Section("targets", "Target reached", {OVERALL, PROBLEM}, 110, section)
