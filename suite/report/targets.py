"""Tables of the targets: how many runs got there, and what it cost them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from suite.report.costs import SHARED
from suite.report.formats import NOT_RUN, count_text, number
from suite.report.outcomes import failure_words
from suite.report.records import Records
from suite.report.results import ALL_WELL
from suite.report.table import Cell, Table, make_table, runs_note
from suite.stats import median_with_failures


def target_tables(records: Records) -> list[Table]:
    """One table for each kind of device; none where no task has a target."""
    devices = sorted(set(records.frame["device"]))
    tables = [_target_table(records, device, alone=len(devices) == 1) for device in devices]
    return [table for table in tables if table.rows]


def _target_table(records: Records, device: str, *, alone: bool) -> Table:
    rows: list[dict[str, Cell | str]] = []
    counted = 0
    for problem, name, runs in records.pairs():
        target = records.of(problem)["target"].dropna()
        if len(target) and runs["device"].iloc[0] == device:
            counted += len(runs)
            rows.append(_row(problem, name, runs, float(target.iloc[0])))
    caption = (
        "How many runs reached the validation target, and the median cost of getting there; a run that did not is "
        "counted as infinite (∞), so a median exists only where more than half of the runs arrived. "
        "Grad-equivalents: oracle calls weighted by their measured cost relative to one forward and backward. "
        f"{SHARED} "
    )
    name, title = ("targets", "Target reached") if alone else (f"targets_{device}", f"Target reached ({device})")
    return make_table(name, title, caption + runs_note(counted), rows)


def _row(problem: str, name: str, runs: pd.DataFrame, target: float) -> dict[str, Cell | str]:
    reached = runs[runs["target_step"].notna()]
    failures = failure_words(runs, "status")
    mixed = len(set(reached["hardware"])) > 1

    def median(column: str, show: Callable[[float], str], mark: str = "") -> Cell:
        if failures == "unsupported":
            return Cell(NOT_RUN)
        middle = median_with_failures([float(value) for value in reached[column].dropna()], len(runs))
        return Cell(mark + show(middle) if math.isfinite(middle) else count_text(middle), order=middle)

    return {
        "problem": problem,
        "optimizer": name,
        "target": Cell(f"{target:.4g}", order=target),
        "reached": Cell(f"{len(reached)}/{len(runs)}", order=len(reached) / len(runs)),
        "steps": median("target_step", count_text),
        "grad-equivalents": median("target_grad_equivalents", count_text),
        "seconds": Cell("several machines")
        if mixed
        else median("target_seconds", number, "~" if reached["parallel"].any() else ""),
        "outcomes": failures or ALL_WELL,
    }
