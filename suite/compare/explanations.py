"""The reasons behind a verdict, a line each.

Reasons are the cost of a step, failed runs, the effort of tuning and the clock.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path

import pandas as pd

from suite import stats
from suite.compare.final_values import finals
from suite.compare.intervals import AT_LEAST, AT_MOST
from suite.compare.selection import differing
from suite.compare.sentences import UNITS, factor, level_text
from suite.compare.sides import CostTable, Side
from suite.compare.tuning_effort import FOLDER, tuning, tuning_text
from suite.compare.verdict import BETTER, FINAL, SECONDS, WORSE, Verdict
from suite.results import time_to_target
from suite.results.aggregate import is_illustration
from suite.results.frame import Records, step_times
from suite.results.labels import Settings
from suite.results.outcomes import failure_words

OTHER_SIDE = {AT_MOST: AT_LEAST, AT_LEAST: AT_MOST}
OUTCOMES = {
    BETTER: "better on",
    WORSE: "worse on",
    0: "cannot be told on",
    None: "no interval on",
}


def reasons(cost_table: CostTable, verdict: Verdict) -> list[str]:
    """What is said under one verdict alone."""
    records = cost_table.records
    lines = [
        step_line(records, verdict),
        *failure_lines(records, verdict),
        resolution_line(cost_table, verdict),
        chance_line(cost_table, verdict),
        _seeds_line(verdict),
        *(f"left out: {words}" for words in verdict.left_out),
        _across_line(
            records.problem_settings[verdict.a.problem], records.problem_settings[verdict.b.problem]
        ),
    ]
    return [] if verdict.refused else [line for line in lines if line]


def shared_reasons(
    records: Records, verdicts: Sequence[Verdict], folders: Sequence[Path] = (FOLDER,)
) -> list[str]:
    """What is true of several verdicts, said once.

    Whose clock the seconds come from, and how much was tuned.
    """
    decided = [verdict for verdict in verdicts if not verdict.refused]
    lines: dict[str, list[Verdict]] = {}
    for verdict in decided:
        names = (verdict.a.label, verdict.b.label)
        budgets = tuning(records, verdict.a, folders), tuning(records, verdict.b, folders)
        for line in (seconds_line(verdict), tuning_text(*budgets, names)):
            lines.setdefault(line, []).append(verdict)
    ordered = sorted(
        (line for line in lines if line), key=lambda line: line.partition(":")[0] != "seconds"
    )
    return [
        _with_problems(line, lines[line], alone=len(lines[line]) == len(decided))
        for line in ordered
    ]


def step_line(records: Records, verdict: Verdict) -> str:
    """What a step costs on both sides, and where they break even."""
    (first, shared), (second, also) = (_step(side.frame(records)) for side in _sides(verdict))
    if not (first > 0 and second > 0) or _machines(verdict) > 1:
        return ""
    mark = "~" if shared or also else ""
    ratio = first / second
    even = f"{factor(ratio)} times fewer" if ratio >= 1 else f"{factor(1 / ratio)} times as many"
    text = (
        f"a step of {verdict.a.label} takes {mark}{factor(ratio)}x the seconds of one of "
        f"{verdict.b.label} ({mark}{1e3 * first:.3g} ms against {mark}{1e3 * second:.3g} ms): it "
        f"breaks even at {even} steps"
    )
    steps = verdict.ratios.get("steps")
    if steps is None:
        return text
    needs = (
        f"{factor(1 / steps.value)} times fewer"
        if steps.value <= 1
        else f"{factor(steps.value)} times as many"
    )
    bound = OTHER_SIDE.get(steps.bound, steps.bound) if steps.value <= 1 else steps.bound
    return f"{text}, and needs {bound}{needs}"


def seconds_line(verdict: Verdict) -> str:
    """Which clock the seconds come from, and what to type where they may not decide.

    {} stands for the tasks.
    """
    if not verdict.ratios:
        return ""
    if _machines(verdict) > 1:
        machines = " and ".join(
            sorted({run.hardware for side in _sides(verdict) for run in side.runs})
        )
        if SECONDS in verdict.ratios:
            return f"seconds: measured on {machines}"
        return (
            f"seconds: not compared, as they come from {machines} (--mixed-devices compares them "
            "all the same)"
        )
    if time_to_target.SHARED in verdict.sources:
        names = ",".join(dict.fromkeys(side.name for side in _sides(verdict)))
        command = f"python -m suite.time optimizer={names} task={{}}{_scale(verdict)}"
        return (
            "seconds: marked ~, as their runs shared the machine; they do not decide. To measure: "
            f"{command}"
        )
    words = {
        time_to_target.OWN: "by the runs' own clock, one run at a time",
        time_to_target.ISOLATED: "steps times those of a step measured alone (suite.time)",
    }
    return f"seconds: {', and '.join(words[source] for source in verdict.sources)}"


def failure_lines(records: Records, verdict: Verdict) -> list[str]:
    """How runs ended that did not simply finish, and what a missed level does to the figures."""
    outcomes = [
        (side.label, failure_words(side.frame(records), "status")) for side in _sides(verdict)
    ]
    parts = [f"{label} {words}" for label, words in outcomes if words]
    lines = [f"outcomes: {', '.join(parts)}"] if parts else []
    missed = [
        (len(side.runs) - many, side.label)
        for many, side in zip(verdict.reached, _sides(verdict), strict=True)
        if many < len(side.runs)
    ]
    return [*lines, _missed_line(missed)] if verdict.ratios and missed else lines


def _missed_line(missed: Sequence[tuple[int, str]]) -> str:
    """How the runs that missed the level are counted, from their number by method."""
    runs = [f"{many} run{'s' if many > 1 else ''} of {label}" for many, label in missed]
    single = sum(many for many, _ in missed) == 1
    counts = "it counts with all that it" if single else "they count with all they"
    return f"{' and '.join(runs)} never reached the level: {counts} could have spent"


def resolution_line(cost_table: CostTable, verdict: Verdict) -> str:
    """What the level is, and to how many steps the costs are known."""
    if not verdict.ratios:
        return ""
    costs = [one for side in _sides(verdict) for one in cost_table.costs(side, verdict.value)]
    widest = max(one["steps"] - one["steps_before"] for one in costs if math.isfinite(one["steps"]))
    known = (
        f"; costs are known to {widest:g} steps, and the intervals allow for it"
        if widest > 1
        else ""
    )
    return f"{level_text(verdict)}{known}"


def chance_line(cost_table: CostTable, verdict: Verdict) -> str:
    """P(A beats B): of a run of A and a run of B, how often A's is the better."""
    if verdict.seeds < 2 or verdict.same:
        return ""
    first, second = chances(cost_table, verdict)
    chance = stats.probability_of_improvement(first, second, "min")
    by = f"final {verdict.metric}" if verdict.decided_by == FINAL else UNITS[verdict.decided_by]
    return f"P({verdict.a.label} beats {verdict.b.label}) by {by}, over pairs of runs: {chance:.2f}"


