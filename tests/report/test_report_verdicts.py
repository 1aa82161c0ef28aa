"""The verdicts in the report: their tables, their baseline, and what is left empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from suite.report.sections.answers.targets import level_tables, target_tables
from suite.report.sections.answers.verdicts import verdicts_and_ranks
from suite.results.frame import Records, build_records
from suite.results.levels import levels, main_level
from suite.results.time_to_target import costs
from suite.stats import time_to_target
from suite.tables.table import Table

Sown = Callable[..., Any]


def build(sown: Sown, table: dict[str, dict[str, float | None]], **common: Any) -> Records:
    runs = [
        sown(
            name,
            seed,
            None if cost is None else cost + seed,
            (1.0 if cost is None else 0.2) + 0.01 * seed,
            task=task,
            **common,
        ).run
        for task, own in table.items()
        for name, cost in own.items()
        for seed in range(3)
    ]
    return build_records(runs, [])


def named(tables: list[Table], name: str) -> dict[tuple[str, ...], dict[str, str]]:
    """A table's rows as text, under problem and optimizer."""
    (table,) = [one for one in tables if one.name == name]
    rows = [
        dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows
    ]
    return {tuple(row[key] for key in ("problem", "optimizer") if key in row): row for row in rows}


@pytest.fixture
def records(sown: Sown) -> Records:
    return build(
        sown,
        {
            "mlp": {"adamw": 200, "kfac": 60, "sgd": None},
            "cnn": {"adamw": 100, "kfac": 100, "sgd": 300},
        },
    )


def test_a_row_for_every_method_against_the_baseline(records: Records) -> None:
    tables = verdicts_and_ranks(records).tables
    rows = named(tables, "verdicts")
    assert set(rows) == {(problem, name) for problem in ("mlp", "cnn") for name in ("kfac", "sgd")}
    first = rows["mlp", "kfac"]
    assert first["steps"].startswith("0.30x [")
    assert (first["against"], first["reached"], first["verdict"]) == (
        "adamw",
        "3/3, 3/3",
        "faster at 95 %",
    )
    assert rows["mlp", "sgd"]["steps"].startswith("at least 1.99x [")
    assert rows["mlp", "sgd"]["steps"].endswith("∞]")
    assert rows["cnn", "kfac"]["verdict"] == "which is faster cannot be told at 95 %"


def test_the_matrix_tells_the_deciding_ratio(records: Records) -> None:
    rows = named(verdicts_and_ranks(records).tables, "verdict_matrix")
    assert rows["kfac",] == {"optimizer": "kfac", "cnn": "1.00 ?", "mlp": "0.30 better"}
    assert rows["adamw",] == {"optimizer": "adamw", "cnn": "baseline", "mlp": "baseline"}
    assert rows["sgd",]["mlp"] == ">1.99 worse"


def test_the_ranks_tell_how_often_they_are_kept(records: Records) -> None:
    tables = verdicts_and_ranks(records).tables
    ranks = named(tables, "ranks")
    assert ranks["kfac",]["mlp"] == "1 (100 %)"
    assert ranks["kfac",]["cnn"] == "1.5 (100 %)"
    (table,) = [one for one in tables if one.name == "ranks"]
    bold = {
        (row[0].text, head)
        for row in table.rows
        for head, cell in zip(table.columns, row, strict=True)
        if cell.bold
    }
    assert bold == {("kfac", "mlp"), ("kfac", "cnn"), ("adamw", "cnn")}
    assert named(tables, "ranks_overall")["kfac",]["first on"] == "2/2"


def test_a_page_of_one_problem_has_the_sentences(sown: Sown) -> None:
    tables = verdicts_and_ranks(build(sown, {"mlp": {"adamw": 200, "kfac": 60}})).tables
    assert [table.name for table in tables] == ["ranks", "verdicts", "verdict_words"]
    row = named(tables, "verdict_words")["mlp", "kfac"]
    assert row["in words"].startswith("kfac needs 0.30x the steps")
    assert row["more"] == "python -m suite.compare kfac adamw task=mlp"


def test_cells_name_the_runs_they_come_from(records: Records) -> None:
    (table,) = [one for one in verdicts_and_ranks(records).tables if one.name == "verdict_matrix"]
    sources = {cell.source for row in table.rows for cell in row if cell.source}
    assert sources == {(problem, name) for problem in ("mlp", "cnn") for name in ("kfac", "sgd")}


def test_one_method_alone_has_no_section(sown: Sown) -> None:
    tables = verdicts_and_ranks(build(sown, {"mlp": {"adamw": 200}}))
    assert not tables.is_shown


def test_without_the_baseline_there_are_ranks_only(sown: Sown) -> None:
    tables = verdicts_and_ranks(build(sown, {"mlp": {"newton": 200, "kfac": 60}})).tables
    assert [table.name for table in tables] == ["ranks"]
    tables = verdicts_and_ranks(
        build(sown, {"mlp": {"newton": 200, "kfac": 60}}), baseline="newton"
    ).tables
    assert named(tables, "verdicts")["mlp", "kfac"]["against"] == "newton"


