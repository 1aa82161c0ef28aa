"""What needs a process of its own.

A kill, Ctrl-C at a terminal, a machine without home, network or account.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

Command = Callable[..., Any]
RUN = ("optimizer=adam", "task=mlp", "task.eval_every=20", "steps=1500", "~tuned")
COMMON = ("scale=quick", "threads=1", "device=cpu")

pytestmark = pytest.mark.slow


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@contextmanager
def running(root: Path, results: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The command in its own process, from the moment its first checkpoint is there, and the run's
    directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "suite", *RUN, *COMMON, "wandb.mode=disabled"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while not (files := list(results.glob("runs/mlp/adam/*/checkpoint.pt"))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "no checkpoint after two minutes"
            time.sleep(0.005)
        yield process, files[0].parent
    finally:
        process.kill()
        process.communicate()


def test_a_killed_run_resumes_and_equals_an_unbroken_one(
    command: Command, results: Path, root: Path
) -> None:
    with running(root, results) as (process, directory):
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (directory / "summary.json").exists()
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)["numbers"]["step"]
    assert 0 < saved < 1500
    before = [row for row in rows(directory) if int(row["step"]) <= saved]

    assert command(*RUN).code == 0
    resumed = rows(directory)
    summary = json.loads((directory / "summary.json").read_text())
    assert resumed[: len(before)] == before  # its seconds, too: these steps were not taken again
    assert (summary["status"], summary["steps"]) == ("done", 1500)

    assert command(*RUN, "force=true").code == 0
    unbroken = rows(directory)
    assert unbroken[:10] != resumed[:10]
    assert without_seconds(unbroken) == without_seconds(resumed)


def test_ctrl_c_finishes_the_step_saves_and_leaves_with_130(
    command: Command, results: Path, root: Path
) -> None:
    with running(root, results) as (process, directory):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    summary = json.loads((directory / "summary.json").read_text())
    saved = torch.load(directory / "checkpoint.pt", weights_only=True)["numbers"]["step"]

    assert process.returncode == 130
    assert "interrupted" in out
    assert "Traceback" not in err
    assert summary["status"] == "interrupted"
    assert 0 < summary["steps"] == saved < 1500
    before = rows(directory)
    # no evaluated row is missing
    assert int(before[-1]["step"]) <= saved < int(before[-1]["step"]) + 20

    assert command(*RUN).code == 0
    assert rows(directory)[: len(before)] == before
    assert json.loads((directory / "summary.json").read_text())["status"] == "done"


def test_without_home_network_or_account_a_run_works_and_its_mirror_can_be_read(
    results: Path, root: Path, tmp_path: Path
) -> None:
    """HOME is a file, so nothing can be made below it; every proxy refuses.

    The directory is not the repository's.
    """
    nowhere = "http://127.0.0.1:9"
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "WANDB_", "TORCH"))
        },
        **{
            "HOME": "/dev/null",
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "PYTHONPATH": str(root),
        },
    }
    words = ("optimizer=sgd", "task=quadratic", "steps=6", "task.eval_every=2", *COMMON)
    done = subprocess.run(
        [sys.executable, "-m", "suite", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert (done.returncode, done.stderr) == (0, "")
    (directory,) = results.glob("runs/quadratic/sgd/*")
    names = {path.name for path in directory.iterdir()}
    assert names == {
        *("config.yaml", "history.csv", "summary.json", "environment.json", "checkpoint.pt"),
        "wandb",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    (mirror,) = directory.glob("wandb/offline-run-*/*.wandb")
    assert mirror.stem == f"run-{directory.name}"

    inspected = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(mirror)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    records = [json.loads(line) for line in inspected.stdout.splitlines() if line.startswith("{")]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    evaluated = [row for row in rows(directory) if row["val/gap"]]
    assert [item["step"] for item in history] == [0, 2, 4, 6]
    assert [item["val/gap"] for item in history] == [float(row["val/gap"]) for row in evaluated]
    assert "test/gap" in history[-1]
    updates: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            updates |= record["summary"]["update"]
    summary = json.loads((directory / "summary.json").read_text())
    assert (updates["status"], updates["final_gap"]) == ("done", summary["final_gap"])
    assert records[-1]["exit"]["exit_code"] == 0
