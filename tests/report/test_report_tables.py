"""The tables' contents against numbers worked out by hand, and the agreement of their three
formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.report.sections.answers.final_metrics import main_table, results_table
from suite.report.sections.answers.targets import target_tables
from suite.report.sections.costs.time_and_memory import cost_tables
from suite.report.sections.details.configurations import configuration_table
from suite.report.sections.details.environment import environment_table
from suite.report.sections.details.outcomes import outcome_tables
from suite.report.sections.details.problems import problem_table
from suite.results.frame import Records, build_records
from suite.results.load import load_runs
from suite.tables import markdown
from suite.tables.latex import escape_latex
from suite.tables.table import Cell, Table, make_table
from suite.tables.terminal import blocks

Record = Callable[..., Path]


def read(runs: Path) -> Records:
    return build_records(*load_runs(runs))


def by_optimizer(table: Table, column: str) -> dict[str, Cell]:
    """One column of a table with one problem, under the optimizers' names."""
    return {
        cell.text: value
        for cell, value in zip(table.frame["optimizer"], table.frame[column], strict=True)
    }


@pytest.fixture
def mixed(record: Record, runs: Path, training: Any) -> Records:
    """sgd done thrice, adamw once of three, kfac never, newton unsupported, lbfgs on another task
    only."""
    for seed, final in enumerate((0.90, 0.91, 0.92)):
        record("mlp", "sgd", seed, training(final=final, target_step=10 * (seed + 1)))
    record("mlp", "adamw", 0, training(final=0.95, target_step=4))
    record(
        "mlp",
        "adamw",
        1,
        training(status="diverged", cut=7, message="loss is not finite at step 7"),
    )
    record("mlp", "adamw", 2, training(status="unfinished", cut=3))
    for seed in range(3):
        record(
            "mlp",
            "kfac",
            seed,
            training(status="diverged", cut=5 + seed, message=f"NaN at step {5 + seed}"),
        )
        record(
            "mlp",
            "newton",
            seed,
            training(status="unsupported", cut=0, message="newton needs a small task"),
        )
    record("cnn", "lbfgs", 0, training(final=0.5))
    return read(runs)


def test_final_metric_keeps_every_run_in_its_denominator(mixed: Records) -> None:
    cells = by_optimizer(main_table(mixed), "mlp: accuracy ↑")
    assert {name: cell.text for name, cell in cells.items()} == {
        "sgd": "0.9100 ± 0.0100 (3)",
        "adamw": "0.9500 (1) · diverged 1/3 · interrupted 1/3",
        "kfac": "diverged 3/3",
        "newton": "unsupported",
        "lbfgs": "—",
    }


def test_a_mean_over_survivors_is_not_the_best(mixed: Records) -> None:
    cells = by_optimizer(main_table(mixed), "mlp: accuracy ↑")
    assert [name for name, cell in cells.items() if cell.bold] == ["sgd"]


def test_every_pair_is_in_the_main_table(mixed: Records) -> None:
    table = main_table(mixed)
    assert table.columns == ["optimizer", "cnn: accuracy ↑", "mlp: accuracy ↑"]
    assert len(table.rows) == 5
    assert "From 13 runs." in table.caption


def test_bold_is_the_best_and_all_that_cannot_be_told_from_it(
    record: Record, runs: Path, training: Any
) -> None:
    for seed in range(3):
        record("mlp", "sgd", seed, training(final=0.90 + 0.01 * seed))
        record("mlp", "adamw", seed, training(final=0.91 + 0.01 * seed))
        record("mlp", "kfac", seed, training(final=0.80 + 0.01 * seed))
    cells = by_optimizer(main_table(read(runs)), "mlp: accuracy ↑")
    assert {name: cell.bold for name, cell in cells.items()} == {
        "sgd": True,
        "adamw": True,
        "kfac": False,
    }


def test_smaller_is_better_where_the_task_says_so(
    record: Record, runs: Path, training: Any
) -> None:
    loss = {"metric": "loss", "direction": "min"}
    record("mlp", "sgd", 0, training(final=2.0), config=loss)
    record("mlp", "adamw", 0, training(final=0.5), config=loss)
    records = read(runs)
    cells = by_optimizer(main_table(records), "mlp: loss ↓")
    assert {name: cell.bold for name, cell in cells.items()} == {"sgd": False, "adamw": True}
    relative = by_optimizer(results_table(records), "relative")
    assert {name: cell.text for name, cell in relative.items()} == {"sgd": "4.00", "adamw": "1.00"}


