"""Runs of two processes, started as torchrun starts them."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.suite.ranks_cases import CNN, MLP, Train, agree

COMMON = ("scale=quick", "threads=1", "device=cpu", "wandb.mode=disabled", "~tuned")


PARALLEL = ("adamw", "kfac", "shampoo", "soap")


FAULTY = """
import os, pathlib, signal, time
import torch
import suite.training.distributed
suite.training.distributed.GRACE = 1.0

class Faulty(torch.optim.SGD):
    def __init__(self, params, lr=0.1, weight_decay=0.0, how=""):
        super().__init__(params, lr=lr)
        self.how = how
        self.taken = 0

    def step(self, closure):
        self.taken += 1
        second = os.environ.get("RANK") == "1"
        if self.how == "raise" and second and self.taken == 4:
            raise ValueError("a fault of this rank")
        if self.how == "kill" and second and self.taken == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hang" and second and self.taken == 4:
            pathlib.Path("hanging").touch()
            time.sleep(100)
        if self.how == "apart" and second:
            self.param_groups[0]["lr"] *= 1.0001
        if self.how == "slow":
            time.sleep(0.05)
            while self.taken >= 20 and not pathlib.Path("asked").exists():
                time.sleep(0.05)
        return super().step(closure)

class Layered(torch.optim.SGD):
    needs = frozenset({"layers"})
"""


@dataclass(frozen=True)
class Ended:
    """One process that has ended."""

    code: int
    out: str
    err: str


@contextmanager
def started(
    root: Path, folder: Path, words: Sequence[str], size: int = 2
) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of one run, started as torchrun starts them; none of them outlives the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    processes = []
    try:
        for rank in range(size):
            own = {
                name: str(value)
                for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()
            }
            paths = os.pathsep.join([str(folder / "modules"), str(root)])
            process = subprocess.Popen(
                [sys.executable, "-m", "suite", *words, *COMMON],
                cwd=folder,
                env={**os.environ, **own, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    outputs = [process.communicate(timeout=90) for process in processes]
    return [
        Ended(process.returncode, *streams)
        for process, streams in zip(processes, outputs, strict=True)
    ]


@pytest.fixture
def together(root: Path, tmp_path: Path) -> Callable[..., list[Ended]]:
    """Carry out a run by two processes."""

    def carry_out(*words: str) -> list[Ended]:
        with started(root, tmp_path, words) as processes:
            return ended(processes)

    return carry_out


@pytest.fixture
def faulty(module: Callable[[str, str], str]) -> Callable[[str], tuple[str, ...]]:
    """What asks for an optimizer that does something unforeseen on the second rank."""
    name = module("faulty", FAULTY)
    return lambda how: (
        "optimizer=sgd",
        f"optimizer._target_={name}.Faulty",
        f"+optimizer.how={how}",
        f"allow=[{name}]",
        *MLP,
    )


def record(results: Path, size: int = 2) -> Path:
    """The one run's directory with this number of processes."""
    files = [path.parent for path in results.glob("runs/*/*/*/config.yaml")]
    (one,) = [
        path
        for path in files
        if yaml.safe_load((path / "config.yaml").read_text())["world_size"] == size
    ]
    return one


def read(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "summary.json").read_text()))


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- in two processes ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_make_the_steps_of_one(
    name: str, train: Train, together: Callable[..., list[Ended]], results: Path
) -> None:
    one = train(f"optimizer={name}", *CNN, "~tuned")
    first, second = together(f"optimizer={name}", *CNN)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == ""
    assert f"{name} on cnn, seed 0, 2 ranks: done" in first.out
    agree(rows(record(results)), one.rows, 1e-5)
    summary = read(record(results))
    assert summary["final_loss"] == pytest.approx(one.summary["final_loss"], rel=1e-5)
    assert (summary["world_size"], one.summary["world_size"]) == (2, 1)
    assert json.loads((record(results) / "environment.json").read_text())["world_size"] == 2
    assert {path.name for path in record(results).iterdir()} == {
        path.name for path in one.directory.iterdir()
    }


PARTING = """
import atexit, sys, weakref
import torch
import torch.distributed as dist

def tell(group):
    print("group gone" if group() is None else "group kept", file=sys.stderr)

class Parting(torch.optim.SGD):
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, lr=lr)
        atexit.register(tell, weakref.ref(dist.group.WORLD))
"""


@pytest.mark.slow
def test_nothing_keeps_the_group_of_a_run_that_has_ended(
    module: Callable[[str, str], str], together: Callable[..., list[Ended]]
) -> None:
    """A kept group's threads outlive the interpreter, and now and then abort the process instead of
    ending it."""
    name = module("parting", PARTING)
    done = together(
        "optimizer=sgd", f"optimizer._target_={name}.Parting", f"allow=[{name}]", "steps=2", *MLP
    )

    assert [one.code for one in done] == [0, 0]
    assert all("group gone" in one.err and "group kept" not in one.err for one in done), done


