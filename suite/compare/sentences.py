"""A verdict in words: a sentence of the costs with intervals, and one of the final values."""

from __future__ import annotations

import math

from suite.compare.intervals import AT_LEAST, BOUNDED, EXACT, LEVEL, Interval
from suite.compare.verdict import BETTER, FINAL, SECONDS, WORK, WORSE, Verdict
from suite.results.levels import TARGET
from suite.tables.formats import number

UNITS = {"steps": "steps", SECONDS: "seconds", WORK: "gradient-equivalents"}
AT = f"at {100 * LEVEL:g} %"
RESULT = {
    SECONDS: {
        BETTER: f"faster {AT}",
        WORSE: f"slower {AT}",
        0: f"which is faster cannot be told {AT}",
    },
    WORK: {
        BETTER: f"cheaper in gradient-equivalents {AT}",
        WORSE: f"more expensive in gradient-equivalents {AT}",
        0: f"which is cheaper in gradient-equivalents cannot be told {AT}",
    },
    FINAL: {
        BETTER: f"better {AT}",
        WORSE: f"worse {AT}",
        0: f"which is better cannot be told {AT}",
    },
}
SIGNS = {"max": "≥", "min": "≤"}


def sentence(verdict: Verdict) -> str:
    """The verdict on one problem, in one line."""
    if verdict.refused:
        return f"{verdict.problem}: no verdict: {verdict.refused}."
    parts = [costs_text(verdict), f"{final_text(verdict)}{_weight(verdict)}", result(verdict)]
    if verdict.decided_by != FINAL:
        parts = [parts[0], parts[2]]
    return f"{verdict.problem}: {'; '.join(part for part in parts if part)}."


def costs_text(verdict: Verdict) -> str:
    """`kfac needs 0.38x the steps [0.31, 0.45], ...; reaches the target in 5 of 5 seeds`."""
    if math.isnan(verdict.value):
        return (
            f"{verdict.a.label} needs {factor(verdict.memory)}x the memory"
            if verdict.memory > 0
            else ""
        )
    if not any(verdict.reached):
        runs = f"{len(verdict.a.runs)} and {len(verdict.b.runs)} runs"
        methods = f"neither {verdict.a.label} nor {verdict.b.label}"
        return f"{methods} reaches the {level_text(verdict)} in any of {runs}"
    needs = [ratio_text(verdict, unit) for unit in verdict.ratios]
    needs += [f"{factor(verdict.memory)}x the memory"] if verdict.memory > 0 else []
    reached = [
        f"{many} of {len(side.runs)}"
        for many, side in zip(verdict.reached, (verdict.a, verdict.b), strict=True)
    ]
    seeds = "seed" if len(verdict.a.runs) == 1 else "seeds"
    says = f"reaches the {_short(verdict)} in {reached[0]} {seeds} against {reached[1]}"
    return (
        f"{verdict.a.label} needs {', '.join(needs)}; {says}"
        if needs
        else f"{verdict.a.label} {says}"
    )


def final_text(verdict: Verdict) -> str:
    """`final accuracy 0.91 against 0.88: higher by 0.03 [0.01, 0.05]`.

    By their ratio where they span decades.
    """
    values = [number(value) if math.isfinite(value) else "none" for value in verdict.finals]
    text = f"final {verdict.metric} {values[0]} against {values[1]}"
    final = verdict.final
    if final is None:
        return text
    if final.value == final.low == final.high == 0.0 and not verdict.by_ratio:
        return f"{text}: no difference"
    if verdict.by_ratio:
        return f"{text}: {final.bound}{factor(final.value)}x{interval_text(final)}"
    return f"{text}: {_difference_text(final)}"


def _difference_text(final: Interval) -> str:
    """`higher by 0.03 [0.01, 0.05]`."""
    sign = -1 if final.value < 0 else 1
    bound = final.bound if final.bound in (EXACT, BOUNDED) else AT_LEAST
    ends = sorted((sign * final.low, sign * final.high)) if final.known else []
    interval = f" [{', '.join(map(_value, ends))}]" if ends else ""
    direction = "lower" if sign < 0 else "higher"
    return f"{direction} by {bound}{number(abs(final.value))}{interval}"


def result(verdict: Verdict) -> str:
    """The last words: `faster at 95 %`, or why nothing can be said."""
    if verdict.outcome is not None:
        return RESULT[verdict.decided_by][verdict.outcome]
    return no_interval(verdict)


def final_result(verdict: Verdict) -> str:
    """The same for the final value where something else decides."""
    outcome = verdict.final_outcome
    return RESULT[FINAL][outcome] if outcome is not None and not verdict.same else ""


def no_interval(verdict: Verdict) -> str:
    """Why there is no interval and so no verdict."""
    if verdict.same:
        return f"all {verdict.seeds} seeds are the same run: no interval"
    if verdict.seeds < 2:
        return "1 seed: no interval"
    if verdict.final is None:
        return "neither has a final value in any run"
    failed = bool(
        verdict.final.bound
        if verdict.decided_by == FINAL
        else verdict.ratios[verdict.decided_by].bound
    )
    reason = "some of which failed" if failed else "with one and the same difference"
    return f"{verdict.seeds} seeds, {reason}: no interval"


def ratio_text(verdict: Verdict, unit: str) -> str:
    """`0.38x the steps [0.31, 0.45]`; a ~ marks seconds that may not decide."""
    mark = "~" if unit == SECONDS and not verdict.trusted else ""
    ratio = verdict.ratios[unit]
    return f"{ratio.bound}{mark}{factor(ratio.value)}x the {UNITS[unit]}{interval_text(ratio)}"


def interval_text(interval: Interval) -> str:
    """` [0.31, 0.45]`, or nothing."""
    return f" [{factor(interval.low)}, {factor(interval.high)}]" if interval.known else ""


def factor(value: float) -> str:
    """A ratio with two decimals, or three digits where these are more.

    What is not 1 is never shown as 1.00.
    """
    if not math.isfinite(value):
        return "∞" if value > 0 else "?"
    if value >= 1e4:
        return f"{value:.1e}"
    if value == 0 or value >= 100:
        return f"{value:.0f}"
    if value < 0.01:
        return f"{value:.1e}" if value < 1e-3 else f"{value:.4f}"
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    """As many decimals as keep a ratio apart from 0 and 1, four at most."""
    decimals = 1 if value >= 10 else 2
    while decimals < 4 and float(f"{value:.{decimals}f}") in (0.0, 1.0) and value != 1:
        decimals += 1
    return decimals


def level_text(verdict: Verdict) -> str:
    """`target (squared_error ≤ 1.744)`, or `80 % level (...)`."""
    return f"{_short(verdict)} ({verdict.metric} {SIGNS[verdict.direction]} {verdict.value:.4g})"


def _short(verdict: Verdict) -> str:
    return TARGET if verdict.level == TARGET else f"{verdict.level} level"


def _weight(verdict: Verdict) -> str:
    """Why the final value decides."""
    return " (no target is set: this decides)" if math.isnan(verdict.value) else " (this decides)"


def _value(value: float) -> str:
    return number(value) if math.isfinite(value) else "∞" if value > 0 else "-∞"
