"""Verdicts on planted runs.

What is said where the truth is known, and every input of which too much could be made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from suite.compare.explanations import reasons, shared_reasons
from suite.compare.sentences import factor, final_text, sentence
from suite.compare.sides import CostTable, sides
from suite.compare.verdict import BETTER, FINAL, SECONDS, WORK, WORSE, Verdict, judge
from suite.results.frame import Records, build_records
from suite.results.timings import Timing, placed, speed_key

UNKNOWN = "settings of its own, whose tuning is not recorded"
KFAC, ADAMW = (60, 66, 63, 58, 61), (200, 210, 190, 205, 215)
Sown = Callable[..., Any]


def verdict(records: Records, a: str = "kfac", b: str = "adamw", **options: Any) -> Verdict:
    (problem,) = records.problems
    there = sides(records, problem)
    return judge(CostTable(records), there[a], there[b], **options)


def built(*planted: Any, timings: Any = None) -> Records:
    return build_records([one.run for one in planted], [], timings)


@pytest.fixture
def both(sown: Sown) -> Callable[..., Records]:
    """Five seeds of kfac and adamw with known costs; `a` and `b` change one side's runs."""

    def make(a: Any = None, b: Any = None, **common: Any) -> Records:
        mine = {"work": 2.0, "pace": 0.03, "memory": 2300, **common, **(a or {})}
        theirs = {"memory": 1000, **common, **(b or {})}
        return built(
            *(
                sown("kfac", seed, cost, final=0.2 + 0.01 * seed, **mine)
                for seed, cost in enumerate(KFAC)
            ),
            *(
                sown("adamw", seed, cost, final=0.3 + 0.013 * seed, **theirs)
                for seed, cost in enumerate(ADAMW)
            ),
        )

    return make


def test_the_planted_ratio_is_found_in_every_unit(both: Any) -> None:
    found = verdict(both())
    truth = math.exp(np.mean(np.log(KFAC) - np.log(ADAMW)))
    for unit, price in (("steps", 1.0), (WORK, 2.0), (SECONDS, 3.0)):
        ratio = found.ratios[unit]
        assert ratio.value == pytest.approx(truth * price)
        assert ratio.low < truth * price < ratio.high
    assert (found.outcome, found.decided_by, found.reached, found.memory) == (
        BETTER,
        SECONDS,
        (5, 5),
        2.3,
    )
    assert verdict(both(), "adamw", "kfac").outcome == WORSE


def test_the_sentence_of_a_fixed_case(both: Any) -> None:
    assert sentence(verdict(both())) == (
        "mlp: kfac needs 0.30x the steps [0.27, 0.33], 0.91x the seconds [0.82, 0.99], "
        "0.60x the gradient-equivalents [0.55, 0.66], 2.30x the memory; "
        "reaches the target in 5 of 5 seeds against 5 of 5; faster at 95 %."
    )


def test_the_reasons_of_a_fixed_case(both: Any) -> None:
    records = both()
    found = verdict(records)
    assert reasons(CostTable(records), found) == [
        "a step of kfac takes 3.00x the seconds of one of adamw (30 ms against 10 ms): it breaks "
        "even at 3.00 times "
        "fewer steps, and needs 3.31 times fewer",
        "target (error ≤ 0.5)",
        "P(kfac beats adamw) by seconds, over pairs of runs: 0.96",
    ]
    assert shared_reasons(records, [found]) == [
        "seconds: by the runs' own clock, one run at a time",
        f"tuning: kfac {UNKNOWN}, adamw {UNKNOWN}",
    ]
    assert (
        final_text(found) == "final error 0.2200 against 0.3260: lower by 0.1060 [0.1001, 0.1119]"
    )


def test_dearer_steps_can_undo_fewer_of_them(both: Any) -> None:
    found = verdict(both(a={"pace": 0.06}))
    assert found.ratios["steps"].high < 1 < found.ratios[SECONDS].low
    assert sentence(found).endswith("slower at 95 %.")


def test_a_noisy_pair_cannot_be_told(sown: Sown) -> None:
    records = built(
        *(sown("kfac", seed, cost) for seed, cost in enumerate((60, 300, 90))),
        *(sown("adamw", seed, cost) for seed, cost in enumerate((100, 90, 200))),
    )
    found = verdict(records)
    assert found.outcome == 0
    assert sentence(found).endswith("which is faster cannot be told at 95 %.")


