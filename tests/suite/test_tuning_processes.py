"""Studies that are interrupted, or shared by several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest

from suite import paths
from suite.tune import load_trials

SMALL = ["task=quadratic", "scale=quick", "task.steps=5"]
FORK = multiprocessing.get_context("fork")


def runs(home: Path, pair: str) -> list[Path]:
    return sorted((home / "tune" / "runs" / pair).iterdir())


# -- interruptions and company ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trial_ends_the_study_and_is_gone_on_with(
    tune_command: Callable[..., Any],
    home: Path,
    at_batch: Callable[..., Any],
    planned: Callable[..., Any],
    number: Any,
) -> None:
    words = ["optimizer=sgd", "task=quadratic", "trials=2", "jobs=1", "scale=quick", "task.steps=9"]
    with at_batch(planned("task=quadratic"), 5, lambda: signal.raise_signal(number)):
        code, _, err = tune_command(*words)
    assert code == 130
    assert "The same command goes on where this one stopped." in err
    assert not (home / "tuned").exists()
    (run,) = runs(home, "quadratic/sgd")
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"

    code, output, _ = tune_command(*words)
    assert code == 0
    assert "[2/2]" in output
    assert set(load_trials(home)["status"]) == {"done"}
    with (run / "history.csv").open() as file:
        steps = [line.split(",")[0] for line in file][1:]
    assert steps == [str(step) for step in range(10)]  # gone on with, not begun anew


def test_a_process_killed_in_mid_trial_leaves_it_to_the_next(
    tune_command: Callable[..., Any],
    home: Path,
    at_batch: Callable[..., Any],
    planned: Callable[..., Any],
) -> None:
    words = ["optimizer=sgd", "task=quadratic", "trials=3", "jobs=1", "scale=quick", "task.steps=9"]
    marker = home / "at_work"

    def hang() -> None:
        marker.touch()
        time.sleep(600)

    with at_batch(planned("task=quadratic"), 5, hang):
        child = FORK.Process(target=tune_command, args=words)
        child.start()
        deadline = time.monotonic() + 300
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert marker.exists()
        os.kill(int(child.pid or 0), signal.SIGKILL)
        child.join()
    assert len(load_trials(home)) == 0

    code, output, _ = tune_command(*words)
    assert code == 0
    assert [line.split("]")[0] for line in output.splitlines() if line.startswith("[")] == [
        "[1/3",
        "[2/3",
        "[3/3",
    ]
    assert list(load_trials(home)["number"]) == [0, 1, 2]
    assert len(runs(home, "quadratic/sgd")) == 3
    (journal,) = (home / "tune" / "studies").glob("*.journal")
    assert journal.read_text().count('"attempts":2') == 1
    assert not list((home / "tune" / "studies" / "workers").glob(f"*-{os.getpid()}-*"))


def test_two_commands_at_once_share_one_study(
    tune_command: Callable[..., Any],
    home: Path,
    at_batch: Callable[..., Any],
    planned: Callable[..., Any],
) -> None:
    words = ["optimizer=sgd", "task=quadratic", "trials=6", "jobs=1", "scale=quick", "task.steps=5"]
    started = FORK.Barrier(2)

    def wait() -> None:
        with suppress(
            BrokenBarrierError
        ):  # broken by its timeout, or by nobody else being at a trial any more
            started.wait(60)

    with at_batch(planned("task=quadratic"), 3, wait):
        children = [FORK.Process(target=tune_command, args=words) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
    assert [child.exitcode for child in children] == [0, 0]
    (journal,) = (home / "tune" / "studies").glob("*.journal")
    begun = [line for line in journal.read_text().splitlines() if '"attempts":1' in line]
    owners = {json.loads(line)["user_attrs"]["owner"]["name"] for line in begun}
    assert len(begun) == len(runs(home, "quadratic/sgd")) == 6
    assert len(owners) == 2  # both took part
    assert list(load_trials(home)["number"]) == list(range(6))
    assert (home / "tuned" / "quadratic_sgd.yaml").exists()


@pytest.mark.slow
def test_two_jobs_find_what_one_finds(tune_command: Callable[..., Any], home: Path) -> None:
    code, output, _ = tune_command("optimizer=sgd,kfac", *SMALL, "trials=3", "jobs=2")
    assert code == 0, output
    parallel = load_trials(home)
    assert {
        json.loads((Path(path) / "summary.json").read_text())["parallel"]
        for path in parallel["path"]
    } == {True}
    for name in ("studies", "runs"):
        (home / "tune" / name).rename(home / f"{name}_of_two")
    tune_command("optimizer=sgd,kfac", *SMALL, "trials=3", "jobs=1")
    alone = load_trials(home)
    same = [name for name in alone.columns if name != "seconds"]
    assert alone[same].astype(str).equals(parallel[same].astype(str))


@pytest.mark.slow
def test_a_broken_file_ends_all_jobs_and_is_said_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def model(:\n")
    words = [
        "optimizer=sgd",
        "task=custom",
        f"task.file={tmp_path / 'broken.py'}",
        "steps=2",
        "trials=5",
        "jobs=2",
    ]
    command = [sys.executable, "-m", "suite.tune", *words, f"out={home / 'tuned'}"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2
    assert done.stderr.count("broken.py") == 1
    assert "Traceback" not in done.stderr
    assert not (home / "tuned").exists()
