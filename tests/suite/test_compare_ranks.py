"""ProcessGroup: orders that are known, ties, gaps, and how stable they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite import stats
from suite.compare.__main__ import main
from suite.compare.baseline import against_baseline, baseline_side, default_optimizer
from suite.compare.ranks import Ranking, best_unit, overall, rank_methods
from suite.compare.sides import CostTable, sides
from suite.compare.verdict import FINAL, SECONDS, WORK
from suite.results.frame import Records, build_records
from suite.stats.profile_bands import profile_areas, ratios_to_best

Sown = Callable[..., Any]
NOISE = (1.0, 1.05, 0.96, 1.02)


def stood(records: Records) -> list[Ranking]:
    return rank_methods(CostTable(records))


def unit(records: Records, **options: bool) -> str:
    pair = {problem: list(sides(records, problem).values()) for problem in records.problems}
    return best_unit(CostTable(records), pair, **options)


@pytest.fixture
def field(sown: Sown) -> Callable[..., Records]:
    """Runs of methods on problems from a table of costs (None: never), four seeds each with a
    little noise."""

    def make(table: dict[str, dict[str, float | None]], **common: Any) -> Records:
        runs = []
        for task, costs in table.items():
            for name, cost in costs.items():
                for seed, factor in enumerate(NOISE):
                    planted = None if cost is None else cost * factor
                    final = 1.0 + 0.01 * seed if cost is None else 0.2 + 0.001 * seed
                    runs.append(sown(name, seed, planted, final, task=task, **common).run)
        return build_records(runs, [])

    return make


def test_an_order_that_no_seed_disputes_is_kept_in_every_resample(field: Any) -> None:
    (ranking,) = stood(field({"mlp": {"sgd": 300, "kfac": 60, "adamw": 150}}))
    assert list(ranking.ranks.index) == ["kfac", "adamw", "sgd"]
    assert list(ranking.ranks) == [1, 2, 3]
    assert list(ranking.stability) == [1.0, 1.0, 1.0]
    assert [one.outcome for one in ranking.behind] == [1, 1]


def test_failures_share_the_last_rank(field: Any) -> None:
    (ranking,) = stood(field({"mlp": {"sgd": None, "kfac": 60, "adamw": None}}))
    assert dict(ranking.ranks) == {"kfac": 1.0, "sgd": 2.5, "adamw": 2.5}


def test_the_place_of_a_close_pair_is_not_certain(sown: Sown) -> None:
    costs = {"kfac": (60, 90, 70, 100), "adamw": (80, 65, 95, 75), "sgd": (300, 310, 290, 305)}
    runs = [
        sown(name, seed, cost).run for name, own in costs.items() for seed, cost in enumerate(own)
    ]
    (ranking,) = stood(build_records(runs, []))
    assert 0.2 < ranking.stability["kfac"] < 0.9
    assert ranking.stability["sgd"] == 1.0


def test_without_a_target_the_final_value_ranks(sown: Sown) -> None:
    free = (("target", None),)
    runs = [
        sown(name, seed, None, end + 0.01 * seed, config=free).run
        for name, end in (("kfac", 0.7), ("adamw", 0.4))
        for seed in range(3)
    ]
    runs += [
        sown("sgd", seed, None, status="diverged", cut=9, config=free).run for seed in range(3)
    ]
    (ranking,) = stood(build_records(runs, []))
    assert ranking.by == FINAL
    assert list(ranking.ranks.index) == ["adamw", "kfac", "sgd"]
    assert np.isinf(ranking.scores["sgd"]).all()


def test_larger_values_rank_first_where_they_are_better(sown: Sown) -> None:
    more = (("target", None), ("direction", "max"))
    ends = (("kfac", 0.7), ("adamw", 0.4))
    runs = [
        sown(name, seed, None, end + 0.01 * seed, config=more).run
        for name, end in ends
        for seed in range(3)
    ]
    (ranking,) = stood(build_records(runs, []))
    assert list(ranking.ranks.index) == ["kfac", "adamw"]


def test_seconds_rank_where_all_of_them_are_clean(field: Any) -> None:
    table = {"mlp": {"kfac": 60, "adamw": 150}}
    assert unit(field(table)) == SECONDS
    assert unit(field(table, parallel=True)) == WORK
    mixed = build_records(
        [
            *field(table).runs.values(),
            *field({"mlp": {"sgd": 50}}, environment=(("cpu", "Other"),)).runs.values(),
        ],
        [],
    )
    assert unit(mixed) == WORK
    assert unit(mixed, mixed=True) == SECONDS


@pytest.mark.parametrize(("cost", "expected"), [(200, WORK), (None, SECONDS)])
def test_who_never_arrived_needs_no_clock(field: Any, cost: float | None, expected: str) -> None:
    clean, shared = (
        field({"mlp": {"kfac": 60, "adamw": 150}}),
        field({"mlp": {"sgd": cost}}, parallel=True),
    )
    assert unit(build_records([*clean.runs.values(), *shared.runs.values()], [])) == expected


def test_overall_ranks_are_means_over_the_problems_that_count(field: Any) -> None:
    table = {
        "mlp": {"kfac": 60, "adamw": 100, "sgd": 300},
        "cnn": {"kfac": 100, "adamw": 60, "sgd": 300},
    }
    records = field({**table, "rnn": {"kfac": 60, "adamw": 100, "sgd": None}})
    total = overall(records, stood(records))
    assert total is not None
    assert dict(total.table["rank"]) == pytest.approx({"kfac": 4 / 3, "adamw": 5 / 3, "sgd": 3.0})
    assert dict(total.table["first"]) == {"kfac": 2, "adamw": 1, "sgd": 0}
    assert total.groups == (("kfac", "adamw"),)
    assert total.left_out == ()
    # kfac beats adamw in every pair on two of three
    assert total.table["next"].iloc[0] == pytest.approx(2 / 3)
    times = pd.DataFrame(
        [[60, 100, 300], [100, 60, 300], [60, 100, math.inf]], columns=["kfac", "adamw", "sgd"]
    )
    assert dict(total.table["score"]) == pytest.approx(
        dict(stats.profile_score(times, 4.0)), abs=1e-2
    )
    assert (total.table["score_low"] <= total.table["score"]).all()


def test_what_resampling_adds_to_the_score_is_what_the_statistic_gives() -> None:
    times = np.array([[[2.0, 1.0, math.inf], [math.inf, math.inf, math.inf], [5.0, 5.0, 30.0]]])
    frame = pd.DataFrame(times[0], columns=["a", "b", "c"])
    expected = pd.concat(
        [stats.profile_score(frame.iloc[[row]], 4.0) for row in range(3)], axis=1
    ).T.to_numpy()
    np.testing.assert_allclose(profile_areas(ratios_to_best(times), 4.0)[0], expected)


def test_a_test_function_is_no_part_of_the_overall_ranks(field: Any) -> None:
    costs = {"kfac": 60, "adamw": 100}
    bowl = field(
        {"bowl": {"adamw": 10, "kfac": 300}},
        config=(("task", {"_target_": "tasks.functions.bowl.Bowl"}),),
    )
    records = build_records(
        [*field({"mlp": costs, "cnn": costs}).runs.values(), *bowl.runs.values()], []
    )
    ranking = stood(records)
    total = overall(records, ranking)
    assert {one.problem for one in ranking} == {"mlp", "cnn", "bowl"}
    assert total is not None
    assert set(total.problems) == {"mlp", "cnn"}
    assert dict(total.table["rank"]) == {"kfac": 1.0, "adamw": 2.0}
    assert "bowl: a test function" in total.left_out


def test_who_lacks_problems_is_left_out_and_named(field: Any) -> None:
    costs = {"kfac": 60, "adamw": 100}
    records = field({"mlp": {**costs, "newton": 5}, "cnn": costs, "rnn": costs})
    total = overall(records, stood(records))
    assert total is not None
    assert list(total.table.index) == ["kfac", "adamw"]
    assert total.left_out == ("newton: has runs on 1 of 3 problems",)


def test_there_are_no_ranks_of_one_method(field: Any) -> None:
    assert stood(field({"mlp": {"kfac": 60}})) == []


def test_unfinished_and_unfit_runs_have_no_rank(field: Any, sown: Sown) -> None:
    records = build_records(
        [
            *field({"mlp": {"kfac": 60, "adamw": 100}}).runs.values(),
            sown("newton", 0, None, status="unsupported", cut=0).run,
            sown("sgd", 0, None, status="unfinished", cut=10).run,
        ],
        [],
    )
    (ranking,) = stood(records)
    assert list(ranking.ranks.index) == ["kfac", "adamw"]


def test_a_seed_that_one_method_lacks_counts_for_the_others(field: Any, sown: Sown) -> None:
    more = sown("kfac", 9, 70).run
    (ranking,) = stood(
        build_records([*field({"mlp": {"kfac": 60, "adamw": 100}}).runs.values(), more], [])
    )
    assert ranking.scores["adamw"].isna().sum() == 1
    assert list(ranking.stability) == [1.0, 1.0]
    assert np.isfinite(ranking.drawn).all()


def test_the_baseline_is_the_default_where_no_levels_are_stored(field: Any) -> None:
    records = field(
        {"mlp": {"kfac": 60, default_optimizer(): 100, "sgd": 300}, "cnn": {"kfac": 60, "sgd": 100}}
    )
    side = baseline_side(records, "mlp")
    assert side is not None
    assert side.label == default_optimizer()
    verdicts = against_baseline(CostTable(records))
    assert {(one.problem, one.a.label) for one in verdicts} == {
        ("mlp", "kfac"),
        ("mlp", "sgd"),
        ("cnn", "kfac"),
    }
    assert len(against_baseline(CostTable(records), "sgd")) == 3


def test_else_the_baseline_is_the_usual_first_order_method(field: Any) -> None:
    records = field({"mlp": {"kfac": 60, "sgd": 300}, "cnn": {"kfac": 60}})
    side = baseline_side(records, "mlp")
    assert side is not None
    assert side.label == "sgd"
    assert baseline_side(records, "cnn") is None
    assert baseline_side(records, "mlp", "adamw") is None


def test_the_baseline_is_who_set_the_levels(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "origin": {"baseline": "sgd", "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.123}},
        "levels": {},
    }
    monkeypatch.setattr("suite.results.levels.levels_on_disk.find", lambda task, scale: entry)
    side = baseline_side(field({"mlp": {"kfac": 60, default_optimizer(): 100, "sgd": 300}}), "mlp")
    assert side is not None
    assert side.label == "sgd"


def test_of_several_configurations_of_the_baseline_it_is_the_one_that_set_the_levels(
    sown: Sown, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {
        "origin": {"baseline": "sgd", "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.5}},
        "levels": {},
    }
    monkeypatch.setattr("suite.results.levels.levels_on_disk.find", lambda task, scale: entry)
    rates = ((0.1, range(4)), (0.5, range(2)))
    runs = [
        sown("sgd", seed, 60, hyper=(("lr", rate),)).run for rate, seeds in rates for seed in seeds
    ]
    side = baseline_side(build_records(runs, []), "mlp")
    assert side is not None
    assert side.label == "sgd [lr=0.5]"


def test_the_command_prints_ranks_and_what_is_stable(
    field: Any, sown: Sown, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("mlp", "cnn"):
        for name, cost in (("kfac", 60), ("adamw", 150), ("sgd", 300)):
            for seed, factor in enumerate(NOISE):
                sown(name, seed, cost * factor, 0.2 + 0.01 * seed, task=task).write(tmp_path)
    assert main(["--all", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "*0.40 better" in out
    assert "2.00 worse" in out
    assert "Overall: kfac is first in 100 % of the resamples." in out
    assert "Cannot be told apart" not in out
    assert (
        main(["--all", "kfac", "sgd", "--baseline", "sgd", "--runs", str(tmp_path), "--json"]) == 0
    )
    assert "adamw" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--all", "kfac", "--runs", str(tmp_path)])
    assert (
        "nothing to rank: on no problem there are runs of two methods, only of kfac"
        in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["--all", "--baseline", "adamv", "--runs", str(tmp_path)])
    assert "baseline adamv has no run. Did you mean adamw?" in capsys.readouterr().err