def test_seconds_of_a_shared_machine_are_marked_and_do_not_decide(both: Any) -> None:
    records = both(parallel=True)
    found = verdict(records)
    assert (found.decided_by, found.outcome) == (WORK, BETTER)
    assert ", ~0.91x the seconds [" in sentence(found)
    assert sentence(found).endswith("cheaper in gradient-equivalents at 95 %.")
    (line, _) = shared_reasons(records, [found])
    assert line == (
        "seconds: marked ~, as their runs shared the machine; they do not decide. "
        "To measure: python -m suite.time optimizer=kfac,adamw task=mlp scale=quick"
    )
    assert "takes ~3.00x the seconds" in reasons(CostTable(records), found)[0]


def test_a_step_timed_alone_makes_seconds_of_shared_runs_decide(both: Any) -> None:
    records = both(parallel=True)
    timings = []
    for pace, label in ((0.01, "kfac"), (0.01, "adamw")):
        run = records.runs[int(records.pair("mlp", label).index[0])]
        key = speed_key(run.config)
        timings.append(
            Timing(key, "mlp", label, str(records.frame["hardware"].iloc[0]), pace, (pace,))
        )
    timed = build_records(list(records.runs.values()), [], placed(timings))
    found = verdict(timed)
    assert (found.decided_by, found.outcome) == (SECONDS, BETTER)
    assert found.ratios[SECONDS].value == pytest.approx(found.ratios["steps"].value)
    assert (
        shared_reasons(timed, [found])[0]
        == "seconds: steps times those of a step measured alone (suite.time)"
    )
    assert (
        "takes 1.00x the seconds of one of adamw (10 ms against 10 ms)"
        in reasons(CostTable(timed), found)[0]
    )


def test_machines_are_not_mixed_unless_asked_for(both: Any) -> None:
    records = both(a={"environment": (("cpu", "Other CPU"),)})
    found = verdict(records)
    assert SECONDS not in found.ratios
    assert found.decided_by == WORK
    (line, _) = shared_reasons(records, [found])
    assert line == (
        "seconds: not compared, as they come from cpu, Other CPU, 1 thread and cpu, Some CPU, 1 "
        "thread "
        "(--mixed-devices compares them all the same)"
    )
    assert not any("breaks even" in reason for reason in reasons(CostTable(records), found))
    mixed = verdict(records, mixed=True)
    assert mixed.decided_by == SECONDS
    assert shared_reasons(records, [mixed])[0].startswith("seconds: measured on cpu, Other CPU")


def test_one_seed_has_no_interval(sown: Sown) -> None:
    records = built(sown("kfac", 0, 60), sown("adamw", 0, 200))
    found = verdict(records)
    assert found.outcome is None
    assert sentence(found) == (
        "mlp: kfac needs 0.30x the steps, 0.30x the seconds, 0.30x the gradient-equivalents, 1.00x "
        "the memory; "
        "reaches the target in 1 of 1 seed against 1 of 1; 1 seed: no interval."
    )


def test_failures_are_infinite_and_said(both: Any, sown: Sown) -> None:
    broken = [sown("adamw", seed, None, status="diverged", cut=7) for seed in (5, 6)]
    fine = [sown("kfac", seed, 60 + seed, work=2.0, pace=0.03) for seed in (5, 6)]
    records = build_records([*both().runs.values(), *(one.run for one in broken + fine)], [])
    found = verdict(records)
    assert found.reached == (7, 5)
    assert "needs at most " in sentence(found)
    assert "in 7 of 7 seeds against 5 of 7" in sentence(found)
    said = reasons(CostTable(records), found)
    assert "outcomes: adamw diverged 2/7" in said
    assert (
        "2 runs of adamw never reached the level: they count with all they could have spent" in said
    )
    assert found.final is not None
    assert (
        found.final.bound == "at most "
    )  # error of kfac less that of adamw: as low as that or lower


def test_nobody_at_the_target_leaves_the_final_value(sown: Sown) -> None:
    records = built(
        *(sown("kfac", seed, None, final=1.0 + 0.01 * seed) for seed in range(3)),
        *(sown("adamw", seed, None, final=1.2 + 0.013 * seed) for seed in range(3)),
    )
    found = verdict(records)
    assert (found.decided_by, found.outcome, found.ratios) == (FINAL, BETTER, {})
    assert sentence(found) == (
        "mlp: neither kfac nor adamw reaches the target (error ≤ 0.5) in any of 3 and 3 runs; "
        "final error 1.010 against 1.213: lower by 0.2030 [0.1955, 0.2105] (this decides); better "
        "at 95 %."
    )


