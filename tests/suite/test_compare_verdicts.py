"""Verdicts on planted runs.

What is said where the truth is known, and every input of which too much could be made.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from suite.compare.explanations import reasons, shared_reasons
from suite.compare.sentences import final_text, sentence
from suite.compare.sides import CostTable
from suite.compare.verdict import BETTER, FINAL, SECONDS, WORK, WORSE
from suite.results.frame import build_records
from suite.results.timings import Timing, placed, speed_key
from tests.suite.verdict_cases import ADAMW, KFAC, Sown, built, verdict

UNKNOWN = "settings of its own, whose tuning is not recorded"


def test_the_planted_ratio_is_found_in_every_unit(two_sides: Any) -> None:
    result = verdict(two_sides())
    truth = math.exp(np.mean(np.log(KFAC) - np.log(ADAMW)))
    for unit, price in (("steps", 1.0), (WORK, 2.0), (SECONDS, 3.0)):
        ratio = result.ratios[unit]
        assert ratio.value == pytest.approx(truth * price)
        assert ratio.low < truth * price < ratio.high
    assert (result.outcome, result.decided_by, result.reached, result.memory) == (
        BETTER,
        SECONDS,
        (5, 5),
        2.3,
    )
    assert verdict(two_sides(), "adamw", "kfac").outcome == WORSE


def test_the_sentence_of_a_fixed_case(two_sides: Any) -> None:
    assert sentence(verdict(two_sides())) == (
        "mlp: kfac needs 0.30x the steps [0.27, 0.33], 0.91x the seconds [0.82, 0.99], 0.60x the "
        "gradient-equivalents [0.55, 0.66], 2.30x the memory; reaches the target in 5 of 5 seeds "
        "against 5 of 5; faster at 95 %."
    )


def test_the_reasons_of_a_fixed_case(two_sides: Any) -> None:
    records = two_sides()
    result = verdict(records)
    assert reasons(CostTable(records), result) == [
        "a step of kfac takes 3.00x the seconds of one of adamw (30 ms against 10 ms): it breaks "
        "even at 3.00 times fewer steps, and needs 3.31 times fewer",
        "target (error ≤ 0.5)",
        "P(kfac beats adamw) by seconds, over pairs of runs: 0.96",
    ]
    assert shared_reasons(records, [result]) == [
        "seconds: by the runs' own clock, one run at a time",
        f"tuning: kfac {UNKNOWN}, adamw {UNKNOWN}",
    ]
    assert (
        final_text(result) == "final error 0.2200 against 0.3260: lower by 0.1060 [0.1001, 0.1119]"
    )


def test_dearer_steps_can_undo_fewer_of_them(two_sides: Any) -> None:
    result = verdict(two_sides(a={"pace": 0.06}))
    assert result.ratios["steps"].high < 1 < result.ratios[SECONDS].low
    assert sentence(result).endswith("slower at 95 %.")


def test_a_noisy_pair_cannot_be_told(sown: Sown) -> None:
    records = built(
        *(sown("kfac", seed, cost) for seed, cost in enumerate((60, 300, 90))),
        *(sown("adamw", seed, cost) for seed, cost in enumerate((100, 90, 200))),
    )
    result = verdict(records)
    assert result.outcome == 0
    assert sentence(result).endswith("which is faster cannot be told at 95 %.")


def test_seconds_of_a_shared_machine_are_marked_and_do_not_decide(two_sides: Any) -> None:
    records = two_sides(parallel=True)
    result = verdict(records)
    assert (result.decided_by, result.outcome) == (WORK, BETTER)
    assert ", ~0.91x the seconds [" in sentence(result)
    assert sentence(result).endswith("cheaper in gradient-equivalents at 95 %.")
    (line, _) = shared_reasons(records, [result])
    assert line == (
        "seconds: marked ~, as their runs shared the machine; they do not decide. To measure: "
        "python -m suite.time optimizer=kfac,adamw task=mlp scale=quick"
    )
    assert "takes ~3.00x the seconds" in reasons(CostTable(records), result)[0]


def test_a_step_timed_alone_makes_seconds_of_shared_runs_decide(two_sides: Any) -> None:
    records = two_sides(parallel=True)
    timings = []
    for pace, label in ((0.01, "kfac"), (0.01, "adamw")):
        run = records.runs[int(records.pair("mlp", label).index[0])]
        key = speed_key(run.config)
        timings.append(
            Timing(key, "mlp", label, str(records.frame["hardware"].iloc[0]), pace, (pace,))
        )
    timed = build_records(list(records.runs.values()), [], placed(timings))
    result = verdict(timed)
    assert (result.decided_by, result.outcome) == (SECONDS, BETTER)
    assert result.ratios[SECONDS].value == pytest.approx(result.ratios["steps"].value)
    assert (
        shared_reasons(timed, [result])[0]
        == "seconds: steps times those of a step measured alone (suite.time)"
    )
    assert (
        "takes 1.00x the seconds of one of adamw (10 ms against 10 ms)"
        in reasons(CostTable(timed), result)[0]
    )


def test_machines_are_not_mixed_unless_asked_for(two_sides: Any) -> None:
    records = two_sides(a={"environment": (("cpu", "Other CPU"),)})
    result = verdict(records)
    assert SECONDS not in result.ratios
    assert result.decided_by == WORK
    (line, _) = shared_reasons(records, [result])
    assert line == (
        "seconds: not compared, as they come from cpu, Other CPU, 1 thread and cpu, Some CPU, 1 "
        "thread (--mixed-devices compares them all the same)"
    )
    assert not any("breaks even" in reason for reason in reasons(CostTable(records), result))
    mixed = verdict(records, mixed=True)
    assert mixed.decided_by == SECONDS
    assert shared_reasons(records, [mixed])[0].startswith("seconds: measured on cpu, Other CPU")


def test_one_seed_has_no_interval(sown: Sown) -> None:
    records = built(sown("kfac", 0, 60), sown("adamw", 0, 200))
    result = verdict(records)
    assert result.outcome is None
    assert sentence(result) == (
        "mlp: kfac needs 0.30x the steps, 0.30x the seconds, 0.30x the gradient-equivalents, 1.00x "
        "the memory; reaches the target in 1 of 1 seed against 1 of 1; 1 seed: no interval."
    )


def test_failures_are_infinite_and_said(two_sides: Any, sown: Sown) -> None:
    broken = [sown("adamw", seed, None, status="diverged", cut=7) for seed in (5, 6)]
    fine = [sown("kfac", seed, 60 + seed, work=2.0, pace=0.03) for seed in (5, 6)]
    records = build_records([*two_sides().runs.values(), *(one.run for one in broken + fine)], [])
    result = verdict(records)
    assert result.reached == (7, 5)
    assert "needs at most " in sentence(result)
    assert "in 7 of 7 seeds against 5 of 7" in sentence(result)
    lines = reasons(CostTable(records), result)
    assert "outcomes: adamw diverged 2/7" in lines
    assert (
        "2 runs of adamw never reached the level: they count with all they could have spent"
        in lines
    )
    assert result.final is not None
    # error of kfac less that of adamw: as low as that or lower
    assert result.final.bound == "at most "


def test_nobody_at_the_target_leaves_the_final_value(sown: Sown) -> None:
    records = built(
        *(sown("kfac", seed, None, final=1.0 + 0.01 * seed) for seed in range(3)),
        *(sown("adamw", seed, None, final=1.2 + 0.013 * seed) for seed in range(3)),
    )
    result = verdict(records)
    assert (result.decided_by, result.outcome, result.ratios) == (FINAL, BETTER, {})
    assert sentence(result) == (
        "mlp: neither kfac nor adamw reaches the target (error ≤ 0.5) in any of 3 and 3 runs; "
        "final error 1.010 against 1.213: lower by 0.2030 [0.1955, 0.2105] (this decides); better "
        "at 95 %."
    )


def test_without_a_target_the_final_value_decides_and_that_is_said(two_sides: Any) -> None:
    records = two_sides(config=(("target", None),))
    result = verdict(records)
    assert result.decided_by == FINAL
    assert sentence(result) == (
        "mlp: kfac needs 2.30x the memory; final error 0.2200 against 0.3260: lower by 0.1060 "
        "[0.1001, 0.1119] (no target is set: this decides); better at 95 %."
    )


def test_a_larger_metric_is_better_where_the_task_says_so(sown: Sown) -> None:
    more = (("direction", "max"), ("target", None))
    records = built(
        *(sown("kfac", seed, None, final=0.9 + 0.01 * seed, config=more) for seed in range(3)),
        *(sown("adamw", seed, None, final=0.8 + 0.015 * seed, config=more) for seed in range(3)),
    )
    result = verdict(records)
    assert result.outcome == BETTER
    assert "higher by 0.09500 [" in sentence(result)


def test_values_that_fall_by_decades_are_compared_by_their_ratio(sown: Sown) -> None:
    free = (("target", None),)
    records = built(
        *(sown("kfac", seed, None, final=(1 + seed) * 1e-9, config=free) for seed in range(3)),
        *(sown("adamw", seed, None, final=(2 + seed) * 1e-5, config=free) for seed in range(3)),
    )
    result = verdict(records)
    assert result.final is not None
    assert result.final.value == pytest.approx(1e-4 * (1 / 2 * 2 / 3 * 3 / 4) ** (1 / 3))
    assert result.outcome == BETTER
    assert "final error 2.000e-09 against 3.000e-05: 6.3e-05x [" in sentence(result)


def test_a_level_may_be_named(sown: Sown) -> None:
    levels = (("levels", {50: 1.0, 100: 0.5}), ("target", None))
    records = built(
        *(sown("kfac", seed, 60 + seed, config=levels) for seed in range(3)),
        *(sown("adamw", seed, 160 + 3 * seed, config=levels) for seed in range(3)),
    )
    assert verdict(records).level == "100 %"
    result = verdict(records, level="50 %")
    assert result.value == 1.0
    assert "reaches the 50 % level in 3 of 3 seeds" in sentence(result)