@pytest.mark.slow
def test_torchrun_starts_it(root: Path, tmp_path: Path, results: Path) -> None:
    words = (
        "optimizer=adamw",
        "task=cnn",
        "steps=4",
        "task.batch_norm=true",
        "task.eval_every=2",
        *COMMON,
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "suite",
            *words,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adamw on cnn") == 1
    assert (
        "batch normalisation saw the share of each of the 2 ranks"
        in read(record(results))["message"]
    )
    config = yaml.safe_load((record(results) / "config.yaml").read_text())
    assert config["command"].startswith("torchrun --nproc-per-node 2 -m suite optimizer=adamw")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "codes", "message"),
    [
        (
            "raise",
            (1, 1),
            r"one of the 2 ranks has ended .*; rank 1: error: ValueError: a fault of this rank",
        ),
        (
            "kill",
            (1, -signal.SIGKILL),
            r"one of the 2 ranks has ended or does not answer \(.*Connection .*\)",
        ),
        ("apart", (1, 1), r"RuntimeError: the ranks' parameters have come apart by step 5.*"),
    ],
)
def test_a_fault_of_one_rank_ends_all(
    how: str,
    codes: tuple[int, int],
    message: str,
    together: Callable[..., list[Ended]],
    faulty: Callable[[str], tuple[str, ...]],
    results: Path,
) -> None:
    # which waits for a shorter time than torch's own timeout
    first, second = together(*faulty(how), "steps=20")

    assert (first.code, second.code) == codes, first.err + second.err
    summary = read(record(results))
    assert summary["status"] == "error"
    assert re.fullmatch(message, summary["message"])
    assert ("a fault of this rank" in second.err) == (how == "raise")
    assert ": error, " in first.out


@pytest.mark.slow
def test_a_rank_that_waits_for_one_that_hangs_can_be_ended(
    root: Path, tmp_path: Path, faulty: Callable[[str], tuple[str, ...]], results: Path
) -> None:
    with started(root, tmp_path, (*faulty("hang"), "steps=20")) as (first, second):
        while not (tmp_path / "hanging").exists():
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        output = first.communicate(timeout=90)
        assert second.poll() is None  # it hangs still
    assert first.returncode == 1, output
    summary = read(record(results))
    assert (summary["status"], summary["steps"]) == ("error", 3)
    assert summary["message"] == "asked to end, and another rank has not answered for 1 s"


@pytest.mark.slow
def test_an_interruption_of_one_rank_stops_all_at_one_step_and_the_resumed_run_is_unbroken(
    root: Path,
    tmp_path: Path,
    together: Callable[..., list[Ended]],
    faulty: Callable[[str], tuple[str, ...]],
    results: Path,
) -> None:
    words = (*faulty("slow"), "steps=40")
    with started(root, tmp_path, words) as processes:
        while not list(results.glob("runs/*/*/*/checkpoint.pt")):
            assert processes[0].poll() is None, processes[0].communicate()
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGINT)
        processes[1].send_signal(signal.SIGINT)  # torchrun repeats it
        (tmp_path / "asked").touch()
        assert [end.code for end in ended(processes)] == [130, 130]
    broken = read(record(results))
    assert broken["status"] == "interrupted"
    assert 0 < broken["steps"] < 40
    before = rows(record(results))

    assert [end.code for end in together(*words)] == [0, 0]
    resumed = rows(record(results))
    assert resumed[: len(before)] == before
    first, second = together(*words)  # done before, and looked up by both
    assert (first.code, second.code, second.out) == (0, 0, "")
    assert "done before, skipped" in first.out
    assert [end.code for end in together(*words, "force=true")] == [0, 0]
    agree(resumed, rows(record(results)), 0.0)


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused_before_training(
    together: Callable[..., list[Ended]], module: Callable[[str, str], str], results: Path
) -> None:
    name = module("faulty", FAULTY)
    target = ("optimizer=sgd", f"optimizer._target_={name}.Layered", f"allow=[{name}]")
    for words, message in (
        ((*target, *MLP), r"sgd records layers, .* run it in one process"),
        (
            ("optimizer=newton", "task=quadratic"),
            r"1 example cannot be shared out over 2 ranks; .*",
        ),
    ):
        assert [end.code for end in together(*words, "steps=3")] == [2, 2]
        (directory,) = [path.parent for path in results.glob("runs/*/*/*/summary.json")]
        summary = read(directory)
        assert (summary["status"], summary["steps"]) == ("unsupported", 0)
        assert re.fullmatch(message, summary["message"])
        (directory / "summary.json").unlink()
