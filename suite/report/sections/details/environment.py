"""Versions and machines that the runs recorded."""

from __future__ import annotations

from collections import Counter

from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.results.frame import Records
from suite.results.labels import flatten
from suite.tables.table import Cell, Table, make_table, runs_note

OF_THE_PAIR = ("oracle_costs", "layer_coverage")  # recorded beside the machine


def section(context: Context) -> Content:
    """The table of versions and machines; empty where no run recorded them."""
    table = environment_table(context.records)
    return Content([table] if table.rows else [])


def environment_table(records: Records) -> Table:
    """Versions and machines; where the runs disagree, every value with its number of runs."""
    values: dict[str, Counter[str]] = {}
    for environment in records.environments.values():
        machine = {key: value for key, value in environment.items() if key not in OF_THE_PAIR}
        for key, value in flatten(machine).items():
            values.setdefault(key, Counter())[value] += 1
    rows: list[dict[str, Cell | str]] = [
        {"what": key, "value": _spread(counts, len(records.environments))}
        for key, counts in values.items()
    ]
    caption = (
        "Recorded at the start of the runs; a value that not all runs share says how many runs it "
        "belongs to. "
    )
    return make_table(
        "environment", "Environment", caption + runs_note(len(records.environments)), rows
    )


def _spread(counts: Counter[str], total: int) -> str:
    if len(counts) == 1 and sum(counts.values()) == total:
        return next(iter(counts))
    return ", ".join(
        f"{value} ({many} run{'s' if many != 1 else ''})" for value, many in counts.most_common()
    )


SECTION = Section("environment", "Environment", {OVERALL, PROBLEM}, 240, section)
