"""The problems at a glance: metric, runs, and the best methods, with a link to each page."""

from __future__ import annotations

from suite.report.section import OVERALL, Content, Context, Section
from suite.report.sections.answers.final_metrics import final_cells, metric_text
from suite.results.frame import Records
from suite.tables.formats import NOT_RUN
from suite.tables.table import Cell, Table, make_table, runs_note


def section(context: Context) -> Content:
    """The table of the problems."""
    return Content([overview_table(context.records)])


def overview_table(records: Records) -> Table:
    """A row per problem: its metric, its runs, and the methods that may be the best."""
    rows = [_row(records, problem) for problem in records.problems]
    caption = (
        "One row per problem, with a link to its page. Ahead: the best mean final value and every "
        "optimizer that cannot be told from it (overlapping 95 % bootstrap intervals), as in the "
        "table below; Finished: runs that came to the end of their budget or to their target. "
    )
    return make_table(
        "overview", "Problems at a glance", caption + runs_note(len(records.frame)), rows
    )


def _row(records: Records, problem: str) -> dict[str, Cell | str]:
    runs = records.of(problem)
    ahead = [name for name, cell in final_cells(records, problem).items() if cell.bold]
    done = int(runs["status"].isin(("done", "target")).sum())
    seeds = runs["seed"].nunique()
    return {
        "problem": problem,
        "metric": metric_text(runs),
        "optimizers": Cell(str(runs["optimizer"].nunique()), order=runs["optimizer"].nunique()),
        "seeds": Cell(str(seeds), order=seeds),
        "finished": Cell(f"{done}/{len(runs)}", order=done / len(runs)),
        "ahead": ", ".join(ahead) or NOT_RUN,
    }


SECTION = Section("overview", "Problems at a glance", {OVERALL}, 10, section)
