"""Verdicts on every method against the baseline, and ranks with their stability."""

from __future__ import annotations

from suite.compare.baseline import against_baseline
from suite.compare.ranks import overall, rank_methods
from suite.compare.sides import CostTable
from suite.compare.tables import (
    matrix_table,
    rank_tables,
    sentence_table,
    stability_lines,
    verdict_table,
)
from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.results.frame import Records

HOW_TO_READ = (
    "Each method is set against the baseline, run by run with the same seed where both have it. "
    "Seconds decide where every run had its hardware to itself or a step was timed alone, else "
    "gradient-equivalents; the final value of the metric decides where no target is set or nobody "
    "reached it. It is decided where the 95 % interval excludes a ratio of 1 (a difference of 0). "
    "Each verdict is at 95 % by itself: among equals one in twenty is wrong. "
    "docs/guide/comparing.md explains all of it."
)


def section(context: Context) -> Content:
    """The verdicts against each problem's baseline; empty where no method has another to beat."""
    return verdicts_and_ranks(context.records)


def verdicts_and_ranks(
    records: Records, *, baseline: str | None = None, mixed: bool = False
) -> Content:
    """The verdicts against a baseline, and the ranks; empty where no method stands beside another.

    Args:
        records: the runs.
        baseline: the method to compare with; each problem's own where it is None.
        mixed: whether runs of several machines may be compared.
    """
    cost_table = CostTable(records)
    verdicts = against_baseline(cost_table, baseline, mixed=mixed)
    rankings = rank_methods(cost_table, mixed=mixed)
    several = len(records.problems) > 1
    total = overall(records, rankings) if several else None
    tables = [
        *([matrix_table(records, verdicts)] if verdicts and several else []),
        *rank_tables(records, rankings, total),
        *([verdict_table(verdicts)] if verdicts else []),
        *([sentence_table(verdicts)] if verdicts and not several else []),
    ]
    return Content(tables, [], HOW_TO_READ if tables else "", stability_lines(total))


SECTION = Section("verdicts", "Verdicts", {OVERALL, PROBLEM}, 40, section)