def test_a_run_at_its_limit_of_seconds_has_a_value_and_a_word(
    record: Record, runs: Path, training: Any
) -> None:
    record(seed=0, training=training(final=0.8))
    record(seed=1, training=training(status="timeout", cut=15), summary={"final_accuracy": 0.6})
    (cell,) = main_table(read(runs)).frame["mlp: accuracy ↑"]
    assert cell.text == "0.7000 ± 0.1414 (2) · timeout 1/2"


def test_a_done_run_without_a_value_is_said(record: Record, runs: Path) -> None:
    record(seed=0, summary={"final_accuracy": None})
    (cell,) = main_table(read(runs)).frame["mlp: accuracy ↑"]
    assert cell.text == "no value 1/1"


def test_results_in_full(mixed: Records) -> None:
    table = results_table(mixed)
    assert by_optimizer(table, "95 % interval")["sgd"].text == "0.9000 to 0.9200"
    assert by_optimizer(table, "95 % interval")["adamw"].text == "—"
    assert by_optimizer(table, "relative")["sgd"].text == "0.96"  # 0.91 / 0.95
    assert by_optimizer(table, "test")["sgd"].text == "0.9100 ± 0.0100 (3)"
    assert by_optimizer(table, "outcomes")["kfac"].text == "diverged 3/3"


def test_targets_count_failures_as_infinite(mixed: Records) -> None:
    (table,) = target_tables(mixed)
    columns = ("reached", "steps", "grad-equivalents", "seconds")
    rows = {
        name: [by_optimizer(table, column)[name].text for column in columns]
        for name in mixed.optimizers
    }
    assert rows == {
        "sgd": ["3/3", "20", "40", "0.2000"],
        "adamw": ["1/3", "∞", "∞", "∞"],
        "kfac": ["0/3", "∞", "∞", "∞"],
        "newton": ["0/3", "—", "—", "—"],
        "lbfgs": ["0/1", "∞", "∞", "∞"],
    }


def test_a_cost_that_is_not_known_is_not_infinite(
    record: Record, runs: Path, training: Any
) -> None:
    for seed in (0, 1):
        record(
            "mlp", "sgd", seed, training(target_step=10), summary={"target_grad_equivalents": None}
        )
    table = target_tables(read(runs))[0]
    assert by_optimizer(table, "steps")["sgd"].text == "10"
    assert by_optimizer(table, "grad-equivalents")["sgd"].text == "—"


def test_no_table_where_no_task_has_a_target(record: Record, runs: Path) -> None:
    record(summary={"target": None})
    assert target_tables(read(runs)) == []


def test_step_costs(record: Record, runs: Path, training: Any) -> None:
    for seed, seconds in enumerate((0.010, 0.012)):
        record("mlp", "sgd", seed, training(seconds_per_step=seconds))
        record("mlp", "kfac", seed, training(seconds_per_step=3 * seconds))
    (table,) = cost_tables(read(runs))
    assert by_optimizer(table, "ms per step")["sgd"] == Cell(
        "11.00 ± 1.41 (2)", bold=True, order=0.011
    )
    assert by_optimizer(table, "relative")["kfac"].text == "3.00"
    assert by_optimizer(table, "grad-eq. per step")["kfac"].text == "2.000"
    assert by_optimizer(table, "state")["sgd"].text == "2.0 KiB"
    assert by_optimizer(table, "peak")["sgd"].text == "3.0 MiB"
    assert "Some CPU, 1 thread" in table.caption


def test_seconds_from_shared_cores_are_marked_and_never_bold(
    record: Record, runs: Path, training: Any
) -> None:
    shared = {"parallel": True}
    record("mlp", "sgd", 0, training(seconds_per_step=0.01, target_step=5), summary=shared)
    record("mlp", "kfac", 0, training(seconds_per_step=0.02), summary=shared)
    records = read(runs)
    (table,) = cost_tables(records)
    times = by_optimizer(table, "ms per step")
    assert [times["sgd"].text, times["kfac"].text] == ["~10.00 (1)", "~20.00 (1)"]
    assert not any(cell.bold for cell in times.values())
    assert by_optimizer(table, "relative")["kfac"].text == "~2.00"
    assert by_optimizer(target_tables(records)[0], "seconds")["sgd"].text == "~0.05000"
    assert "shared cores" in table.caption


def test_seconds_from_cores_of_their_own_push_shared_ones_out(
    record: Record, runs: Path, training: Any
) -> None:
    record(seed=0, training=training(seconds_per_step=0.01))
    record(seed=1, training=training(seconds_per_step=0.09), summary={"parallel": True})
    (table,) = cost_tables(read(runs))
    assert table.frame["ms per step"].iloc[0].text == "10.00 (1)"


