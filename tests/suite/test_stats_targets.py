"""Costs of reaching a target.

Single runs, ERT and simulated restarts, against the cases of other implementations.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from suite import stats

HISTORY = pd.DataFrame(
    {
        "step": [10, 20, 30, 40],
        "seconds": [1.0, 2.0, 3.5, 5.0],
        "grad_equivalents": [12.0, 24.0, 36.0, 48.0],
        "val/accuracy": [0.2, math.nan, 0.8, 0.7],
        "loss": [2.0, 1.0, 0.5, math.nan],
    }
)


@pytest.mark.parametrize(
    ("target", "unit", "spent"),
    [
        (0.2, "step", 10),
        (0.5, "step", 30),
        (0.8, "seconds", 3.5),
        (0.8, "grad_equivalents", 36),
        (0.81, "step", math.inf),
    ],
)
def test_the_first_row_at_the_target_or_better_counts(
    target: float, unit: str, spent: float
) -> None:
    assert stats.time_to_target(HISTORY, target, "max", unit=unit) == spent


def test_smaller_is_better_where_the_mode_says_so() -> None:
    assert stats.time_to_target(HISTORY, 1.0, "min", metric="loss", unit="step") == 20
    assert stats.time_to_target(HISTORY, 0.1, "min", metric="loss") == math.inf
    assert stats.time_to_target(HISTORY.iloc[:0], 1.0, "min", metric="loss") == math.inf


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "best"}, "'min' or 'max', got 'best'"),
        ({"target": math.nan}, "target is NaN"),
        ({"unit": "hours"}, "no column 'hours'; it has step, seconds"),
        ({"metric": "val/loss"}, "no column 'val/loss'"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(changed: dict[str, object], message: str) -> None:
    asked: dict[str, object] = {"history": HISTORY, "target": 0.5, "mode": "max", **changed}
    with pytest.raises(ValueError, match=message):
        stats.time_to_target(**asked)  # type: ignore[arg-type]


def test_a_history_of_two_metrics_needs_the_name_of_one() -> None:
    with pytest.raises(
        ValueError, match="name the metric's column; there are val/accuracy, val/loss"
    ):
        stats.time_to_target(HISTORY.assign(**{"val/loss": 1.0}), 0.5, "max")


@pytest.mark.parametrize(
    ("spent", "reached", "expected"),
    [
        # the tests of the R package smoof, computeExpectedRunningTime
        ([100, 200, 600], [True, True, True], 300.0),
        ([100] * 10, [False] * 10, math.inf),
        # the data of the example of cocopp.toolsstats.simulated_evals: (1 + 2 + 4 + 2 + 6 + 100) /
        # 1
        ([1, 2, 4, 2, 6, 100], [True] + 5 * [False], 115.0),
    ],
)
def test_expected_running_time_of_other_packages(
    spent: list[float], reached: list[bool], expected: float
) -> None:
    assert stats.expected_running_time(spent, reached) == expected


@pytest.mark.parametrize("seed", range(5))
def test_expected_running_time_is_the_formula_of_restarts(seed: int) -> None:
    """Auger and Hansen (2005): E[T] = E[T_s] + (1 - p) / p E[T_f]."""
    generator = np.random.default_rng(seed)
    spent, reached = generator.uniform(1, 9, 12), generator.random(12) < 0.5
    p = reached.mean()
    restarted = spent[reached].mean() + (1 - p) / p * spent[~reached].mean()
    assert stats.expected_running_time(spent, reached) == pytest.approx(restarted, rel=1e-12)


def test_simulated_restarts_have_the_expected_mean_and_end_with_a_success() -> None:
    spent, reached = [1.0, 2.0, 4.0, 8.0], [True, False, True, False]
    drawn = stats.simulated_restarts(spent, reached, draws=40_000, seed=1)
    ert = stats.expected_running_time(spent, reached)
    assert drawn.mean() == pytest.approx(ert, abs=4 * drawn.std() / 200)
    assert np.isin(
        drawn[drawn < 3], [1.0]
    ).all()  # 2 alone is a failure, so that nothing ends there
    assert (drawn == 3).any()  # 2, then 1
    assert np.mean(drawn == 1) == pytest.approx(0.25, abs=0.01)


def test_restarts_without_a_success_never_end() -> None:
    assert np.isinf(stats.simulated_restarts([1.0, 2.0], [False, False], draws=7)).sum() == 7


@pytest.mark.parametrize(
    ("spent", "reached", "message"),
    [
        ([], [], "empty"),
        ([1.0], [True, False], "one entry a run, got 1 and 2"),
        ([math.inf], [False], "spent its whole budget, not infinity"),
        ([-1.0], [True], "not negative"),
        ([math.nan], [True], "NaN"),
    ],
)
def test_impossible_runs_are_refused(spent: list[float], reached: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.expected_running_time(spent, reached)
    with pytest.raises(ValueError, match=message):
        stats.simulated_restarts(spent, reached)
