"""Tables of verdicts, ranks and their stability."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

import pandas as pd

from suite.compare.ranks import TAU_MAX, Overall, Ranking
from suite.compare.sentences import (
    UNITS,
    factor,
    final_text,
    interval_text,
    ratio_text,
    result,
    sentence,
)
from suite.compare.verdict import BETTER, FINAL, SECONDS, WORK, WORSE, Verdict
from suite.results.frame import Records
from suite.tables.formats import NOT_RUN
from suite.tables.table import Cell, Table, make_table, runs_note

WORDS = {BETTER: "better", WORSE: "worse", 0: "?", None: ""}


BASELINE = "baseline"


def matrix_table(records: Records, verdicts: Sequence[Verdict]) -> Table:
    """A row a method, a column a problem: the ratio that decides, and which way it is decided."""
    problems = list(dict.fromkeys(one.problem for one in verdicts))
    by_cell = {(one.a.label, one.problem): one for one in verdicts}
    bases = {one.problem: one.b.label for one in verdicts}
    rows: list[dict[str, Cell | str]] = []
    for name in records.optimizers:
        cells = {
            problem: _matrix_cell(by_cell.get((name, problem)), bases[problem] == name)
            for problem in problems
        }
        rows.append({"optimizer": name, **cells})
    units = list(
        dict.fromkeys(UNITS[one.decided_by] for one in verdicts if one.decided_by != FINAL)
    )
    caption = (
        f"How many times the {' or '.join(units) or 'cost'} of the baseline each method needs to "
        "reach the target, and whether it is better or worse than the baseline at 95 % (? where "
        "that cannot be told; bold: better). Where < or > stands before a bound, or ≈ before a "
        "ratio within the smaller budget, some runs never reached the target. `final`: the final "
        f"value decides; {NOT_RUN}: not run. "
    )
    return make_table(
        "verdict_matrix", "Against the baseline", caption + runs_note(_runs(verdicts)), rows
    )


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """A row a method and problem.

    Every ratio with its interval, how many runs reach the level, and the verdict.
    """
    rows: list[dict[str, Cell | str]] = [
        {
            "problem": one.problem,
            "optimizer": _sourced(one.a.label, one),
            "against": one.b.label,
            **{UNITS[unit]: _ratio_cell(one, unit) for unit in ("steps", WORK, SECONDS)},
            "memory": Cell(f"{factor(one.memory)}x", order=one.memory)
            if one.memory > 0
            else NOT_RUN,
            "reached": _reached(one),
            "final value": NOT_RUN
            if one.refused
            else final_text(one).partition(": ")[2] or NOT_RUN,
            "verdict": Cell(
                "does not fit" if one.refused else result(one), bold=one.outcome == BETTER
            ),
        }
        for one in verdicts
    ]
    caption = (
        "Ratios of what was spent to reach the target, the method's over the baseline's, with 95 % "
        "intervals; ~ marks seconds of runs that shared the machine, which do not decide; memory: "
        "the ratio of the peaks; reached: runs of the method and of the baseline at the target; "
        "final value: how far the method's lies from the baseline's, or their ratio (x) where the "
        "metric falls by decades. "
    )
    return make_table(
        "verdicts", "Verdicts in full", caption + runs_note(_runs(verdicts)), rows, "problem"
    )


def sentence_table(verdicts: Sequence[Verdict]) -> Table:
    """The verdicts in words, as `python -m suite.compare` prints them."""
    rows: list[dict[str, Cell | str]] = [
        {
            "problem": one.problem,
            "optimizer": _sourced(one.a.label, one),
            "in words": sentence(one).removeprefix(f"{one.problem}: "),
            "more": f"python -m suite.compare "
            f"{shlex.join([one.a.label, one.b.label, f'task={one.a.task}'])}",
        }
        for one in verdicts
    ]
    caption = (
        "The same in words; the command, with the --runs of this report where it has one, tells "
        "what stands behind each of them. "
    )
    return make_table(
        "verdict_words", "Verdicts in words", caption + runs_note(_runs(verdicts)), rows, "problem"
    )


def rank_tables(
    records: Records, rankings: Sequence[Ranking], total: Overall | None
) -> list[Table]:
    """The ranks on every problem, and overall where several problems count."""
    tables = [] if total is None or len(total.problems) < 2 else [overall_table(total)]
    return [*tables, *([problem_ranks(records, rankings)] if rankings else [])]


def overall_table(total: Overall) -> Table:
    """Mean ranks and profile scores over problems, with what resampling makes of them."""
    rows: list[dict[str, Cell | str]] = [
        {
            "optimizer": str(name),
            "mean rank": Cell(
                f"{row['rank']:.2f} [{row['low']:.2f}, {row['high']:.2f}]", order=float(row["rank"])
            ),
            "keeps its place": _percent(float(row["stability"])),
            "score": _score(row),
            "first on": Cell(
                f"{row['first']:.0f}/{len(total.problems)}", order=float(row["first"])
            ),
            "beats the next": _share(float(row["next"])),
        }
        for name, row in total.table.iterrows()
    ]
    caption = (
        f"Over {', '.join(total.problems)}. Mean rank (1 is the best; ties share their ranks) with "
        "its 95 % interval, and in how many resamples of seeds and problems a method keeps its "
        f"place; score: area under its performance profile up to {TAU_MAX:g} times the best cost, "
        "1 for always the cheapest; beats the next: P that a run of it beats one of the method "
        "below. "
    )
    left = f"Left out: {'; '.join(total.left_out)}. " if total.left_out else ""
    return make_table("ranks_overall", "Ranks overall", f"{caption}{left}".rstrip(), rows)


def problem_ranks(records: Records, rankings: Sequence[Ranking]) -> Table:
    """A row a method, a column a problem.

    Its rank, its median, and in how many resamples of the seeds it keeps it.
    """
    names = [
        name for name in records.optimizers if any(name in one.ranks.index for one in rankings)
    ]
    tops = {one.problem: _at_the_top(one) for one in rankings}
    rows: list[dict[str, Cell | str]] = [
        {
            "optimizer": name,
            **{one.problem: _rank_cell(one, name, tops[one.problem]) for one in rankings},
        }
        for name in names
    ]
    by = "; ".join(f"{unit}: {', '.join(problems)}" for unit, problems in _by(rankings).items())
    caption = (
        "Rank on each problem by the median over seeds (failures infinite; ties share a rank) and "
        "in how many resamples of the seeds it is kept. Bold: the first, and what cannot be told "
        f"from it at 95 %. By {by}. "
    )
    runs = sum(len(records.of(one.problem)) for one in rankings)
    return make_table("ranks", "Ranks on each problem", caption + runs_note(runs), rows)


def stability_lines(total: Overall | None) -> list[str]:
    """How stable the first place is, and which methods cannot be told apart, in sentences."""
    if total is None or len(total.problems) < 2:
        return []
    lines = [
        f"Overall: {total.table.index[0]} is first in {100 * total.table['stability'].iloc[0]:.0f} "
        "% of the resamples."
    ]
    return lines + [f"Cannot be told apart: {_listed(group)}." for group in total.groups]


def _matrix_cell(verdict: Verdict | None, is_baseline: bool) -> Cell:
    if is_baseline:
        return Cell(BASELINE, order=1.0)
    if verdict is None:
        return Cell(NOT_RUN)
    if verdict.refused:
        return Cell("does not fit")
    word = WORDS[verdict.outcome]
    source = (verdict.a.problem, verdict.a.label)
    bold = verdict.outcome == BETTER
    if verdict.decided_by == FINAL:
        return Cell(f"final {word}".strip(), bold, source=source)
    ratio = verdict.ratios[verdict.decided_by]
    mark = {"at most ": "<", "at least ": ">", "about ": "≈"}.get(ratio.bound, "")
    return Cell(f"{mark}{factor(ratio.value)} {word}".strip(), bold, ratio.value, source)


def _ratio_cell(verdict: Verdict, unit: str) -> Cell:
    if unit not in verdict.ratios or not any(verdict.reached):
        return Cell(NOT_RUN)
    return Cell(
        ratio_text(verdict, unit).partition("x the ")[0]
        + "x"
        + interval_text(verdict.ratios[unit]),
        order=verdict.ratios[unit].value,
    )


def _reached(verdict: Verdict) -> Cell:
    if verdict.refused or math.isnan(verdict.value):
        return Cell(NOT_RUN)
    (mine, theirs), runs = verdict.reached, (len(verdict.a.runs), len(verdict.b.runs))
    return Cell(f"{mine}/{runs[0]}, {theirs}/{runs[1]}", order=mine / max(runs[0], 1))


def _sourced(text: str, verdict: Verdict) -> Cell:
    return Cell(text, source=(verdict.a.problem, verdict.a.label))


def _rank_cell(ranking: Ranking, name: str, top: Sequence[str]) -> Cell:
    if name not in ranking.ranks.index:
        return Cell(NOT_RUN)
    rank = float(ranking.ranks[name])
    text = (
        f"{rank:g} ({100 * float(ranking.stability[name]):.0f} %)"
        if len(ranking.scores) > 1
        else f"{rank:g}"
    )
    return Cell(text, name in top, rank, (ranking.problem, name))


def _at_the_top(ranking: Ranking) -> list[str]:
    """The first, and all that cannot be told from it.

    Who mostly fails where the first does not is not among them.
    """
    first, *others = (str(name) for name in ranking.ranks.index)
    fails = {name: not math.isfinite(float(ranking.medians[name])) for name in (first, *others)}
    tied = [
        name
        for name, verdict in zip(others, ranking.behind, strict=True)
        if verdict.outcome not in (BETTER, WORSE) and fails[name] == fails[first]
    ]
    return [first, *tied]


def _by(rankings: Sequence[Ranking]) -> dict[str, list[str]]:
    by: dict[str, list[str]] = {}
    for one in rankings:
        by.setdefault(UNITS.get(one.by, "the final value"), []).append(one.problem)
    return by


def _score(row: pd.Series) -> Cell:
    if math.isnan(row["score"]):
        return Cell(NOT_RUN)
    return Cell(
        f"{row['score']:.2f} [{row['score_low']:.2f}, {row['score_high']:.2f}]",
        order=float(row["score"]),
    )


def _percent(share: float) -> Cell:
    return Cell(f"{100 * share:.0f} %", order=share)


def _share(share: float) -> Cell:
    return Cell(NOT_RUN) if math.isnan(share) else Cell(f"{share:.2f}", order=share)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _runs(verdicts: Sequence[Verdict]) -> int:
    return len({run.index for one in verdicts for side in (one.a, one.b) for run in side.runs})
