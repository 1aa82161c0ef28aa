"""Several verdicts on one pair of methods, in one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from suite import stats
from suite.compare.explanations import chances
from suite.compare.intervals import LEVEL
from suite.compare.sides import CostTable
from suite.compare.verdict import BETTER, WORSE, Verdict
from suite.results.aggregate import is_illustration

DRAWS = 2000


def summary_lines(ledger: CostTable, verdicts: Sequence[Verdict]) -> list[str]:
    """`Over 7 problems: kfac better on 2, worse on 0, cannot be told on 5; P(kfac beats adamw) 0.78 [0.70, 0.86].`

    Test functions are left out; where problems have different labels for a method, they are counted
    all the same.
    """
    judged = [one for one in verdicts if not one.refused]
    counted = [one for one in judged if not is_illustration(ledger.records, one.a.problem)]
    if not counted:
        return []
    names = counted[0].a.name, counted[0].b.name
    outcomes = [one.outcome for one in counted]
    told = [
        (BETTER, "better on"),
        (WORSE, "worse on"),
        (0, "cannot be told on"),
        (None, "no interval on"),
    ]
    said = ", ".join(
        f"{words} {outcomes.count(word)}"
        for word, words in told
        if word is not None or None in outcomes
    )
    apart = (
        f" (test functions left out: {len(judged) - len(counted)})"
        if len(counted) < len(judged)
        else ""
    )
    plural = "s" if len(counted) > 1 else ""
    chance = chance_text([chances(ledger, one) for one in counted])
    return [
        f"Over {len(counted)} problem{plural}{apart}: {names[0]} {said}; P({names[0]} beats "
        f"{names[1]}) {chance}."
    ]


def chance_text(pairs: Sequence[Sequence[Sequence[float]]], seed: int = 0) -> str:
    """The mean over problems of P(A beats B), with a bootstrap interval over the runs of each problem."""
    mean = float(np.mean([stats.probability_of_improvement(a, b, "min") for a, b in pairs]))
    if min(len(values) for pair in pairs for values in pair) < 2:
        return f"{mean:.2f}"
    generator = np.random.default_rng(seed)
    drawn = np.mean([_drawn(np.asarray(a), np.asarray(b), generator) for a, b in pairs], axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _drawn(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """P(A beats B) in every resample of both samples."""
    first, second = (one[generator.integers(one.size, size=(DRAWS, one.size))] for one in (a, b))
    wins = (first[:, :, None] < second[:, None, :]) + 0.5 * (
        first[:, :, None] == second[:, None, :]
    )
    return np.asarray(wins.mean(axis=(1, 2)))
