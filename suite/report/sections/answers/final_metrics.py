"""The final metric of every optimizer on every problem, briefly and in full."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.report.sections.answers.heatmap import heat_map
from suite.results.frame import Records, once
from suite.results.outcomes import complete, end_values, failure_words
from suite.stats import apart_from_best, best_index, bootstrap_interval, mean_std
from suite.tables.formats import NOT_RUN, mean_text, number, ratio_text
from suite.tables.table import Cell, Table, make_table, runs_note

ARROWS = {"max": "↑", "min": "↓"}
BOLD = (
    "Bold: the best mean, and every mean that cannot be told from it (their 95 % bootstrap "
    "intervals overlap; a single run has no interval); a cell takes part only if all of its runs "
    "have a value."
)
ALL_WELL = "all finished"


def section(context: Context) -> Content:
    """The mean final values of all pairs, as a table and as a heat map."""
    return Content([main_table(context.records)], [heat_map(context.records, context.figures)])


def results_in_full(context: Context) -> Content:
    """The same values with best and test values, intervals and ratios."""
    return Content([results_table(context.records)])


def main_table(records: Records) -> Table:
    """Final validation metric, a row per optimizer and a column per problem."""
    columns = {problem: final_cells(records, problem) for problem in records.problems}
    rows: list[dict[str, Cell | str]] = []
    for name in records.optimizers:
        cells = {
            f"{problem}: {metric_text(records.of(problem))}": column[name]
            for problem, column in columns.items()
        }
        rows.append({"optimizer": name, **cells})
    caption = (
        "Final value of each problem's metric on the validation split, mean ± standard deviation "
        f"(number of runs); {ARROWS['max']} larger is better, {ARROWS['min']} smaller is better. "
        f"{BOLD} What is not plainly done is counted in words; only runs that came to the end of "
        f"their budget (done, target, timeout) have a value; {NOT_RUN} was not run. "
    )
    return make_table(
        "main", "Final validation metric", caption + runs_note(len(records.frame)), rows
    )


def results_table(records: Records) -> Table:
    """The same results with best and test values, intervals and the ratio to the best mean.

    The table has a row per pair.
    """
    rows: list[dict[str, Cell | str]] = []
    for problem in records.problems:
        rows += _problem_rows(records, problem)
    caption = (
        "Final and best value of the metric on the validation split, the final one on the test "
        "split, the 95 % bootstrap interval of the mean final value, and Relative: the mean final "
        f"value divided by the best one on this problem. {BOLD} "
    )
    return make_table("results", "Results in full", caption + runs_note(len(records.frame)), rows)


@once
def _problem_rows(records: Records, problem: str) -> list[dict[str, Cell | str]]:
    cells = final_cells(records, problem)
    best = _best_mean(records, problem)
    pairs = {name: records.pair(problem, name) for name in records.optimizers}
    return [
        _result_row(problem, name, runs, cells[name], best)
        for name, runs in pairs.items()
        if len(runs)
    ]


@once
def final_cells(records: Records, problem: str) -> dict[str, Cell]:
    """One problem's cells.

    The means, the best of them bold, and the outcomes that have no number as words.

    All optimizers of the report have one, also those without a run on the problem.
    """
    groups = {name: records.pair(problem, name) for name in records.optimizers}
    contenders = [name for name, runs in groups.items() if complete(runs, "final")]
    values = [end_values(groups[name], "final") for name in contenders]
    apart = apart_from_best(values, _direction(records.of(problem)))
    bold = {name for name, far in zip(contenders, apart, strict=True) if not far}
    cells = {name: _final_cell(runs, name in bold) for name, runs in groups.items()}
    return {
        name: replace(cell, source=(problem, name) if len(groups[name]) else None)
        for name, cell in cells.items()
    }


def _final_cell(runs: pd.DataFrame, bold: bool) -> Cell:
    values = end_values(runs, "final")
    parts = [mean_text(values) if values else "", failure_words(runs, "final")]
    return Cell(
        " · ".join(part for part in parts if part), bold, mean_std(values)[0] if values else None
    )


def _result_row(
    problem: str, name: str, runs: pd.DataFrame, cell: Cell, best: float
) -> dict[str, Cell | str]:
    values = end_values(runs, "final")
    mean = mean_std(values)[0] if values else math.nan
    interval = bootstrap_interval(values) if values else None
    ratio = mean / best if best > 0 and mean > 0 else math.nan
    return {
        "problem": problem,
        "optimizer": name,
        "metric": metric_text(runs),
        "final": Cell(
            mean_text(values) if values else NOT_RUN, cell.bold, cell.order, (problem, name)
        ),
        "95 % interval": f"{number(interval[0])} to {number(interval[1])}" if interval else NOT_RUN,
        "relative": NOT_RUN if math.isnan(ratio) else Cell(ratio_text(ratio), order=ratio),
        "best": _mean_cell(runs, "best"),
        "test": _mean_cell(runs, "test"),
        "final loss": _mean_cell(runs, "final_loss"),
        "outcomes": failure_words(runs, "final") or ALL_WELL,
    }


def _mean_cell(runs: pd.DataFrame, column: str) -> Cell:
    values = end_values(runs, column)
    return Cell(mean_text(values), order=mean_std(values)[0]) if values else Cell(NOT_RUN)


def _best_mean(records: Records, problem: str) -> float:
    values = [end_values(records.pair(problem, name), "final") for name in records.optimizers]
    values = [group for group in values if group]
    return (
        mean_std(values[best_index(values, _direction(records.of(problem)))])[0]
        if values
        else math.nan
    )


def _direction(runs: pd.DataFrame) -> str:
    return str(runs["direction"].iloc[0])


def metric_text(runs: pd.DataFrame) -> str:
    """The metric's name and which way is better."""
    return f"{runs['metric'].iloc[0]} {ARROWS[_direction(runs)]}"


SECTION = Section("main", "Final validation metric", {OVERALL}, 20, section, printed=True)
OF_ONE = Section("results", "Results", {PROBLEM}, 30, results_in_full)
IN_FULL = Section("results", "Results in full", {OVERALL}, 210, results_in_full)
