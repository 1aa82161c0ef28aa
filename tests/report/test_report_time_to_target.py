"""What runs had spent at each level, who they are measured against, and which problems may be put
together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.compare import baseline as module
from suite.compare.baseline import baseline_labels, default_optimizer
from suite.config import targets
from suite.report.sections.answers.final_metrics import final_cells, results_table
from suite.report.sections.costs.time_and_memory import cost_tables
from suite.results import timings
from suite.results.aggregate import aggregated
from suite.results.frame import only
from suite.results.levels import levels
from suite.results.time_to_target import (
    ISOLATED,
    OWN,
    SHARED,
    UNITS,
    Clock,
    common_level,
    costs,
    costs_of,
    level_costs,
    roughly_timed,
    step_seconds,
    total_costs,
)

LEVELS = {50: 0.25, 80: 0.4, 100: 0.5}
INF = math.inf


def test_every_level_costs_what_the_slow_way_says(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [10, 20, INF], ("mlp", "kfac"): [5, 5, 5], ("cnn", "sgd"): [40, INF, 25]},
        config={"levels": LEVELS},
        summary=lambda task, optimizer: {"parallel": task == "cnn"},
    )
    table = level_costs(records)
    assert len(table) == 9 * 4
    for problem in records.problems:
        for name, value in levels(records, problem).items():
            mine = table[(table["problem"] == problem) & (table["level"] == name)]
            slow = costs(records, problem, value)
            for column in ("optimizer", "seed", *UNITS, "source"):
                assert list(mine[column]) == list(slow[column]), (problem, name, column)


def test_before_is_the_evaluation_ahead_of_the_one_that_reached_the_level() -> None:
    history = pd.DataFrame(
        {"step": [0, 5, 10, 15, 20], "seconds": range(5), "grad_equivalents": range(5)}
        | {"val/loss": [9.0, 6.0, math.nan, 3.0, 1.0]}
    )
    rows = costs_of(history, "loss", "min", [9.0, 3.0, 0.0], Clock(False, math.nan))
    assert [(row["steps_before"], row["steps"], row["steps_spent"]) for row in rows] == [
        (0, 0, 0),
        (5, 15, 15),
        (20, INF, 20),
    ]


def test_a_run_that_missed_the_level_is_not_roughly_timed() -> None:
    seconds = pd.DataFrame({"source": [SHARED, SHARED, ISOLATED], "seconds": [1.0, INF, 1.0]})
    assert list(roughly_timed(seconds)) == [True, False, False]


def test_levels_of_the_runs_come_before_those_stored_since(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"levels": {50: 0.1, 95: 0.45}}
    monkeypatch.setattr(targets, "find", lambda task, scale: stored)
    values = levels(plant({("mlp", "sgd"): [10]}, config={"levels": LEVELS}), "mlp")
    assert (values["50 %"], values["95 %"]) == (0.25, 0.45)


def test_what_a_cell_costs_by_hand(plant: Callable[..., Any]) -> None:
    records = plant({("mlp", "sgd"): [10, 20, INF]}, config={"levels": LEVELS})
    table = level_costs(records).set_index(["level", "seed"])
    assert [table.loc[("target", seed), "steps"] for seed in range(3)] == [10, 20, INF]
    assert table.loc[("50 %", 0), "steps"] == 5
    # 0.4 is reached at 16, and seen at the next evaluation
    assert table.loc[("80 %", 1), "steps"] == 20
    assert table.loc[("50 %", 2), "steps"] == 100
    assert table.loc[("target", 1), "seconds"] == pytest.approx(0.2)
    assert table.loc[("target", 1), "grad_equivalents"] == 40
    assert list(total_costs(records)["steps"]) == [100, 100, 100]


def test_shared_seconds_are_steps_times_an_exclusive_timing_where_there_is_one(
    plant: Callable[..., Any], runs: Path
) -> None:
    shared = {"parallel": True}
    records = plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [20]}, summary=shared)
    config = records.runs[int(records.pair("mlp", "kfac").index[0])].config
    key = timings.speed_key(config)
    here = timings.Timing(key, "mlp", "kfac", "cpu, Some CPU, 1 thread", 0.003, (0.003,))
    elsewhere = replace(here, hardware="cpu, Other CPU, 1 thread", seconds_per_step=0.7)
    measured = timings.placed([here, elsewhere])
    records = plant({}, timings=measured)
    table = level_costs(records).set_index("optimizer")
    assert table.loc["kfac", "seconds"] == pytest.approx(20 * 0.003)
    assert (table.loc["kfac", "source"], table.loc["sgd", "source"]) == (ISOLATED, SHARED)
    price = step_seconds(records).set_index("optimizer")
    assert dict(price["seconds"]) == {"sgd": 0.01, "kfac": 0.003}
    assert dict(price["source"]) == {"sgd": SHARED, "kfac": ISOLATED}


def test_pairs_that_do_not_fit_and_problems_without_levels_have_no_row(
    record: Callable[..., Path], plant: Callable[..., Any], training: Any
) -> None:
    record("mlp", "newton", 0, training(status="unsupported"), config={"target": 0.5, "steps": 100})
    record("cnn", "sgd")
    records = plant({("mlp", "sgd"): [10]})
    table = level_costs(records)
    assert list(table["optimizer"]) == ["sgd"]
    assert list(table["source"]) == [OWN]


def test_the_baseline_is_who_set_the_levels_else_the_default_optimizer(
    plant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {(task, name): [10.0] for task in ("mlp", "cnn") for name in ("sgd", "adamw", "kfac")}
    records = plant(cells)
    monkeypatch.setattr(
        module, "level_setter", lambda records, problem: "kfac" if problem == "cnn" else None
    )
    assert baseline_labels(records) == {"cnn": "kfac", "mlp": default_optimizer()}


def test_else_it_is_the_first_order_method_that_ran_on_most_and_arrived_most_often(
    plant: Callable[..., Any],
) -> None:
    cells = {
        ("mlp", "sgd"): [INF],
        ("mlp", "adamw"): [50.0],
        ("cnn", "sgd"): [INF],
        ("cnn", "adamw"): [60.0],
    }
    records = plant(
        {**cells, ("mlp", "lbfgs"): [5.0], ("mlp", "kfac"): [5.0], ("cnn", "kfac"): [5.0]}
    )
    assert set(baseline_labels(records).values()) == {"adamw"}


def test_without_any_first_order_method_there_is_no_baseline(plant: Callable[..., Any]) -> None:
    records = plant({("mlp", "kfac"): [10.0]})
    assert baseline_labels(records) == {}


def test_the_common_level_is_the_hardest_that_all_of_the_baselines_runs_reached(
    plant: Callable[..., Any],
) -> None:
    records = plant(
        {("mlp", "sgd"): [10, 20, INF], ("mlp", "kfac"): [10]},
        config={"levels": {**LEVELS, 100: 0.5}},
    )
    table = level_costs(records)
    assert common_level(table, "sgd") == "50 %"  # the run that never reached 0.5 ends at 0.25
    assert common_level(table, "kfac") == "target"
    assert common_level(table, "newton") is None


@pytest.mark.parametrize(("target", "expected"), [(0.6, "target"), (0.5, "target"), (0.3, "100 %")])
def test_a_target_stands_where_its_value_does(
    plant: Callable[..., Any], target: float, expected: str
) -> None:
    records = plant({("mlp", "sgd"): [10]}, config={"levels": LEVELS, "target": target})
    assert common_level(level_costs(records), "sgd") == expected


def test_what_must_not_be_averaged_is_left_out_and_named(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [10], ("mlp", "kfac"): [10], ("cnn", "sgd"): [20], ("toy", "sgd"): [5]},
        summary=lambda task, optimizer: {"parallel": task == "cnn"},
        settings=lambda task, optimizer: (
            {"_target_": "tasks.functions.toy.Toy"} if task == "toy" else {}
        ),
    )
    chosen = aggregated(records, level_costs(records))
    assert set(chosen.by_unit["steps"]["problem"]) == {"mlp", "cnn"}
    assert set(chosen.by_unit["seconds"]["problem"]) == {"mlp"}
    assert chosen.ran == {"sgd": 2, "kfac": 1}
    assert "Left out: toy (functions of a few numbers, which only illustrate)." in chosen.note
    assert "Left out of the seconds: cnn (runs shared the machine" in chosen.note
    assert "counts as not reached: kfac." in chosen.note
    assert len(chosen.indices) == 3


def test_seconds_of_several_machines_are_not_put_together(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [10], ("mlp", "kfac"): [10]},
        environment=lambda task, optimizer: {"cpu": f"CPU of {optimizer}"},
    )
    chosen = aggregated(records, level_costs(records))
    assert chosen.by_unit["seconds"].empty
    assert chosen.rough == {"mlp": "several kinds of hardware"}
    assert len(chosen.by_unit["grad_equivalents"]) == 2


def test_no_level_at_all_is_an_empty_frame(
    record: Callable[..., Path], plant: Callable[..., Any]
) -> None:
    record("mlp", "sgd")
    records = plant({})
    table = level_costs(records)
    assert table.empty
    chosen = aggregated(records, table)
    assert (chosen.methods, chosen.why_not("Profiles")) == ([], "")
    assert np.isfinite(total_costs(records)["steps"]).all()


def test_what_sections_share_is_computed_once_and_a_problems_part_handed_on(
    plant: Callable[..., Any],
) -> None:
    records = plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [20], ("cnn", "sgd"): [10]})
    assert level_costs(records) is level_costs(records)
    whole = final_cells(records, "mlp")
    part = only(records, "mlp")
    assert final_cells(part, "mlp") is whole
    assert set(level_costs(part)["problem"]) == {"mlp"}
    assert set(level_costs(records)["problem"]) == {"mlp", "cnn"}
    assert replace(records, frame=records.frame.head(1)).answers == {}


@pytest.mark.parametrize("problem", ["mlp", "cnn"])
def test_a_problems_own_tables_are_the_same_whether_the_whole_was_looked_at_before(
    plant: Callable[..., Any], problem: str
) -> None:
    records = plant({(task, name): [10, 20] for task in ("mlp", "cnn") for name in ("sgd", "kfac")})
    fresh = only(records, problem)
    results_table(records)
    cost_tables(records)
    after = only(records, problem)
    assert after.answers
    assert results_table(after).rows == results_table(fresh).rows
    assert [table.rows for table in cost_tables(after)] == [
        table.rows for table in cost_tables(fresh)
    ]
