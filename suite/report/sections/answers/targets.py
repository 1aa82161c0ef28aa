"""Tables of the targets: how many runs reached them, and at what cost."""

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
        {name for values in known.values() for name in values if name != TARGET}, key=_share
    )
    return [_level_table(records, known, names, table) for table in LEVEL_TABLES] if names else []


def _level_table(
    records: Records, known: dict[str, dict[str, float]], names: list[str], table: str
) -> Table:
    unit, words = LEVEL_TABLES[table]
    problems = [problem for problem in records.problems if set(known[problem]) & set(names)]
    rows = [
        row
        for problem in problems
        for row in _level_rows(records, problem, known[problem], names, unit)
    ]
    counted = sum(len(records.of(problem)) for problem in problems)
    values = "; ".join(_values(problem, known[problem], names) for problem in problems)
    caption = (
        f"Expected {words} to each level, a share of the baseline's improvement: all that the runs "
        "spent, up to the level or in vain, over the number of those that reached it (ERT); in "
        f"brackets how many did. Values: {values}. "
    )
    return make_table(
        table, f"Levels on the way, in {words}", caption + runs_note(counted), rows, "problem"
    )


def _level_rows(
    records: Records, problem: str, values: dict[str, float], names: list[str], unit: str
) -> list[dict[str, Cell | str]]:
    """A row for each optimizer of a problem, with a cell for each level."""
    spent = {
        name: time_to_target.costs(records, problem, values[name])
        for name in names
        if name in values
    }
    return [
        {
            "problem": problem,
            "optimizer": str(label),
            **dict.fromkeys(names, Cell(NOT_RUN)),
            **{
                name: _level_cell(costs[costs["optimizer"] == label], unit)
                for name, costs in spent.items()
            },
        }
        for label in records.of(problem)["optimizer"].drop_duplicates()
    ]


def _level_cell(costs: pd.DataFrame, unit: str) -> Cell:
    if costs.empty:
        return Cell(NOT_RUN)
    reached = np.isfinite(costs[unit].to_numpy(dtype=float))
    expected = expected_running_time(list(costs[f"{unit}_spent"]), list(reached))
    return Cell(f"{_expected(expected)} ({reached.sum()}/{len(reached)})", order=expected)


def _values(problem: str, values: dict[str, float], names: list[str]) -> str:
    return f"{problem} {', '.join(f'{values[name]:.4g}' for name in names if name in values)}"


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
    reached = runs[runs["target_step"].notna()]
    failures = failure_words(runs, "status")
    mixed = len(set(reached["hardware"])) > 1

    def median(column: str, show: Callable[[float], str], mark: str = "") -> Cell:
        unknown = reached[column].isna().any()
        if failures == "unsupported" or unknown:
            return Cell(NOT_RUN)
        values = [float(value) for value in reached[column].dropna()]
        middle = median_with_failures(values, len(runs))
        text = mark + show(middle) if math.isfinite(middle) else count_text(middle)
        return Cell(text, order=middle)

    return {
        "problem": problem,
        "optimizer": name,
        "target": Cell(f"{target:.4g}", order=target),
        "reached": Cell(f"{len(reached)}/{len(runs)}", order=len(reached) / len(runs)),
        "steps": median("target_step", count_text),
        "ERT": Cell(NOT_RUN) if failures == "unsupported" else _expected_steps(runs),
        "grad-equivalents": median("target_grad_equivalents", count_text),
        "seconds": Cell("several machines")
        if mixed
        else median("target_seconds", number, "~" if reached["parallel"].any() else ""),
        "outcomes": failures or ALL_WELL,
    }


def _expected_steps(runs: pd.DataFrame) -> Cell:
    reached = runs["target_step"].notna()
    spent = runs["target_step"].where(reached, runs["steps"].fillna(0.0))
    expected = expected_running_time(list(spent), list(reached))
    return Cell(_expected(expected), order=expected)


def _expected(value: float) -> str:
    return number(value) if math.isfinite(value) else count_text(value)


SECTION = Section("targets", "Target reached", {OVERALL, PROBLEM}, 110, section)
