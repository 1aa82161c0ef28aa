"""Verdicts where runs fail, are unfinished, or cannot be told apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from suite.compare.explanations import reasons, shared_reasons
from suite.compare.sentences import factor, sentence
from suite.compare.sides import CostTable, sides
from suite.compare.verdict import BETTER, FINAL, judge
from suite.results.frame import build_records
from tests.suite.verdict_cases import Sown, built, verdict


def test_a_method_that_does_not_fit_has_no_verdict(sown: Sown) -> None:
    refused = (("message", "kfac needs layers; tasks that fit: cnn, resnet"),)
    records = built(
        sown("kfac", 0, None, status="unsupported", cut=0, summary=refused),
        *(sown("adamw", s) for s in (0, 1)),
    )
    result = verdict(records)
    assert sentence(result) == "mlp: no verdict: kfac does not fit this task: kfac needs layers."
    assert reasons(CostTable(records), result) == shared_reasons(records, [result]) == []


def test_an_unfinished_run_is_left_out_and_named(two_sides: Any, sown: Sown) -> None:
    stopped = sown("kfac", 5, None, status="unfinished", cut=30)
    records = build_records(
        [*two_sides().runs.values(), stopped.run, sown("adamw", 5, 200).run], []
    )
    result = verdict(records)
    assert result.reached == (5, 5)
    lines = reasons(CostTable(records), result)
    assert (
        "left out: kfac, seed 5: unfinished; finish it with: "
        "python -m suite optimizer=kfac task=mlp seed=5 scale=quick" in lines
    )
    assert "left out: adamw, seed 5: kfac has no run of it" in lines


def test_nothing_but_unfinished_runs_is_no_verdict(sown: Sown) -> None:
    records = built(
        sown("kfac", 0, None, status="unfinished", cut=30), sown("adamw", 0), sown("adamw", 1)
    )
    assert sentence(verdict(records)) == "mlp: no verdict: no finished run of kfac."


def test_seeds_that_only_one_side_has_are_left_out_and_named(two_sides: Any, sown: Sown) -> None:
    records = build_records([*two_sides().runs.values(), sown("adamw", 9, 400).run], [])
    result = verdict(records)
    assert result.paired
    assert result.reached == (5, 5)
    assert "left out: adamw, seed 9: kfac has no run of it" in reasons(CostTable(records), result)


def test_other_seeds_on_both_sides_are_compared_without_pairs(sown: Sown) -> None:
    records = built(
        *(sown("kfac", seed, 60 + seed) for seed in range(3)),
        *(sown("adamw", seed, 200 + seed) for seed in (7, 8)),
    )
    result = verdict(records)
    assert not result.paired
    assert "the seeds differ (3 and 2 runs), so nothing is paired" in reasons(
        CostTable(records), result
    )
    assert result.outcome == BETTER


def test_ties_are_no_difference(sown: Sown) -> None:
    records = built(
        *(sown(name, seed, 60 + seed, final=0.3) for name in ("kfac", "adamw") for seed in range(3))
    )
    result = verdict(records)
    assert result.ratios["steps"].value == pytest.approx(1.0)
    assert result.outcome == 0


def test_seeds_that_change_nothing_are_one_run(sown: Sown) -> None:
    start = {"final": 0.3}
    runs = [
        sown(name, seed, cost, **start).run
        for name, cost in (("kfac", 60), ("adamw", 200))
        for seed in range(3)
    ]
    for run in runs:  # the same curve for every seed, down to the start
        run.history.loc[0, "val/error"] = 2.0
    result = verdict(build_records(runs, []))
    assert result.outcome is None
    assert sentence(result).endswith("all 3 seeds are the same run: no interval.")


def test_neither_nan_nor_infinity_is_a_value(sown: Sown) -> None:
    """kfac ends at NaN, adamw at infinity: both failed, and nothing is claimed of either."""
    free = (("target", None),)
    records = built(
        *(
            sown("kfac", seed, None, config=free, summary=(("final_error", math.nan),))
            for seed in range(3)
        ),
        *(
            sown("adamw", seed, None, config=free, summary=(("final_error", math.inf),))
            for seed in range(3)
        ),
    )
    result = verdict(records)
    assert result.final is None
    assert result.outcome is None
    assert sentence(result).endswith(
        "final error none against none (no target is set: this decides); neither has a final value "
        "in any run."
    )


def test_a_failure_is_no_better_than_the_start(sown: Sown) -> None:
    free = (("target", None),)
    records = built(
        *(sown("kfac", seed, None, final=0.30 + 0.01 * seed, config=free) for seed in range(4)),
        *(sown("adamw", seed, None, status="diverged", cut=9, config=free) for seed in range(4)),
    )
    result = verdict(records)
    assert result.final is not None
    assert result.final.value == pytest.approx(
        np.mean([0.30 + 0.01 * s - (2.0 + 0.001 * 3) for s in range(4)])
    )
    assert result.final.low == -math.inf
    assert result.outcome == BETTER
    assert "none: lower by at least 1.688 [1.667, ∞]" in sentence(result)


def test_a_failure_among_two_seeds_is_no_verdict(sown: Sown) -> None:
    records = built(
        sown("kfac", 0, 60),
        sown("kfac", 1, 62),
        sown("adamw", 0, 200),
        sown("adamw", 1, None, status="diverged", cut=9),
    )
    result = verdict(records)
    assert result.outcome is None
    assert sentence(result).endswith("2 seeds, some of which failed: no interval.")


def test_a_target_that_holds_at_the_start_costs_nothing(sown: Sown) -> None:
    easy = (("target", 5.0),)
    pairs = [(name, seed) for name in ("kfac", "adamw") for seed in (0, 1)]
    result = verdict(
        built(*(sown(name, seed, 60, final=0.3 + 0.01 * seed, config=easy) for name, seed in pairs))
    )
    assert result.ratios == {}
    assert (result.decided_by, result.reached, result.outcome) == (FINAL, (2, 2), 0)
    assert (
        "in 2 of 2 seeds against 2 of 2; final error 0.3050 against 0.3050: no difference (this"
        in sentence(result)
    )


def test_one_difference_for_all_seeds_has_no_interval(sown: Sown) -> None:
    free = (("target", None),)
    pairs = [
        (name, start, seed) for name, start in (("kfac", 0.25), ("adamw", 0.5)) for seed in range(3)
    ]
    result = verdict(
        built(*(sown(name, seed, None, final=start, config=free) for name, start, seed in pairs))
    )
    assert result.outcome is None
    assert sentence(result).endswith("3 seeds, with one and the same difference: no interval.")


@pytest.mark.slow
def test_equal_methods_are_told_apart_at_about_the_nominal_rate(sown: Sown) -> None:
    """200 pairs with costs from one distribution, through the whole of it.

    About 5 % are told apart.
    """
    generator, decided, total = np.random.default_rng(7), 0, 200
    runs = []
    for number in range(total):
        for name in ("kfac", "adamw"):
            for seed in range(5):
                cost = float(150 * math.exp(0.3 * generator.normal()))
                runs.append(sown(name, seed, cost, task=f"mlp{number:03}", every=4, steps=400).run)
    records = build_records(runs, [])
    cost_table = CostTable(records)
    for problem in records.problems:
        pair = sides(records, problem)
        decided += judge(cost_table, pair["kfac"], pair["adamw"]).outcome != 0
    assert 0.01 <= decided / total <= 0.10


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.384, "0.38"),
        (1.0, "1.00"),
        (0.998, "0.998"),
        (1.0004, "1.0004"),
        (12.34, "12.3"),
        (150.4, "150"),
        (0.0042, "0.0042"),
        (2e-7, "2.0e-07"),
        (0.0, "0"),
        (math.inf, "∞"),
        (math.nan, "?"),
        (3e7, "3.0e+07"),
        (0.99999, "1.0000"),
    ],
)
def test_a_factor_in_words(value: float, text: str) -> None:
    assert factor(value) == text
