"""Settings of the problems, and what their oracle calls cost."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.report.sections.details.cells import seeds_text, settings_text
from suite.results.frame import Records
from suite.tables.table import Cell, Table, make_table, runs_note


def section(context: Context) -> Content:
    """The settings that the labels of problems stand for."""
    return Content([problem_table(context.records)])


def problem_table(records: Records) -> Table:
    """The settings that each problem's label stands for."""
    rows: list[dict[str, Cell | str]] = [
        {
            "problem": problem,
            "runs": Cell(str(len(records.of(problem))), order=len(records.of(problem))),
            "seeds": seeds_text(records.of(problem)),
            "settings": settings_text(settings),
            "cost of calls": _call_costs(records, problem),
        }
        for problem, settings in sorted(records.problem_settings.items())
    ]
    caption = (
        "What was trained: data, model, budget and device of each problem, and the measured cost "
        "of each oracle call relative to one forward and backward, by which grad-equivalents are "
        "weighted. "
    )
    return make_table("problems", "Problems", caption + runs_note(len(records.frame)), rows)


def _call_costs(records: Records, problem: str) -> str:
    """The median over the problem's runs of each call's cost."""
    indices = records.of(problem).index
    measured = [records.environments[index].get("oracle_costs") for index in indices]
    costs = pd.DataFrame([one for one in measured if isinstance(one, dict)])
    medians = costs.apply(pd.to_numeric, errors="coerce").median().dropna()
    return ", ".join(f"{call} {cost:.2f}" for call, cost in medians.items())


SECTION = Section("problems", "Settings of the problems", {OVERALL}, 230, section)
OF_ONE = replace(SECTION, title="The problem's settings", pages={PROBLEM})
