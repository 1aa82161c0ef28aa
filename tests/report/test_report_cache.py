"""The cache of what directories say: it saves work, is never wrong, and never in the way."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from suite.results import cache, load
from suite.results.load import load_runs

Record = Callable[..., Path]


@pytest.fixture(autouse=True)
def from_the_first_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CACHED_FROM", 1)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the directories that were read, in order."""
    names_read: list[str] = []
    read = load.read_run
    monkeypatch.setattr(
        load, "read_run", lambda path, memory: (names_read.append(path.name), read(path, memory))[1]
    )
    return names_read


@pytest.fixture
def several(record: Record, runs: Path, training: Any) -> Path:
    for seed in range(3):
        record("mlp", "sgd", seed)
        record(
            "mlp",
            "kfac",
            seed,
            config={"levels": {50: 0.5}},
            training=training(final=0.8 + 0.01 * seed),
        )
    record("cnn", "sgd", 0, training(status="unfinished", cut=7))
    broken = record("cnn", "sgd", 1)
    (broken / "summary.json").write_text("{")
    return runs


def test_what_comes_from_the_cache_is_what_the_directories_say(
    several: Path, parsed: list[str]
) -> None:
    plain, broken = load_runs(several, cached=False)
    first, damaged = load_runs(several)
    assert len(parsed) == 16
    again, still = load_runs(several)
    assert len(parsed) == 16
    assert broken == damaged == still
    assert len(plain) == 7
    for loaded in (first, again):
        for one, other in zip(plain, loaded, strict=True):
            pd.testing.assert_frame_equal(other.history, one.history, check_exact=True)
            for name in (
                "path",
                "config",
                "summary",
                "environment",
                "status",
                "message",
                "written",
                "seed",
            ):
                assert getattr(other, name) == getattr(one, name)


def test_a_run_that_changes_is_read_again_with_its_pair_alone(
    several: Path, parsed: list[str]
) -> None:
    load_runs(several)
    parsed.clear()
    (path,) = [path for path in (several / "cnn" / "sgd").iterdir() if "{" not in _summary(path)]
    with (path / "history.csv").open("a") as file:
        file.write("8,0.8,0.08,0.5,0.1,0,8,0,0,0,16,,\n")
    runs, _ = load_runs(several)
    assert {path.name} <= set(parsed) <= {path.name for path in (several / "cnn" / "sgd").iterdir()}
    assert max(len(run.history) for run in runs if run.task == "cnn") == 9
    assert (
        len(
            [
                path
                for path in (several / cache.FOLDER).iterdir()
                if path.name.startswith("cnn--sgd")
            ]
        )
        == 1
    )


def _summary(path: Path) -> str:
    return (path / "summary.json").read_text() if (path / "summary.json").exists() else ""


@pytest.mark.parametrize("file", ["config.yaml", "summary.json", "environment.json"])
def test_a_change_of_any_file_is_seen(several: Path, file: str) -> None:
    load_runs(several)
    path = sorted((several / "mlp" / "sgd").iterdir())[0] / file
    text = path.read_text()
    path.write_text(
        text.replace("sgd", "sgx") if "sgd" in text else text.replace("Some CPU", "That CPU")
    )
    assert path.read_text() != text
    (run,) = [run for run in load_runs(several)[0] if run.path == path.parent]
    rows = {
        "config.yaml": run.config["command"],
        "summary.json": run.optimizer,
        "environment.json": run.environment["cpu"],
    }
    assert "sgx" in rows[file] or rows[file] == "That CPU"


def test_a_change_that_keeps_the_length_is_seen_by_its_time(several: Path) -> None:
    load_runs(several)
    path = sorted((several / "mlp" / "sgd").iterdir())[0]
    before = (path / "summary.json").stat()
    text = _summary(path).replace('"final_accuracy": 0.9', '"final_accuracy": 0.1')
    (path / "summary.json").write_text(text)
    os.utime(path / "summary.json", ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert (path / "summary.json").stat().st_size == before.st_size
    (run,) = [run for run in load_runs(several)[0] if run.path == path]
    assert run.number("final_accuracy") == 0.1


def test_runs_that_come_and_go_are_seen(several: Path, record: Record) -> None:
    load_runs(several)
    new = record("mlp", "sgd", 7)
    assert len(load_runs(several)[0]) == 8
    shutil.rmtree(new)
    assert len(load_runs(several)[0]) == 7
    assert len(load_runs(several)[0]) == 7


@pytest.mark.parametrize("harm", ["cut", "nonsense", "gone", "swapped", "count"])
def test_a_damaged_cache_is_made_again(several: Path, parsed: list[str], harm: str) -> None:
    expected, _ = load_runs(several)
    saved = sorted(
        path for path in (several / cache.FOLDER).iterdir() if path.name.startswith("mlp--")
    )
    if harm == "cut":
        content = (saved[0] / "histories.parquet").read_bytes()
        (saved[0] / "histories.parquet").write_bytes(content[: len(content) // 2])
    elif harm == "nonsense":
        (saved[0] / "damaged.json").write_text("[3]")
    elif harm == "gone":
        (saved[0] / "runs.parquet").unlink()
    elif harm == "swapped":
        (saved[0] / "histories.parquet").write_bytes(b"PAR1" * 20)
    else:
        (saved[0] / "damaged.json").write_text(json.dumps({"runs": 2, "damaged": []}))
    parsed.clear()
    runs, _ = load_runs(several)
    assert len(parsed) == 3
    for one, other in zip(expected, runs, strict=True):
        pd.testing.assert_frame_equal(other.history, one.history)
    parsed.clear()
    load_runs(several)
    assert parsed == []


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(cache.tempfile, "mkdtemp", refuse)
    assert len(load_runs(several)[0]) == 7
    assert not list((several / cache.FOLDER).iterdir())
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(load_runs(several)[0]) == 7


def test_a_full_disk_leaves_nothing_behind(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.parquet, "write", full)
    assert len(load_runs(several)[0]) == 7
    assert not [
        path for path in (several / cache.FOLDER).iterdir() if path.name.startswith(".new-")
    ]


def test_readers_at_the_same_time_do_not_disturb_each_other(several: Path) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()
    path = sorted((several / "mlp" / "sgd").iterdir())[0] / "environment.json"

    def read() -> None:
        try:
            for _ in range(12):
                runs, damaged = load_runs(several)
                assert (len(runs), len(damaged)) == (7, 1)
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    while not stop.wait(0.01):
        os.utime(path)  # so that one of them writes anew while others read
    for reader in readers:
        reader.join()
    assert not failures


def test_few_runs_are_not_worth_a_cache(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CACHED_FROM", 200)
    load_runs(several)
    assert not (several / cache.FOLDER).exists()


def test_a_pair_with_very_many_runs_is_kept_in_pieces(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MANY", 2)
    expected, _ = load_runs(several, cached=False)
    for _ in range(2):
        runs, _ = load_runs(several)
        assert [run.path for run in runs] == [run.path for run in expected]
    pieces = {path.name.split(".")[0] for path in (several / cache.FOLDER).iterdir()}
    assert {f"mlp--sgd--{path.name[0]}" for path in (several / "mlp" / "sgd").iterdir()} <= pieces
