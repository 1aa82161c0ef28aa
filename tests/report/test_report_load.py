"""Reading run directories.

What is there is read, what is broken is named, what has not ended is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.results.load import load_runs
from suite.results.run import UNFINISHED

Record = Callable[..., Path]


def test_a_good_run(record: Record, runs: Path, training: Any) -> None:
    record("mlp", "kfac", 3, training(final=0.95, steps=10, message="fine"))
    (run,), damaged = load_runs(runs)
    assert not damaged
    assert (run.task, run.optimizer, run.seed, run.status, run.message) == (
        "mlp",
        "kfac",
        3,
        "done",
        "fine",
    )
    assert run.number("final_accuracy") == 0.95
    assert list(run.history["step"]) == list(range(11))


def test_a_run_without_summary_is_interrupted_and_keeps_what_it_wrote(
    record: Record, runs: Path, training: Any
) -> None:
    path = record("mlp", "sgd", 0, training(status="unfinished", steps=10, cut=6))
    with (path / "history.csv").open("a") as file:
        file.write("7,0.7,0.07,0.")  # the kill came in the middle of a line
    (run,), damaged = load_runs(runs)
    assert not damaged
    assert (run.status, run.message) == ("interrupted", UNFINISHED)
    assert run.history["step"].iloc[-1] == 6


def test_an_unsupported_run_needs_no_history(record: Record, runs: Path, training: Any) -> None:
    path = record("mlp", "newton", 0, training(status="unsupported", message="too many parameters"))
    (path / "history.csv").unlink()
    (run,), damaged = load_runs(runs)
    assert (run.status, len(run.history), damaged) == ("unsupported", 0, [])


def _remove(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / name).write_text(text)

    return change


DAMAGES = {
    "config.yaml is missing": _remove("config.yaml"),
    "config.yaml is not YAML": _write("config.yaml", "a: [1"),
    "config.yaml is not a mapping": _write("config.yaml", "- 1"),
    "config.yaml has no usable 'optimizer'": _write("config.yaml", "seed: 1\ntask: {}\n"),
    "config.yaml has no usable 'seed'": _write(
        "config.yaml", "optimizer: {}\ntask: {}\nseed: many\n"
    ),
    "summary.json is not JSON": _write("summary.json", '{"status": "do'),
    "summary.json is not a mapping": _write("summary.json", "[]"),
    "summary.json has no status": _write("summary.json", '{"steps": 3}'),
    "environment.json is not JSON": _write("environment.json", "{"),
    "history.csv is missing or empty": _remove("history.csv"),
    "history.csv is not a table of numbers": _write(
        "history.csv", "step,seconds,loss,grad_equivalents\n1,2,x,4\n"
    ),
    "history.csv lacks the column 'loss'": _write(
        "history.csv", "step,seconds,grad_equivalents\n1,2,4\n"
    ),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_read(
    record: Record, runs: Path, reason: str
) -> None:
    record(seed=0)
    broken = record(seed=1)
    DAMAGES[reason](broken)
    good, (damage,) = load_runs(runs)
    assert [run.seed for run in good] == [0]
    assert damage.path == broken.relative_to(runs).as_posix()
    assert damage.reason.startswith(reason)


def test_control_characters_do_not_reach_a_terminal(
    record: Record, runs: Path, training: Any
) -> None:
    record(training=training(status="error", message="bad\x1b[31m\nthing\x07"))
    (run,), _ = load_runs(runs)
    assert run.message == "bad [31m thing"


def test_null_and_odd_values_are_not_numbers(record: Record, runs: Path) -> None:
    path = record()
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(
        json.dumps({**summary, "target": None, "final_accuracy": "high"})
    )
    (run,), _ = load_runs(runs)
    assert run.number("target") != run.number("target")
    assert run.number("final_accuracy") != run.number("final_accuracy")


def test_a_missing_folder_holds_no_runs(tmp_path: Path) -> None:
    assert load_runs(tmp_path / "nowhere") == ([], [])
