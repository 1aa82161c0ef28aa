"""Weights & Biases: offline files and runs on a server become runs."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite.importers import wandb
from suite.importers.foreign import ImportFaultError
from suite.results.frame import build_records
from suite.stats import time_to_target

# -- Weights & Biases ------------------------------------------------------------------------------


def piece(kind: int, content: bytes) -> bytes:
    return struct.pack("<IHB", zlib.crc32(bytes([kind]) + content), len(content), kind) + content


def test_an_offline_run_of_this_suite_comes_back(offline: Path) -> None:
    (run,) = wandb.read(offline.parents[2])
    assert (run.task, run.optimizer, run.seed, run.status) == ("mlp", "sgd", 3, "done")
    assert run.path.as_posix() == "mlp/sgd/0a1b2c3d"
    assert run.config["optimizer"]["betas"] == [0.9, 0.99]
    assert run.config["task"]["note"] == "x" * 40_000
    assert list(run.history["step"]) == [0, 10, 20, 30, 40]
    assert list(run.history["val/accuracy"]) == [0, 0.2, 0.4, 0.6, 0.8]
    assert run.history["loss"].isna().tolist() == [True, False, False, False, False]
    assert run.number("target_step") == 30
    assert time_to_target(run.history, 0.5, "max", metric="val/accuracy") == 15.0
    assert list(build_records([run], []).frame["final"]) == [0.8]


def test_a_run_that_was_cut_off_keeps_what_it_had(offline: Path) -> None:
    content = offline.read_bytes()
    offline.write_bytes(content[:-400])
    (run,) = wandb.read(offline)
    assert 0 < len(run.history) <= 5


def test_a_damaged_file_is_told_from_one_that_was_cut_off(offline: Path) -> None:
    content = bytearray(offline.read_bytes())
    content[300] ^= 1
    offline.write_bytes(bytes(content))
    with pytest.raises(ImportFaultError, match="is damaged at byte"):
        wandb.read(offline)
    offline.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ImportFaultError, match="is no file of an offline run"):
        wandb.read(offline)


def test_pieces_of_records_are_put_together(tmp_path: Path) -> None:
    header = wandb.MAGIC
    room = wandb.BLOCK - len(header) - 7
    body = piece(1, b"a" * (room - 3))  # leaves three bytes, too few for a header
    start = header + body + b"\0\0\0" if (len(header) + len(body)) % wandb.BLOCK else header + body
    start += b"\0" * (-len(start) % wandb.BLOCK)
    file = tmp_path / "run-x.wandb"
    file.write_bytes(
        start + piece(2, b"one ") + piece(3, b"two ") + piece(4, b"three") + piece(1, b"four")
    )
    assert list(wandb._records(file))[1:] == [b"one two three", b"four"]


def test_runs_on_a_server_are_read_through_its_api() -> None:
    rows = [
        {"_step": k, "_runtime": 2.0 * k, "train/loss": 1 / (k + 1), "val_acc": 0.1 * k}
        for k in range(5)
    ]
    rows[-1]["train/loss"] = "NaN"
    config = {
        "optimizer": "lion",
        "dataset": "cifar",
        "seed": 1,
        "lr": 3e-4,
        "_wandb": {"version": 1},
    }
    run = SimpleNamespace(
        id="abc",
        config=config,
        state="finished",
        summary={"val_acc": 0.4},
        scan_history=lambda: iter(rows),
    )
    asked: list[str] = []
    api = SimpleNamespace(runs=lambda project: (asked.append(project), [run])[1])
    (read,) = wandb.read_api("team/project", None, api)
    assert asked == ["team/project"]
    assert (read.task, read.optimizer, read.seed, read.status) == ("cifar", "lion", 1, "done")
    assert read.config["optimizer"] == {"_target_": "wandb.lion", "lr": 3e-4, "dataset": "cifar"}
    assert list(read.history["val/acc"]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert list(read.history["seconds"]) == [0, 2, 4, 6, 8]
    assert math.isnan(read.history["loss"].iloc[-1])
    assert read.config["direction"] == "max"


def test_a_run_whose_metric_is_not_clear_asks_for_it() -> None:
    rows = [{"_step": 0, "val/accuracy": 0.1, "val/loss": 2.0}]
    logged = wandb.Logged("abc", {"optimizer": "x"}, rows, {}, "finished")
    with pytest.raises(
        ImportFaultError, match="--metric NAME; it logged _step, val/accuracy, val/loss"
    ):
        wandb.as_run(logged)
    assert wandb.as_run(logged, "accuracy").config["metric"] == "accuracy"
    low = wandb.as_run(logged, "val/loss")
    assert (low.config["metric"], low.config["direction"]) == ("eval_loss", "min")
    assert low.number("final_eval_loss") == 2.0
    with pytest.raises(ImportFaultError, match="logged no 'bleu'"):
        wandb.as_run(logged, "bleu")


@pytest.mark.parametrize(
    ("state", "status"),
    [("crashed", "interrupted"), ("failed", "error"), ("running", "interrupted")],
)
def test_how_a_run_ended_is_kept(state: str, status: str) -> None:
    logged = wandb.Logged(
        "a", {"optimizer": "x", "task": "y"}, [{"_step": 0, "val/acc": 0.1}], {}, state
    )
    assert wandb.as_run(logged).status == status