def test_a_method_that_does_not_fit_is_called_so(sown: Sown) -> None:
    runs = [sown("adamw", seed, 100 + seed).run for seed in range(3)]
    runs += [
        sown(
            "kfac", 0, None, status="unsupported", cut=0, summary=(("message", "needs layers"),)
        ).run
    ]
    tables = verdicts_and_ranks(build_records(runs, [])).tables
    row = named(tables, "verdicts")["mlp", "kfac"]
    assert (row["steps"], row["final value"], row["verdict"]) == ("—", "—", "does not fit")


def test_nothing_reached_says_so(sown: Sown) -> None:
    tables = verdicts_and_ranks(build(sown, {"mlp": {"adamw": None, "kfac": None}})).tables
    row = named(tables, "verdicts")["mlp", "kfac"]
    assert (row["steps"], row["reached"]) == ("—", "0/3, 0/3")
    assert named(tables, "ranks")["kfac",]["mlp"] == "1.5 (100 %)"


# -- what it costs to reach a level ----------------------------------------------------------------


def test_costs_are_those_of_the_statistic_and_of_the_evaluation_before(sown: Sown) -> None:
    run = sown("adamw", 0, 33, every=10, work=2.0, pace=0.5).run
    (row,) = costs(build_records([run], []), "mlp", 0.5).to_dict("records")
    for unit, column in (
        ("steps", "step"),
        ("seconds", "seconds"),
        ("grad_equivalents", "grad_equivalents"),
    ):
        assert (
            row[unit]
            == row[f"{unit}_spent"]
            == time_to_target(run.history, 0.5, "min", unit=column)
        )
    assert (row["steps"], row["steps_before"], row["seconds_before"]) == (40.0, 30.0, 15.0)


def test_a_run_that_never_arrives_has_spent_all_of_it(sown: Sown) -> None:
    records = build_records([sown("adamw", 0, None, 1.0, every=10, work=2.0).run], [])
    (row,) = costs(records, "mlp", 0.5).to_dict("records")
    assert (row["steps"], row["steps_spent"], row["grad_equivalents_spent"]) == (
        float("inf"),
        400.0,
        800.0,
    )


def test_levels_by_name_and_the_one_that_verdicts_are_about(sown: Sown) -> None:
    known_levels = (("levels", {50: 1.25, 100: 0.5, "80": None}),)
    records = build_records([sown("adamw", config=known_levels).run], [])
    assert levels(records, "mlp") == {"50 %": 1.25, "100 %": 0.5, "target": 0.5}
    assert main_level({"50 %": 1.0, "100 %": 0.5}) == "100 %"
    assert main_level({"50 %": 1.0, "target": 0.5}) == "target"
    assert main_level({}) is None


def test_older_runs_are_measured_by_levels_that_were_stored_since(
    sown: Sown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "suite.results.levels.levels_on_disk.find",
        lambda task, scale: {"levels": {50: 1.25}},
    )
    records = build_records([sown("adamw", config=(("target", None),)).run], [])
    assert levels(records, "mlp") == {"50 %": 1.25}


def test_expected_costs_of_every_level(sown: Sown) -> None:
    known_levels = (("levels", {50: 1.0, 100: 0.3}),)
    runs = [
        sown("adamw", 0, 100, 0.2, work=2.0, config=known_levels).run,
        sown("adamw", 1, None, 0.8, work=2.0, config=known_levels).run,
    ]
    work, steps = level_tables(build_records(runs, []))
    row = dict(zip(steps.columns, (cell.text for cell in steps.rows[0]), strict=True))
    assert row == {
        "problem": "mlp",
        "optimizer": "adamw",
        "50 %": "250.0 (2/2)",
        "100 %": "800.0 (1/2)",
    }
    assert work.rows[0][3].text == "1600 (1/2)"
    assert "mlp 1, 0.3" in steps.caption


def test_expected_steps_to_the_target_count_what_was_spent_in_vain(sown: Sown) -> None:
    arrived = (("target_step", 100), ("target_seconds", 1.0), ("target_grad_equivalents", 100.0))
    runs = [sown("adamw", 0, 100, summary=arrived).run, sown("adamw", 1, None, 1.0).run]
    row = named(target_tables(build_records(runs, [])), "targets")["mlp", "adamw"]
    assert (row["reached"], row["steps"], row["ERT"]) == ("1/2", "∞", "500.0")  # (100 + 400) / 1


def test_who_mostly_fails_is_not_bold_beside_one_that_does_not(sown: Sown) -> None:
    runs = [sown("kfac", seed, 350 + seed, 0.2).run for seed in range(3)]
    runs += [
        sown("adamw", 0, 340, 0.2).run,
        *(sown("adamw", seed, None, 1.0).run for seed in (1, 2)),
    ]
    (table,) = [
        one for one in verdicts_and_ranks(build_records(runs, [])).tables if one.name == "ranks"
    ]
    assert {row[0].text: row[1].bold for row in table.rows} == {"kfac": True, "adamw": False}
    rows = named(verdicts_and_ranks(build_records(runs, [])).tables, "verdicts")
    assert rows["mlp", "kfac"]["verdict"] == "which is faster cannot be told at 95 %"


def test_no_levels_no_table(sown: Sown) -> None:
    assert level_tables(build_records([sown("adamw").run], [])) == []