def chances(cost_table: CostTable, verdict: Verdict) -> tuple[list[float], list[float]]:
    """What is compared, run by run, smaller being better and failures infinite."""
    return _compared(cost_table, verdict, verdict.a), _compared(cost_table, verdict, verdict.b)


def summary_lines(cost_table: CostTable, verdicts: Sequence[Verdict]) -> list[str]:
    """The outcomes of several verdicts counted, and P(A beats B) over all of them, in one line.

    Test functions are left out; where problems have different labels for a method, they are counted
    all the same.
    """
    decided = [one for one in verdicts if not one.refused]
    counted = [one for one in decided if not is_illustration(cost_table.records, one.a.problem)]
    if not counted:
        return []
    first, second = counted[0].a.name, counted[0].b.name
    functions = len(decided) - len(counted)
    apart = f" (test functions left out: {functions})" if functions else ""
    plural = "s" if len(counted) > 1 else ""
    chance = chance_text([chances(cost_table, one) for one in counted])
    return [
        f"Over {len(counted)} problem{plural}{apart}: {first} {_counts(counted)}; P({first} beats "
        f"{second}) {chance}."
    ]


def _counts(verdicts: Sequence[Verdict]) -> str:
    """`better on 2, worse on 0, cannot be told on 5`."""
    outcomes = [one.outcome for one in verdicts]
    return ", ".join(
        f"{words} {outcomes.count(outcome)}"
        for outcome, words in OUTCOMES.items()
        if outcome is not None or None in outcomes
    )


def chance_text(pairs: Sequence[Sequence[Sequence[float]]]) -> str:
    """The mean over problems of P(A beats B), with its bootstrap interval over runs.

    No interval where a method has a single run on some problem.
    """
    first: dict[Hashable, Sequence[float]] = {number: a for number, (a, _) in enumerate(pairs)}
    second: dict[Hashable, Sequence[float]] = {number: b for number, (_, b) in enumerate(pairs)}
    chance = stats.mean_improvement(first, second, "min")
    if min(len(values) for pair in pairs for values in pair) < 2:
        return f"{chance.probability:.2f}"
    return f"{chance.probability:.2f} [{chance.low:.2f}, {chance.high:.2f}]"


def _compared(cost_table: CostTable, verdict: Verdict, side: Side) -> list[float]:
    if verdict.decided_by != FINAL:
        return [float(one[verdict.decided_by]) for one in cost_table.costs(side, verdict.value)]
    sign = -1.0 if verdict.direction == "max" else 1.0
    return [math.inf if math.isnan(value) else sign * float(value) for value in finals(side)]


def _with_problems(line: str, verdicts: Sequence[Verdict], *, alone: bool) -> str:
    """The line with its tasks, and where it is not true of all, with the problems it is true of."""
    tasks = ",".join(dict.fromkeys(verdict.a.task for verdict in verdicts))
    text = line.format(tasks) if "task={}" in line else line
    return text if alone else f"{text} ({', '.join(verdict.problem for verdict in verdicts)})"


def _step(runs: pd.DataFrame) -> tuple[float, bool]:
    """Seconds of a step, and whether the machine was shared while they were measured."""
    alone = runs["exclusive_seconds_per_step"].dropna()
    values, shared = step_times(runs)
    if shared and len(alone):
        return float(alone.median()), False
    return (stats.mean_std(values)[0], shared) if values else (math.nan, shared)


def _machines(verdict: Verdict) -> int:
    return len({run.hardware for side in _sides(verdict) for run in side.runs})


def _sides(verdict: Verdict) -> tuple[Side, Side]:
    return verdict.a, verdict.b


def _scale(verdict: Verdict) -> str:
    return f" scale={verdict.a.scale}" if verdict.a.scale else ""


def _seeds_line(verdict: Verdict) -> str:
    if verdict.paired:
        return ""
    runs = f"{len(verdict.a.runs)} and {len(verdict.b.runs)} runs"
    return f"the seeds differ ({runs}), so nothing is paired"


def _across_line(one: Settings, other: Settings) -> str:
    settings = [
        f"{key}={one.get(key, 'unset')} against {other.get(key, 'unset')}"
        for key in differing(one, other)
    ]
    return f"not the same problem: {', '.join(settings)}" if settings else ""