def test_without_a_target_the_final_value_decides_and_that_is_said(both: Any) -> None:
    records = both(config=(("target", None),))
    found = verdict(records)
    assert found.decided_by == FINAL
    assert sentence(found) == (
        "mlp: kfac needs 2.30x the memory; final error 0.2200 against 0.3260: lower by 0.1060 "
        "[0.1001, 0.1119] "
        "(no target is set: this decides); better at 95 %."
    )


def test_a_larger_metric_is_better_where_the_task_says_so(sown: Sown) -> None:
    more = (("direction", "max"), ("target", None))
    records = built(
        *(sown("kfac", seed, None, final=0.9 + 0.01 * seed, config=more) for seed in range(3)),
        *(sown("adamw", seed, None, final=0.8 + 0.015 * seed, config=more) for seed in range(3)),
    )
    found = verdict(records)
    assert found.outcome == BETTER
    assert "higher by 0.09500 [" in sentence(found)


def test_values_that_fall_by_decades_are_compared_by_their_ratio(sown: Sown) -> None:
    free = (("target", None),)
    records = built(
        *(sown("kfac", seed, None, final=(1 + seed) * 1e-9, config=free) for seed in range(3)),
        *(sown("adamw", seed, None, final=(2 + seed) * 1e-5, config=free) for seed in range(3)),
    )
    found = verdict(records)
    assert found.final is not None
    assert found.final.value == pytest.approx(1e-4 * (1 / 2 * 2 / 3 * 3 / 4) ** (1 / 3))
    assert found.outcome == BETTER
    assert "final error 2.000e-09 against 3.000e-05: 6.3e-05x [" in sentence(found)


def test_a_level_may_be_named(sown: Sown) -> None:
    told = (("levels", {50: 1.0, 100: 0.5}), ("target", None))
    records = built(
        *(sown("kfac", seed, 60 + seed, config=told) for seed in range(3)),
        *(sown("adamw", seed, 160 + 3 * seed, config=told) for seed in range(3)),
    )
    assert verdict(records).level == "100 %"
    found = verdict(records, level="50 %")
    assert found.value == 1.0
    assert "reaches the 50 % level in 3 of 3 seeds" in sentence(found)


def test_a_method_that_does_not_fit_has_no_verdict(sown: Sown) -> None:
    refused = (("message", "kfac needs layers; tasks that fit: cnn, resnet"),)
    records = built(
        sown("kfac", 0, None, status="unsupported", cut=0, summary=refused),
        *(sown("adamw", s) for s in (0, 1)),
    )
    found = verdict(records)
    assert sentence(found) == "mlp: no verdict: kfac does not fit this task: kfac needs layers."
    assert reasons(CostTable(records), found) == shared_reasons(records, [found]) == []


def test_an_unfinished_run_is_left_out_and_named(both: Any, sown: Sown) -> None:
    stopped = sown("kfac", 5, None, status="unfinished", cut=30)
    records = build_records([*both().runs.values(), stopped.run, sown("adamw", 5, 200).run], [])
    found = verdict(records)
    assert found.reached == (5, 5)
    said = reasons(CostTable(records), found)
    assert (
        "left out: kfac, seed 5: unfinished; finish it with: "
        "python -m suite optimizer=kfac task=mlp seed=5 scale=quick" in said
    )
    assert "left out: adamw, seed 5: kfac has no run of it" in said


def test_nothing_but_unfinished_runs_is_no_verdict(sown: Sown) -> None:
    records = built(
        sown("kfac", 0, None, status="unfinished", cut=30), sown("adamw", 0), sown("adamw", 1)
    )
    assert sentence(verdict(records)) == "mlp: no verdict: no finished run of kfac."


def test_seeds_that_only_one_side_has_are_left_out_and_named(both: Any, sown: Sown) -> None:
    records = build_records([*both().runs.values(), sown("adamw", 9, 400).run], [])
    found = verdict(records)
    assert found.paired
    assert found.reached == (5, 5)
    assert "left out: adamw, seed 9: kfac has no run of it" in reasons(CostTable(records), found)


