"""What a finished run leaves on disk: the files, their keys, the columns; and how they are
written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.files import digest, to_json, write_atomically
from suite.results.directory import History, RunRecord
from suite.results.status import Status
from suite.training.measures import oracle_costs

Train = Callable[..., Any]

FILES = {"config.yaml", "history.csv", "summary.json", "environment.json", "checkpoint.pt"}
SUMMARY = (
    "status task optimizer seed steps seconds seconds_per_step final_loss best_{0} final_{0} "
    "target target_step target_seconds target_grad_equivalents counts state_bytes "
    "peak_memory_bytes parallel world_size message"
)
HISTORY = (
    "step epoch seconds loss lr value grad hvp ggnvp jac grad_equivalents val/{0} "
    "val/{1} test/{0} test/{1}"
)


@pytest.mark.parametrize(
    ("pair", "metric"),
    [
        (("optimizer=sgd", "task=quadratic"), "gap"),
        (("optimizer=kfac", "task=mlp", "task.hidden=[8]"), "accuracy"),
    ],
)
def test_a_run_leaves_exactly_the_files_keys_and_columns_of_the_contract(
    train: Train, pair: tuple[str, ...], metric: str
) -> None:
    done = train(*pair, "steps=4", "task.eval_every=2")

    assert {path.name for path in done.directory.iterdir()} == FILES
    keys = list(json.loads((done.directory / "summary.json").read_text()))
    assert ("coverage" in keys) == (done.plan.optimizer == "kfac")  # which has several rules
    assert [key for key in keys if key != "coverage"] == SUMMARY.format(metric).split()
    assert sorted(done.rows[0]) == sorted(HISTORY.format(metric, "loss").split())


def test_the_directory_is_named_after_task_optimizer_and_identity(
    train: Train, results: Path
) -> None:
    done = train("optimizer=sgd", "task=quadratic", "steps=2")

    assert done.directory == results / "runs" / "quadratic" / "sgd" / done.plan.run_id
    assert len(done.plan.run_id) == 8
    assert set(done.plan.run_id) <= set("0123456789abcdef")


def test_the_history_has_a_row_for_each_logged_step_and_metrics_at_evaluations(
    train: Train,
) -> None:
    done = train("optimizer=sgd", "task=mlp", "steps=10", "task.eval_every=5", "log_every=2")

    assert [int(row["step"]) for row in done.rows] == [0, 2, 4, 5, 6, 8, 10]
    assert [row["step"] for row in done.rows if row["val/accuracy"]] == ["0", "5", "10"]
    assert [row["step"] for row in done.rows if row["val/loss"]] == ["0", "5", "10"]
    assert [row["step"] for row in done.rows if row["test/accuracy"]] == ["10"]
    assert [row["step"] for row in done.rows if row["loss"] == ""] == ["0"]
    first, last = done.rows[0], done.rows[-1]
    assert (first["epoch"], first["seconds"], first["grad"]) == ("0.0", "0.0", "0")
    assert float(first["lr"]) == float(last["lr"]) == done.config["optimizer"]["lr"]
    assert float(last["epoch"]) == pytest.approx(10 / (9500 // 128), abs=1e-3)


def test_the_last_row_and_the_summary_agree(train: Train) -> None:
    done = train("optimizer=adam", "task=mlp", "steps=6", "task.eval_every=2")
    last = done.rows[-1]

    assert done.summary["final_accuracy"] == float(last["val/accuracy"])
    assert done.summary["best_accuracy"] == max(done.column("val/accuracy"))
    assert done.summary["final_loss"] == float(last["loss"])
    assert done.summary["steps"] == int(last["step"]) == 6
    assert done.summary["seconds"] == float(last["seconds"]) > 0
    assert done.summary["seconds_per_step"] == pytest.approx(done.summary["seconds"] / 6, rel=1e-3)
    assert done.summary["counts"] == {"value": 6, "grad": 6}


def test_counts_never_fall_and_are_weighted_by_the_measured_costs(train: Train) -> None:
    done = train(
        "optimizer=ggn_cg", "task=autoencoder", "task.widths=[8,4]", "steps=4", "task.eval_every=2"
    )
    weights = done.environment["oracle_costs"]

    for name in ("seconds", "value", "grad", "ggnvp", "grad_equivalents"):
        assert done.column(name) == sorted(done.column(name)), name
    assert int(done.rows[-1]["ggnvp"]) > 4
    assert weights["value"] + weights["grad"] == pytest.approx(1)
    for row in done.rows:
        counts = {name: int(row[name]) for name in ("value", "grad", "hvp", "ggnvp", "jac")}
        expected = sum(number * weights.get(name, 0) for name, number in counts.items())
        assert float(row["grad_equivalents"]) == pytest.approx(expected, abs=1e-3)
        assert oracle_costs.grad_equivalents(counts, weights) == pytest.approx(expected)


def test_a_gradient_step_costs_one_gradient(train: Train) -> None:
    done = train("optimizer=sgd", "task=mlp", "steps=7", "task.eval_every=3", "log_every=1")

    assert (
        done.column("grad_equivalents")
        == done.column("step")
        == done.column("value")
        == done.column("grad")
    )


def test_the_first_steps_are_logged_one_by_one_and_the_others_about_two_hundred_times(
    train: Train,
) -> None:
    done = train("optimizer=sgd", "task=quadratic", "steps=1500", "task.eval_every=700")

    steps = [int(row["step"]) for row in done.rows]
    assert steps[:104] == [*range(101), 105, 112, 119]
    assert {700, 1400, 1500} <= set(steps)
    assert len(steps) <= 101 + 1500 // 7 + 3


def test_the_configuration_is_recorded_as_it_was_resolved(train: Train) -> None:
    done = train("optimizer=sgd", "task=quadratic", "steps=3", experiment="mine")

    assert done.config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert done.config["task"]["dimension"] == 100
    assert (done.config["device"], done.config["precision"], done.config["experiment"]) == (
        "cpu",
        "float64",
        "mine",
    )
    assert (done.config["metric"], done.config["direction"]) == ("gap", "min")
    assert done.config["command"] == "python -m suite optimizer=sgd task=quadratic steps=3"
    assert "${" not in (done.directory / "config.yaml").read_text()


def test_the_environment_says_what_the_numbers_depend_on(train: Train, root: Path) -> None:
    environment = train("optimizer=sgd", "task=quadratic", "steps=3").environment

    assert set(environment) == {
        *(
            "python",
            "platform",
            "packages",
            "cpu",
            "cores",
            "threads",
            "world_size",
            "gpu",
            "cuda",
            "git_commit",
        ),
        "oracle_costs",
    }
    assert environment["packages"]["torch"]
    assert environment["threads"] == 1
    assert environment["gpu"] is None
    if (root / ".git").exists():
        assert len(environment["git_commit"].removesuffix("+")) == 40


def test_nothing_is_printed_while_nobody_looks_at_a_terminal(
    train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    train("optimizer=sgd", "task=quadratic", "steps=20")

    printed = capfd.readouterr()
    assert printed.out == ""
    assert "sgd" not in printed.err


@pytest.mark.parametrize("content", ["new", b"new"])
def test_an_atomic_write_replaces_the_file(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, "old")
    write_atomically(path, content)

    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("broken", ["replace", "fdopen"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "run" / "summary.json"
    path.parent.mkdir()
    path.write_text("old")

    def full(*_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")

    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["summary.json"]


def test_numbers_that_are_not_finite_become_null() -> None:
    written = to_json(
        {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}, "e": True, "f": (1, None)}
    )

    assert json.loads(written, parse_constant=pytest.fail) == {
        **{"a": None, "b": [None, 1.5], "c": {"d": None}, "e": True, "f": [1, None]}
    }


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_rows_reach_the_disk_at_a_flush_and_keep_their_columns(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", ["loss"])
    history.add({"step": 1, "loss": 0.5})
    assert not history.path.exists()
    history.flush()
    history.add({"step": 2, "loss": 0.1 + 0.2, "val/loss": 1e-300})
    history.flush()

    header, first, second = history.path.read_text().splitlines()
    assert header.split(",")[-2:] == ["val/loss", "test/loss"]
    assert first.split(",")[:4] == ["1", "", "", "0.5"]
    assert second.split(",")[3] == "0.30000000000000004"
    assert second.split(",")[-2:] == ["1e-300", ""]


def test_rewinding_drops_later_rows_and_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", ["loss"])
    for step in (10, 20, 110, 120):
        history.add({"step": step, "loss": step / 7})
    history.flush()
    whole = history.path.read_text().splitlines(keepends=True)
    with history.path.open("a") as file:
        file.write("12")  # the first bytes of step 125's row look like an earlier step

    history.rewind(110)

    assert history.path.read_text().splitlines() == [line.strip() for line in whole[:4]]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "unheard of"}', '{"steps": 3}'])
def test_a_damaged_summary_counts_as_no_summary(tmp_path: Path, content: str) -> None:
    record = RunRecord(tmp_path)
    record.summary.write_text(content)

    assert record.status() is None


def test_a_fresh_beginning_removes_what_an_earlier_run_left_and_a_resumption_keeps_it(
    tmp_path: Path,
) -> None:
    record = RunRecord(tmp_path / "run")
    for resume, present in ((True, True), (False, False)):
        record.directory.mkdir(exist_ok=True)
        for path in (record.history, record.checkpoint, record.summary):
            path.write_text("earlier")
        record.begin({"a": [1, "ü"]}, {"cores": 2}, resume=resume)
        assert record.history.exists() == record.checkpoint.exists() == record.resumable == present
        assert record.status() is None
    assert yaml.safe_load(record.config.read_text()) == {"a": [1, "ü"]}
    assert json.loads(record.environment.read_text()) == {"cores": 2}


def test_a_skipped_run_joins_the_experiment_that_asks_for_it(tmp_path: Path) -> None:
    record = RunRecord(tmp_path)
    record.begin({"seed": 0, "experiment": None}, {}, resume=False)
    record.join_experiment("quick")
    assert yaml.safe_load(record.config.read_text()) == {"seed": 0, "experiment": "quick"}
    record.join_experiment(None)
    assert yaml.safe_load(record.config.read_text())["experiment"] == "quick"


def test_every_status_is_either_final_or_tried_again() -> None:
    again = {status for status in Status if not status.final}
    assert again == {Status.OOM, Status.ERROR, Status.INTERRUPTED}
    assert {status.value for status in Status} == {
        *("done", "target", "diverged", "timeout", "oom", "unsupported", "error", "interrupted")
    }
