"""Tables of what was reached: the final metric of every optimizer on every problem, and the targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from suite.report.formats import NOT_RUN, count_text, mean_text, number
from suite.report.outcomes import complete, failure_words, finished_values
from suite.report.records import Records
from suite.report.stats import best_index, bootstrap_interval, mean_std, median_with_failures, told_from_best
from suite.report.table import Cell, Table, make_table, runs_note

ARROWS = {"max": "↑", "min": "↓"}
BOLD = (
    "Bold: the best mean, and every mean that cannot be told from it (their 95 % bootstrap intervals overlap; a "
    "single run has no interval); only cells all of whose runs finished take part."
)
SHARED = "~ marks seconds from runs that shared cores with others: read them as rough."


def main_table(records: Records) -> Table:
    """Final validation metric, a row per optimizer and a column per problem."""
    columns = {problem: _column(records, problem) for problem in records.problems}
    rows: list[dict[str, Cell | str]] = []
    for name in records.optimizers:
        row: dict[str, Cell | str] = {"optimizer": name}
        row |= {f"{problem}: {_metric(records, problem)}": cells[name] for problem, cells in columns.items()}
        rows.append(row)
    caption = (
        "Final value of each problem's metric on the validation split, mean ± standard deviation (number of runs); "
        f"{ARROWS['max']} larger is better, {ARROWS['min']} smaller is better. {BOLD} Runs that did not finish "
        f"are counted in words and take no part in the mean; {NOT_RUN} was not run. "
    )
    return make_table("main", "Final validation metric", caption + runs_note(len(records.frame)), rows)


def results_table(records: Records) -> Table:
    """The same results with best and test values, intervals and the ratio to the best mean: a row per pair."""
    rows: list[dict[str, Cell | str]] = []
    for problem in records.problems:
        cells = _column(records, problem)
        means = {name: _mean(records.pair(problem, name), "final") for name in records.optimizers}
        ranked = [mean for mean in means.values() if not math.isnan(mean)]
        best = ranked[best_index([[mean] for mean in ranked], _direction(records, problem))] if ranked else math.nan
        for name in records.optimizers:
            runs = records.pair(problem, name)
            if len(runs):
                rows.append(_result_row(problem, name, runs, cells[name], means[name], best))
    caption = (
        "Final and best value of the metric on the validation split, the final one on the test split, the 95 % "
        "bootstrap interval of the mean final value, and Relative: the mean final value divided by the best one on "
        f"this problem. {BOLD} "
    )
    return make_table("results", "Results in full", caption + runs_note(len(records.frame)), rows)


def target_tables(records: Records) -> list[Table]:
    """Targets reached, one table for each kind of device; none where no task has a target."""
    devices = [(str(device), runs) for device, runs in records.frame.groupby("device")]
    tables = [_target_table(records, device, runs, alone=len(devices) == 1) for device, runs in devices]
    return [table for table in tables if len(table.frame)]


def _target_table(records: Records, device: str, on_device: pd.DataFrame, *, alone: bool) -> Table:
    rows: list[dict[str, Cell | str]] = []
    counted = 0
    for problem, name, runs in records.pairs():
        target = on_device.loc[on_device["problem"] == problem, "target"].dropna()
        if len(target):
            counted += len(runs)
            rows.append(_target_row(problem, name, runs, float(target.iloc[0])))
    caption = (
        "How many runs reached the validation target, and the median cost of getting there; a run that did not is "
        "counted as infinite (∞), so a median exists only where at least half of the runs arrived. "
        "Grad-equivalents: oracle calls weighted by their measured cost relative to one forward and backward. "
        f"{SHARED} "
    )
    name, title = ("targets", "Target reached") if alone else (f"targets_{device}", f"Target reached ({device})")
    return make_table(name, title, caption + runs_note(counted), rows)


def _target_row(problem: str, name: str, runs: pd.DataFrame, target: float) -> dict[str, Cell | str]:
    reached = runs[runs["target_step"].notna()]
    failures = failure_words(runs, "status")

    def median(column: str, show: Callable[[float], str], mark: str = "") -> Cell:
        if failures == "unsupported":
            return Cell(NOT_RUN)
        middle = median_with_failures([float(value) for value in reached[column].dropna()], len(runs))
        return Cell((mark if math.isfinite(middle) else "") + show(middle), order=middle)

    mark = "~" if reached["parallel"].any() else ""
    mixed = len(set(reached["hardware"])) > 1
    return {
        "problem": problem,
        "optimizer": name,
        "target": Cell(number(target), order=target),
        "reached": Cell(f"{len(reached)}/{len(runs)}", order=len(reached) / len(runs)),
        "steps": median("target_step", count_text),
        "grad-equivalents": median("target_grad_equivalents", count_text),
        "seconds": Cell("mixed hardware") if mixed else median("target_seconds", _seconds, mark),
        "outcomes": failures or "all finished",
    }


def _seconds(value: float) -> str:
    return number(value) if math.isfinite(value) else count_text(value)


def _result_row(
    problem: str, name: str, runs: pd.DataFrame, cell: Cell, mean: float, best: float
) -> dict[str, Cell | str]:
    values = finished_values(runs, "final")
    interval = bootstrap_interval(values) if values else None
    ratio = mean / best if best > 0 and mean > 0 else math.nan
    return {
        "problem": problem,
        "optimizer": name,
        "metric": f"{runs['metric'].iloc[0]} {ARROWS[runs['direction'].iloc[0]]}",
        "final": Cell(mean_text(values) if values else NOT_RUN, cell.bold, cell.order),
        "95 % interval": f"{number(interval[0])} to {number(interval[1])}" if interval else NOT_RUN,
        "relative": Cell(NOT_RUN if math.isnan(ratio) else f"{ratio:.3g}", order=ratio),
        "best": _mean_cell(runs, "best"),
        "test": _mean_cell(runs, "test"),
        "final loss": _mean_cell(runs, "final_loss"),
        "outcomes": failure_words(runs, "final") or "all finished",
    }


def _column(records: Records, problem: str) -> dict[str, Cell]:
    """One problem's cells: the means, the best of them bold, and the outcomes that have no number as words."""
    groups = {name: records.pair(problem, name) for name in records.optimizers}
    contenders = [name for name, runs in groups.items() if complete(runs, "final")]
    values = [finished_values(groups[name], "final") for name in contenders]
    apart = told_from_best(values, _direction(records, problem))
    bold = {name for name, far in zip(contenders, apart, strict=True) if not far}
    return {name: _final_cell(runs, name in bold) for name, runs in groups.items()}


def _final_cell(runs: pd.DataFrame, bold: bool) -> Cell:
    values = finished_values(runs, "final")
    parts = [mean_text(values)] if values else []
    parts += [words] if (words := failure_words(runs, "final")) else []
    return Cell(" · ".join(parts), bold, _mean(runs, "final") if values else None)


def _mean_cell(runs: pd.DataFrame, column: str) -> Cell:
    values = finished_values(runs, column)
    return Cell(mean_text(values), order=mean_std(values)[0]) if values else Cell(NOT_RUN)


def _mean(runs: pd.DataFrame, column: str) -> float:
    values = finished_values(runs, column)
    return mean_std(values)[0] if values else math.nan


def _direction(records: Records, problem: str) -> str:
    return str(records.frame.loc[records.frame["problem"] == problem, "direction"].iloc[0])


def _metric(records: Records, problem: str) -> str:
    runs = records.frame[records.frame["problem"] == problem]
    return f"{runs['metric'].iloc[0]} {ARROWS[runs['direction'].iloc[0]]}"