def test_other_seeds_on_both_sides_are_compared_without_pairs(sown: Sown) -> None:
    records = built(
        *(sown("kfac", seed, 60 + seed) for seed in range(3)),
        *(sown("adamw", seed, 200 + seed) for seed in (7, 8)),
    )
    found = verdict(records)
    assert not found.paired
    assert "the seeds differ (3 and 2 runs), so nothing is paired" in reasons(
        CostTable(records), found
    )
    assert found.outcome == BETTER


def test_ties_are_no_difference(sown: Sown) -> None:
    records = built(
        *(sown(name, seed, 60 + seed, final=0.3) for name in ("kfac", "adamw") for seed in range(3))
    )
    found = verdict(records)
    assert found.ratios["steps"].value == pytest.approx(1.0)
    assert found.outcome == 0


def test_seeds_that_change_nothing_are_one_run(sown: Sown) -> None:
    start = {"final": 0.3}
    runs = [
        sown(name, seed, cost, **start).run
        for name, cost in (("kfac", 60), ("adamw", 200))
        for seed in range(3)
    ]
    for run in runs:  # the same curve for every seed, down to the start
        run.history.loc[0, "val/error"] = 2.0
    found = verdict(build_records(runs, []))
    assert found.outcome is None
    assert sentence(found).endswith("all 3 seeds are the same run: no interval.")


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
    found = verdict(records)
    assert found.final is None
    assert found.outcome is None
    assert sentence(found).endswith(
        "final error none against none (no target is set: this decides); neither has a final value "
        "in any run."
    )


def test_a_failure_is_no_better_than_the_start(sown: Sown) -> None:
    free = (("target", None),)
    records = built(
        *(sown("kfac", seed, None, final=0.30 + 0.01 * seed, config=free) for seed in range(4)),
        *(sown("adamw", seed, None, status="diverged", cut=9, config=free) for seed in range(4)),
    )
    found = verdict(records)
    assert found.final is not None
    assert found.final.value == pytest.approx(
        np.mean([0.30 + 0.01 * s - (2.0 + 0.001 * 3) for s in range(4)])
    )
    assert found.final.low == -math.inf
    assert found.outcome == BETTER
    assert "none: lower by at least 1.688 [1.667, ∞]" in sentence(found)


def test_a_failure_among_two_seeds_is_no_verdict(sown: Sown) -> None:
    records = built(
        sown("kfac", 0, 60),
        sown("kfac", 1, 62),
        sown("adamw", 0, 200),
        sown("adamw", 1, None, status="diverged", cut=9),
    )
    found = verdict(records)
    assert found.outcome is None
    assert sentence(found).endswith("2 seeds, some of which failed: no interval.")


def test_a_target_that_holds_at_the_start_costs_nothing(sown: Sown) -> None:
    easy = (("target", 5.0),)
    pairs = [(name, seed) for name in ("kfac", "adamw") for seed in (0, 1)]
    found = verdict(
        built(*(sown(name, seed, 60, final=0.3 + 0.01 * seed, config=easy) for name, seed in pairs))
    )
    assert found.ratios == {}
    assert (found.decided_by, found.reached, found.outcome) == (FINAL, (2, 2), 0)
    assert (
        "in 2 of 2 seeds against 2 of 2; final error 0.3050 against 0.3050: no difference (this"
        in sentence(found)
    )


def test_one_difference_for_all_seeds_has_no_interval(sown: Sown) -> None:
    free = (("target", None),)
    pairs = [
        (name, start, seed) for name, start in (("kfac", 0.25), ("adamw", 0.5)) for seed in range(3)
    ]
    found = verdict(
        built(*(sown(name, seed, None, final=start, config=free) for name, start, seed in pairs))
    )
    assert found.outcome is None
    assert sentence(found).endswith("3 seeds, with one and the same difference: no interval.")


@pytest.mark.slow
def test_equal_methods_are_told_apart_at_about_the_nominal_rate(sown: Sown) -> None:
    """200 pairs with costs from one distribution, through the whole of it.

    About 5 % are told apart.
    """
    generator, told, total = np.random.default_rng(7), 0, 200
    runs = []
    for number in range(total):
        for name in ("kfac", "adamw"):
            for seed in range(5):
                cost = float(150 * math.exp(0.3 * generator.normal()))
                runs.append(sown(name, seed, cost, task=f"mlp{number:03}", every=4, steps=400).run)
    records = build_records(runs, [])
    cost_table = CostTable(records)
    for problem in records.problems:
        there = sides(records, problem)
        told += judge(cost_table, there["kfac"], there["adamw"]).outcome != 0
    assert 0.01 <= told / total <= 0.10


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
