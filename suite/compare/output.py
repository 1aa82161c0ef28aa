"""Verdicts as output: plain lines in a pipe, rich ones in a terminal, JSON or Markdown."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from suite.compare.explanations import reasons, shared_reasons, summary_lines
from suite.compare.sentences import final_result, final_text, sentence
from suite.compare.sides import CostTable
from suite.compare.verdict import FINAL, Verdict
from suite.tables.markdown import markdown
from suite.tables.table import Table
from suite.tables.terminal import print_table

WIDE = 180  # columns of a table that goes to a file or a pipe


def show(
    cost_table: CostTable,
    verdicts: Sequence[Verdict],
    shape: str | None,
    console: Console | None = None,
) -> None:
    """Print the verdicts."""
    console = console or Console(highlight=False)
    if shape == "json":
        content = {
            "verdicts": [as_dict(cost_table, verdict) for verdict in verdicts],
            "reasons": shared_reasons(cost_table.records, verdicts),
        }
        console.out(json.dumps(content, indent=2, ensure_ascii=False), highlight=False)
        return
    for headline, lines in blocks(cost_table, verdicts):
        _print(console, headline, lines, markdown=shape == "markdown")


def blocks(cost_table: CostTable, verdicts: Sequence[Verdict]) -> list[tuple[str, list[str]]]:
    """The sentence of each verdict and the lines under it; the summary of several comes last."""
    shared = shared_reasons(cost_table.records, verdicts)
    lines = [[*_final_line(verdict), *reasons(cost_table, verdict)] for verdict in verdicts]
    paragraphs = list(zip(map(sentence, verdicts), lines, strict=True))
    if len(verdicts) == 1:
        lines[0].extend(shared)
        return paragraphs
    return paragraphs + [(line, shared) for line in summary_lines(cost_table, verdicts)]


def show_all(tables: Sequence[Table], lines: Sequence[str], shape: str | None) -> None:
    """Print the tables of `--all`, then what they come to."""
    if shape == "json":
        print(
            json.dumps(
                {"tables": [_table(table) for table in tables], "lines": list(lines)},
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    if shape == "markdown":
        print(
            "\n\n".join([*(markdown(table) for table in tables), *(f"- {line}" for line in lines)])
        )
        return
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=WIDE)
    for table in tables:
        print_table(table, console)
        console.print()
    for line in lines:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)


def as_dict(cost_table: CostTable, verdict: Verdict) -> dict[str, Any]:
    """All numbers of a verdict, what is not finite as null, and its words."""
    return {
        "problem": verdict.problem,
        "a": verdict.a.label,
        "b": verdict.b.label,
        "level": verdict.level,
        "value": _number(verdict.value),
        "runs": [len(verdict.a.runs), len(verdict.b.runs)],
        "reached": list(verdict.reached),
        "paired": verdict.paired,
        "ratios": {unit: _interval(ratio) for unit, ratio in verdict.ratios.items()},
        "seconds_trusted": verdict.trusted,
        "memory": _number(verdict.memory),
        "finals": [_number(value) for value in verdict.finals],
        "final_difference": _interval(verdict.final)
        if verdict.final and not verdict.by_ratio
        else None,
        "final_ratio": _interval(verdict.final) if verdict.final and verdict.by_ratio else None,
        "decided_by": verdict.decided_by,
        "outcome": None
        if verdict.outcome is None
        else {-1: "a", 1: "b", 0: "undecided"}[verdict.outcome],
        "sentence": sentence(verdict),
        "reasons": reasons(cost_table, verdict),
    }


def _final_line(verdict: Verdict) -> list[str]:
    if verdict.decided_by == FINAL or verdict.refused:
        return []
    return ["; ".join(part for part in (final_text(verdict), final_result(verdict)) if part)]


def _print(console: Console, headline: str, lines: Sequence[str], *, markdown: bool) -> None:
    if markdown:
        console.out(
            "\n".join([f"- {headline}", *(f"  - {line}" for line in lines)]), highlight=False
        )
    elif not console.is_terminal:  # a line a verdict, however long: that is what can be searched
        console.out("\n".join([headline, *(f"  {line}" for line in lines)]), highlight=False)
    else:
        console.print(Text(headline, style="bold"))
        for line in lines:
            console.print(Padding(Text(line, style="dim"), (0, 0, 0, 2)))


def _table(table: Table) -> dict[str, Any]:
    rows = [
        dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows
    ]
    return {"name": table.name, "title": table.title, "caption": table.caption, "rows": rows}


def _interval(interval: Any) -> dict[str, Any]:
    return {
        "value": _number(interval.value),
        "low": _number(interval.low),
        "high": _number(interval.high),
        "bound": interval.bound.strip(),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