def test_hardware_is_never_mixed_in_a_timing_table(record: Record, runs: Path) -> None:
    record(seed=0)
    record(seed=1, environment={"cpu": "Other CPU"})
    record(seed=2, environment={"threads": 2})
    record(seed=0, config={"device": "cuda"}, environment={"gpu": "H200"})
    tables = cost_tables(read(runs))
    assert [table.name for table in tables] == ["costs_1", "costs_2", "costs_3", "costs_4"]
    places = [
        "cpu, Other CPU, 1 thread",
        "cpu, Some CPU, 1 thread",
        "cpu, Some CPU, 2 threads",
        "cuda, H200",
    ]
    assert [table.title.removeprefix("Time and memory per step ") for table in tables] == [
        f"({p})" for p in places
    ]
    assert all(len(table.rows) == 1 for table in tables)
    targets = target_tables(read(runs))
    assert [table.title for table in targets] == ["Target reached (cpu)", "Target reached (cuda)"]


def test_outcomes_give_reason_and_command(mixed: Records) -> None:
    (table,) = outcome_tables(mixed)
    rows = {(row[1].text, row[2].text): row for row in table.rows}
    assert set(rows) == {
        ("adamw", "diverged"),
        ("adamw", "interrupted"),
        ("kfac", "diverged"),
        ("newton", "unsupported"),
    }
    texts = [cell.text for cell in rows["kfac", "diverged"]]
    assert texts[3:6] == ["3/3", "0, 1, 2", "NaN at step 5; NaN at step 6; NaN at step 7"]
    assert texts[6] == "python -m suite optimizer=kfac task=mlp seed=0 force=true"
    assert rows["adamw", "interrupted"][6].text == "python -m suite optimizer=adamw task=mlp seed=2"


def test_no_outcome_table_where_all_is_well(record: Record, runs: Path) -> None:
    record()
    assert outcome_tables(read(runs)) == []


def test_settings_and_environment(record: Record, runs: Path) -> None:
    record(seed=0, environment={"oracle_costs": {"value": 0.3, "hvp": 2.5}})
    record(seed=1, environment={"torch": "2.14.0", "oracle_costs": {"value": 0.5, "hvp": None}})
    records = read(runs)
    problem = problem_table(records).rows[0]
    assert [cell.text for cell in problem[:3]] == ["mlp", "2", "0, 1"]
    assert "data=digits" in problem[3].text
    assert problem[4].text == "value 0.40, hvp 2.50"
    assert "lr=0.1" in configuration_table(records).rows[0][4].text
    environment = {row[0].text: row[1].text for row in environment_table(records).rows}
    assert environment["cpu"] == "Some CPU"
    assert environment["torch"] == "2.13.0 (1 run), 2.14.0 (1 run)"


NASTY = "a_b & 50% <i> ~x~ #1 {y} $z^2$ \\w |p| [q] *s* `t`"


def test_markdown_latex_and_csv_say_the_same() -> None:
    table = make_table(
        "t", "Title", "Caption.", [{"name": NASTY, "value": Cell("0.91 ± 0.01 (3)", bold=True)}]
    )
    assert list(csv.reader(io.StringIO(markdown.csv_text(table)))) == [
        ["name", "value"],
        [NASTY, "0.91 ± 0.01 (3)"],
    ]
    row = markdown.markdown(table).splitlines()[4]
    assert row == (
        r"| a\_b &amp; 50% &lt;i> \~x\~ #1 {y} \$z^2\$ \\w \|p\| \[q\] \*s\* \`t\` | **0.91 ± "
        r"0.01 (3)** |"
    )
    body = markdown.latex(table)
    assert r"a\_b \& 50\% \textless{}i\textgreater{} $\sim$x$\sim$ \#1 \{y\}" in body
    assert r"\$z\textasciicircum{}2\$ \textbackslash{}w \textbar{}p\textbar{} {[}q{]}" in body
    assert r"\textbf{0.91 $\pm$ 0.01 (3)} \\" in body
    assert all(
        rule in body for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{ll}")
    )


def test_the_formats_of_a_real_table_agree(mixed: Records) -> None:
    table = main_table(mixed)
    cells = [[cell.text for cell in row] for row in table.rows]
    assert list(csv.reader(io.StringIO(markdown.csv_text(table))))[1:] == cells
    lines = [line for line in markdown.markdown(table).splitlines() if line.startswith("|")][2:]
    assert [
        [text.strip().strip("*") for text in line.strip("|").split("|")] for line in lines
    ] == cells
    body = markdown.latex(table).split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert all(escape_latex(text) in body for row in cells for text in row)


def test_the_terminal_gets_as_many_blocks_as_its_width_needs(mixed: Records) -> None:
    table = main_table(mixed)
    assert list(blocks(table, 200)) == [[0, 1, 2]]
    assert list(blocks(table, 40)) == [[0, 1], [0, 2]]
