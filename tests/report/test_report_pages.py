"""The overall page and the problems' pages.

What stands where, provenance, links, search spaces, colliding labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.report.page.links import links_of
from suite.report.page.manifest import list_files, remove_previous
from suite.report.page.page import Block, Page, render_page
from suite.report.report import write_report
from suite.report.section import Content
from suite.report.sections.answers.final_metrics import main_table, results_table
from suite.report.sections.answers.overview import overview_table
from suite.report.sections.details.run_list import runs_table
from suite.report.sections.details.search_spaces import space_table
from suite.results.frame import Records, build_records, only
from suite.results.learning_curves import curve
from suite.results.load import load_runs
from suite.tables.table import Cell, make_table

Record = Callable[..., Path]
SEARCH = {
    "lr": {"low": 0.01, "high": 1.0, "log": True},
    "momentum": {"low": 0.0, "high": 0.9},
    "depth": {"low": 1, "high": 9, "integer": True},
    "rule": {"choices": ["a", "b"]},
}


def read(runs: Path) -> Records:
    return build_records(*load_runs(runs))


def column(records: Records, name: str) -> list[str]:
    table = space_table(records)
    assert table is not None
    return [cell.text for cell in table.frame[name]]


@pytest.fixture
def two(record: Record, runs: Path, training: Any) -> Records:
    """Two problems, two optimizers, one of them diverged."""
    for seed in range(3):
        record("mlp", "sgd", seed, training(final=0.90 + 0.01 * seed, target_step=10 + seed))
        record("mlp", "kfac", seed, training(status="diverged", cut=7, message="NaN"))
        record("cnn", "sgd", seed, training(final=0.50 + 0.01 * seed))
    return read(runs)


def test_the_overview_says_who_is_ahead(two: Records) -> None:
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in overview_table(two).rows}
    assert rows == {
        "cnn": ["accuracy ↑", "1", "3", "3/3", "sgd"],
        "mlp": ["accuracy ↑", "2", "3", "3/6", "sgd"],
    }


def test_every_run_of_a_problem_is_listed_with_what_repeats_it(two: Records) -> None:
    table = runs_table(only(two, "mlp"))
    rows = [
        dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows
    ]
    assert [(row["optimizer"], row["seed"], row["status"]) for row in rows] == [
        *(("sgd", str(seed), "done") for seed in range(3)),
        *(("kfac", str(seed), "diverged") for seed in range(3)),
    ]
    assert [row["final"] for row in rows] == ["0.9000", "0.9100", "0.9200", "—", "—", "—"]
    assert [row["target at step"] for row in rows] == ["10", "11", "12", "—", "—", "—"]
    assert rows[0]["command"] == "python -m suite optimizer=sgd task=mlp seed=0"
    assert rows[3]["command"] == "python -m suite optimizer=kfac task=mlp seed=0 force=true"
    assert all(row["directory"].startswith(f"mlp/{row['optimizer']}/") for row in rows)
    assert rows[0]["seconds"] == "0.2000"


def test_shared_seconds_are_marked_among_the_runs(record: Record, runs: Path) -> None:
    record(summary={"parallel": True})
    assert [cell.text for cell in runs_table(read(runs)).frame["seconds"]] == ["~0.2000"]


def test_numbers_lead_to_the_runs_behind_them(two: Records) -> None:
    links = links_of(two)
    table = main_table(two)
    addresses = {
        row[0].text: links.addresses(table)[place][1:] for place, row in enumerate(table.rows)
    }
    assert addresses == {
        "sgd": ["tasks/cnn.html#runs-sgd", "tasks/mlp.html#runs-sgd"],
        "kfac": ["", "tasks/mlp.html#runs-kfac"],  # cnn was not run with it
    }
    inside = links_of(two, inside=True).addresses(results_table(only(two, "mlp")))
    assert inside[0][:4] == ["mlp.html", "mlp.html#runs-sgd", "", "mlp.html#runs-sgd"]


def test_any_table_of_pairs_has_links_without_asking(two: Records) -> None:
    rows = [
        {"problem": "mlp", "optimizer": "sgd", "a": Cell("1", source=("cnn", "sgd"))},
        {"problem": "no such"},
    ]
    addresses = links_of(two).addresses(
        make_table("t", "T", "C.", [{**one, "a": one.get("a", "")} for one in rows[:1]])
    )
    assert addresses == [["tasks/mlp.html", "tasks/mlp.html#runs-sgd", "tasks/cnn.html#runs-sgd"]]
    unknown = make_table("t", "T", "C.", [{"problem": "no such", "optimizer": "sgd"}])
    assert links_of(two).addresses(unknown) == [["", ""]]


def test_the_records_of_one_problem_keep_nothing_of_another(two: Records) -> None:
    mine = only(two, "cnn")
    assert (mine.problems, mine.optimizers) == (["cnn"], ["sgd"])
    assert set(mine.frame.index) == set(mine.environments)
    assert list(mine.problem_settings) == ["cnn"]
    assert list(mine.optimizer_settings) == [("cnn", "sgd")]
    assert two.problems == ["cnn", "mlp"]


def test_parts_of_the_frame_are_the_filtered_frame(two: Records) -> None:
    frame = two.frame
    assert two.of("mlp").equals(frame[frame["problem"] == "mlp"])
    assert two.pair("mlp", "kfac").equals(
        frame[(frame["problem"] == "mlp") & (frame["optimizer"] == "kfac")]
    )
    assert len(two.pair("cnn", "kfac")) == 0
    assert list(two.of("no such").columns) == list(frame.columns)


def test_search_spaces_and_where_the_values_lie(record: Record, runs: Path) -> None:
    record(
        "mlp",
        "sgd",
        0,
        hyper={"lr": 0.0101, "momentum": 0.5, "depth": 9, "rule": "a", "search": SEARCH},
    )
    record(
        "mlp",
        "adamw",
        0,
        hyper={"lr": 3.0, "rule": "c", "search": {key: SEARCH[key] for key in ("lr", "rule")}},
    )
    record("mlp", "kfac", 0)
    records = read(runs)
    names = ("optimizer", "hyperparameter", "searched", "value", "place")
    assert set(zip(*(column(records, name) for name in names), strict=True)) == {
        ("sgd", "lr", "0.01 to 1 (logarithmic)", "0.0101", "at the edge"),
        ("sgd", "momentum", "0 to 0.9", "0.5", "inside"),
        ("sgd", "depth", "1 to 9 (whole numbers)", "9", "at the edge"),
        ("sgd", "rule", "a, b", "a", "inside"),
        ("adamw", "lr", "0.01 to 1 (logarithmic)", "3", "outside"),
        ("adamw", "rule", "a, b", "c", "outside"),
    }


@pytest.mark.parametrize(
    "search", [None, "wide", {"lr": "wide"}, {"lr": {"low": 1.0, "high": 0.1}}]
)
def test_a_space_that_cannot_be_read_has_no_rows(record: Record, runs: Path, search: Any) -> None:
    record(hyper={"search": search})
    assert space_table(read(runs)) is None


def test_a_problems_page_shows_that_problem_alone(two: Records, tmp_path: Path) -> None:
    write_report(two, tmp_path / "out", "Title <&>", "command")
    index, page = (
        (tmp_path / "out" / name).read_text() for name in ("index.html", "tasks/mlp.html")
    )
    assert "<title>mlp · Title &lt;&amp;&gt;</title>" in page
    assert '<a href="../index.html">Title &lt;&amp;&gt;</a>' in page
    assert '<a href="cnn.html">Previous: cnn</a>' in page
    assert re.findall(r'<section id="([a-z]+)"', page)[-1] == "runs"
    assert 'id="runs-kfac"' in page
    assert "cnn" not in re.sub(r"<nav class=\"beside\".*?</nav>", "", page, flags=re.DOTALL)
    assert ">problem</button>" not in page  # its name is the page's heading
    assert ">problem</button>" in index
    for anchor in (
        "main",
        "results",
        "targets",
        "costs",
        "outcomes",
        "problems",
        "environment",
    ):
        assert f'id="{anchor}"' in index


def test_labels_that_differ_in_punctuation_have_pages_and_figures_of_their_own(
    record: Record, runs: Path, tmp_path: Path, training: Any
) -> None:
    record("a_b", "sgd", 0, training(final=0.3))
    record("a-b", "sgd", 0, training(final=0.7))
    out = tmp_path / "out"
    write_report(read(runs), out, "Title", "command")
    assert {file.name for file in (out / "tasks").iterdir()} == {"a-b.html", "a-b-2.html"}
    first, second = ((out / "tasks" / name).read_text() for name in ("a-b.html", "a-b-2.html"))
    assert ("0.7000 (1)" in first, "0.3000 (1)" in first) == (True, False)
    assert ("0.7000 (1)" in second, "0.3000 (1)" in second) == (False, True)
    pictures = [re.findall(r'src="(data:[^"]+)"', page) for page in (first, second)]
    assert pictures[0][0] != pictures[1][0]


def test_long_tables_of_pairs_are_folded_on_the_overall_page_only(two: Records) -> None:
    rows = [{"problem": "mlp", "optimizer": "sgd", "n": str(number)} for number in range(13)]

    def page(rows: list[dict[str, str]], *, inside: bool) -> str:
        block = Block("s", "S", Content([make_table("t", "T", "C.", rows)]))
        return render_page(Page("P", [], [block]), links_of(two, inside=inside))

    assert "Show all 13 rows" in page(rows, inside=False)
    assert "<details>" not in page(rows[:12], inside=False)
    assert "<details>" not in page(rows, inside=True)
    assert "<details>" not in page([{"n": str(number)} for number in range(40)], inside=False)


def test_names_between_backquotes_are_code_and_everything_else_is_text(two: Records) -> None:
    block = Block("s", "S", Content(note="`<b>` & <i>", lines=["one `x`"]))
    page = render_page(Page("P", [], [block]), links_of(two))
    assert "<p><code>&lt;b&gt;</code> &amp; &lt;i&gt;</p>" in page
    assert "<li>one <code>x</code></li>" in page


def test_only_what_the_list_names_inside_its_folders_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("tasks/old.html", "tasks/notes.txt", "main.tex", "../outside.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("text")
    list_files(out, [out / "tasks" / "old.html", out / "main.tex"])
    with (out / "files.txt").open("a") as file:
        file.write("tasks/../../outside.txt\n")
    remove_previous(out, ("tasks",))
    left = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"out/tasks/notes.txt", "out/main.tex", "out/files.txt", "outside.txt"}


def test_window_medians_skip_what_is_not_known(two: Records) -> None:
    runs = two.pair("mlp", "sgd").iloc[:1]
    index = int(runs.index[0])
    history = two.histories[index].copy()
    history.loc[history["step"] == 2, "seconds"] = float("nan")
    middle = curve(runs, {index: history}, "loss", 1).middle
    assert middle["seconds"].isna().tolist() == [step == 2 for step in middle["step"]]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_window_medians_are_those_of_pandas(two: Records, steps: int) -> None:
    random = np.random.default_rng(0)
    history = pd.DataFrame(
        random.random((200, 4)), columns=["loss", "seconds", "grad_equivalents", "step"]
    )
    history["step"] = np.arange(200.0)
    history.loc[::7, "loss"] = np.inf
    runs = two.pair("mlp", "sgd").iloc[:1]
    middle = curve(runs, {int(runs.index[0]): history}, "loss", steps).middle
    known = history[np.isfinite(history["loss"])]
    bins = known["step"].where(known["step"] <= 40, 40 + np.ceil((known["step"] - 40) / steps))
    expected = known.groupby(bins).median()
    assert np.array_equal(middle["value"], expected["loss"])
    assert np.array_equal(middle["seconds"], expected["seconds"])
