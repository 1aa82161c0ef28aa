"""Tables of what it cost: time per step, oracle calls per step, memory.

One table for each kind of hardware.
"""

from __future__ import annotations

import math

import pandas as pd

from suite.report.sections.answers.final_metrics import ALL_WELL
from suite.results.frame import SHARED, Records, once, step_times, timed_runs
from suite.results.load import TRAINED
from suite.results.outcomes import failure_words
from suite.stats import mean_std, told_from_best
from suite.tables.formats import NOT_RUN, bytes_text, mean_text, number, ratio_text
from suite.tables.table import Cell, Table, make_table, runs_note


def cost_tables(records: Records) -> list[Table]:
    """One table for each hardware that timings come from."""
    timed = records.frame[timed_runs(records.frame)]
    places = sorted(set(timed["hardware"]))
    return [
        _cost_table(records, place, index if len(places) > 1 else 0)
        for index, place in enumerate(places, 1)
    ]


def _cost_table(records: Records, place: str, index: int) -> Table:
    here = records.frame[records.frame["hardware"] == place]
    rows = [
        row
        for problem in dict.fromkeys(here["problem"])
        for row in _problem_rows(records, place, str(problem))
    ]
    caption = (
        f"Measured on {place}. Milliseconds of one optimizer step (evaluation, data and logging "
        f"excluded), mean ± "
        "standard deviation (runs); Relative: divided by the cheapest optimizer of this problem; "
        "grad-equivalents per "
        "step: oracle calls weighted by their measured cost relative to one forward and backward; "
        "state: the "
        "optimizer's tensors; peak: the high-water mark of memory over a step. Bold: the cheapest, "
        "and what cannot be "
        f"told from it, among runs that had their cores to themselves. {SHARED} "
    )
    name, title = (
        ("costs", "Time and memory per step")
        if not index
        else (f"costs_{index}", f"Time and memory per step ({place})")
    )
    return make_table(name, title, caption + runs_note(len(here)), rows)


@once
def _problem_rows(records: Records, place: str, problem: str) -> list[dict[str, Cell | str]]:
    runs = records.of(problem)
    groups = dict(iter(runs[runs["hardware"] == place].groupby("optimizer", sort=False)))
    cells = {name: groups[name] for name in records.optimizers if name in groups}
    times = {name: step_times(runs) for name, runs in cells.items()}
    means = {name: mean_std(values)[0] for name, (values, _) in times.items() if values}
    alone = [name for name, (values, shared) in times.items() if values and not shared]
    apart = told_from_best([times[name][0] for name in alone], "min")
    bold = {name for name, far in zip(alone, apart, strict=True) if not far}
    cheapest = min(means.values(), default=math.nan)
    return [
        _cost_row(problem, name, cells[name], times[name], cheapest, name in bold) for name in cells
    ]


def _cost_row(
    problem: str,
    name: str,
    runs: pd.DataFrame,
    times: tuple[list[float], bool],
    cheapest: float,
    bold: bool,
) -> dict[str, Cell | str]:
    values, shared = times
    mark = "~" if shared else ""
    mean = mean_std(values)[0] if values else math.nan
    trained = runs[runs["status"].isin(TRAINED)]
    work = [float(value) for value in (trained["grad_equivalents"] / trained["steps"]).dropna()]
    return {
        "problem": problem,
        "optimizer": name,
        "ms per step": Cell(
            mark + mean_text([1e3 * value for value in values]) if values else NOT_RUN, bold, mean
        ),
        "relative": Cell(
            mark + ratio_text(mean / cheapest) if values else NOT_RUN, order=mean / cheapest
        ),
        "grad-eq. per step": Cell(number(mean_std(work)[0]), order=mean_std(work)[0])
        if work
        else NOT_RUN,
        "state": _bytes(trained, "state_bytes"),
        "peak": _bytes(trained, "peak_memory_bytes"),
        "outcomes": failure_words(runs, "status") or ALL_WELL,
    }


def _bytes(runs: pd.DataFrame, column: str) -> Cell:
    values = [float(value) for value in runs[column].dropna()]
    return Cell(bytes_text(max(values)), order=max(values)) if values else Cell(NOT_RUN)
