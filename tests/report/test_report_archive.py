"""Archives: tables from one are those from the directories, none says whose machine it was, damage
is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from suite.archive import main
from suite.reference import TABLES
from suite.report.report import write_report
from suite.results import timings
from suite.results.archive import (
    ArchiveError,
    is_archive,
    read_archive,
    read_timings,
    write_archive,
)
from suite.results.frame import build_records
from suite.results.load import load_runs, load_timings
from suite.tables.markdown import csv_text, markdown
from tests.report.archive_cases import Record


@pytest.fixture
def mixed(record: Record, runs: Path, training: Any) -> Path:
    """Finished, diverged, refused and interrupted runs, two metrics, a path over a plane, odd
    settings."""
    for seed in range(3):
        record(
            "mlp",
            "sgd",
            seed,
            training(final=0.9 + 0.01 * seed, target_step=12),
            config={"experiment": "one"},
        )
        record(
            "mlp",
            "kfac",
            seed,
            training(final=0.95),
            hyper={"damping": 1e-3, "betas": [0.9, 0.99], "x": {50: 1.0}},
        )
    record("mlp", "adamw", 0, training(status="diverged", cut=7, message="the loss is not finite"))
    record("mlp", "newton", 0, training(status="unsupported", message="too many parameters"))
    record("mlp", "newton", 1, training(status="unfinished", cut=9))
    plane = record(
        "valley", "kfac", 0, training(final=0.1), config={"metric": "gap", "direction": "min"}
    )
    (plane / "path.csv").write_text("step,x,y\n0,1,2\n1,0.5,0.25\n")
    return runs


def test_a_run_comes_back_as_it_was(mixed: Path, tmp_path: Path) -> None:
    runs, _ = load_runs(mixed)
    write_archive(runs, tmp_path / "archive")
    back, damaged = load_runs(tmp_path / "archive")
    assert (len(back), damaged) == (len(runs), [])
    for one, other in zip(runs, back, strict=True):
        assert other.path.parts[-3:] == one.path.parts[-3:]
        for name in (
            "task",
            "optimizer",
            "seed",
            "status",
            "message",
            "summary",
            "environment",
            "written",
        ):
            assert getattr(other, name) == getattr(one, name), name
        # the labels follow the order of the keys
        assert list(other.config.items()) == list(one.config.items())
        assert list(other.config["optimizer"]) == list(one.config["optimizer"])
        exact = one.history["val/accuracy" if "val/accuracy" in one.history else "val/gap"].notna()
        pd.testing.assert_frame_equal(other.history[exact], one.history[exact], check_exact=True)
        np.testing.assert_allclose(other.history, one.history, rtol=1e-7)


def test_tables_of_an_archive_are_those_of_the_directories(mixed: Path, tmp_path: Path) -> None:
    archive = write_archive(load_runs(mixed)[0], tmp_path / "archive")
    written = []
    for source in (mixed, archive):
        records = build_records(*load_runs(source))
        written.append(
            [
                (table.name, csv_text(table), markdown(table))
                for make in TABLES
                for table in make(records)
            ]
        )
    assert {"main", "results", "targets", "outcomes", "configurations"} <= {
        name for name, *_ in written[0]
    }
    assert written[1] == written[0]


@pytest.mark.slow
def test_the_tables_of_an_archive_are_those_of_the_directories_to_the_byte(
    mixed: Path, tmp_path: Path
) -> None:
    archive = write_archive(load_runs(mixed)[0], tmp_path / "archive")
    folders = []
    for source in (mixed, archive):
        folders.append(tmp_path / f"report-{source.name}")
        folders[-1].mkdir()
        write_report(build_records(*load_runs(source)), folders[-1], "title", "command")
    names = sorted(path.name for path in (folders[0] / "tables").iterdir())
    assert "main.md" in names
    assert "outcomes.tex" in names
    assert [path.name for path in sorted((folders[1] / "tables").iterdir())] == names
    for name in names:
        assert (folders[1] / "tables" / name).read_bytes() == (
            folders[0] / "tables" / name
        ).read_bytes(), name
    drawn = [{path.name for path in folder.rglob("*.png")} for folder in folders]
    assert drawn[0] == drawn[1]


def test_a_path_over_a_plane_is_kept(mixed: Path, tmp_path: Path) -> None:
    write_archive(load_runs(mixed)[0], tmp_path / "archive")
    (trajectory,) = [
        run.trajectory for run in read_archive(tmp_path / "archive") if run.trajectory is not None
    ]
    assert trajectory.to_numpy().tolist() == [[0, 1, 2], [1, 0.5, 0.25]]


def test_the_later_one_of_two_repeats_is_kept_from_an_archive_too(
    record: Record, runs: Path, training: Any, tmp_path: Path
) -> None:
    import os
    import shutil

    first = record("mlp", "sgd", 0, training(final=0.9))
    again = first.with_name("00000000")  # the first by its name, the later one by its time
    shutil.copytree(first, again)
    summary = json.loads((again / "summary.json").read_text())
    (again / "summary.json").write_text(json.dumps({**summary, "final_accuracy": 0.5}))
    os.utime(first / "summary.json", (1e9, 1e9))
    write_archive(load_runs(runs)[0], tmp_path / "archive")
    records = build_records(*load_runs(tmp_path / "archive"))
    assert list(records.frame["final"]) == [0.5]
    assert records.repeats == ["/".join(first.parts[-3:])]


# -- bad input -------------------------------------------------------------------------------------


def test_an_archive_is_written_in_place_of_an_earlier_one_and_of_nothing_else(
    mixed: Path, tmp_path: Path
) -> None:
    runs = load_runs(mixed)[0]
    folder = write_archive(runs, tmp_path / "archive")
    write_archive(runs[:1], folder)
    assert len(read_archive(folder)) == 1
    assert not (folder / "walks.parquet").exists()
    with pytest.raises(ArchiveError, match="no archive; name another folder"):
        write_archive(runs, mixed)
    with pytest.raises(ArchiveError, match="no runs"):
        write_archive([], tmp_path / "empty")


def _cut(name: str, part: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(part * len(content))])

    return change


def _set(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "archive.json").read_text())
        (folder / "archive.json").write_text(json.dumps({**content, key: value}))

    return change


HARM = {
    "runs cut off": (_cut("runs.parquet", 0.5), "is damaged"),
    "histories cut off": (_cut("histories.parquet", 0.5), "is damaged"),
    "contents cut off": (_cut("archive.json", 0.5), "is damaged"),
    "histories gone": (lambda folder: (folder / "histories.parquet").unlink(), "is damaged"),
    "another number of runs": (_set("runs", 99), "is damaged"),
    "a later version": (_set("version", 2), "version 2; this suite reads 1"),
    "something else's": (_set("format", "x"), "is no archive"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_archive_says_so(mixed: Path, tmp_path: Path, harm: str) -> None:
    folder = write_archive(load_runs(mixed)[0], tmp_path / "archive")
    change, message = HARM[harm]
    change(folder)
    with pytest.raises(ArchiveError, match=message):
        read_archive(folder)
    runs, (damage,) = load_runs(folder)
    assert (runs, damage.path) == ([], "archive")


def test_histories_of_other_runs_are_not_taken(mixed: Path, tmp_path: Path) -> None:
    runs = {run.optimizer: run for run in load_runs(mixed)[0] if run.task == "mlp"}
    for name, chosen in {
        "whole": [runs["sgd"]],
        "cut": [runs["adamw"]],
    }.items():  # 21 and 8 rows, the same columns
        write_archive(chosen, tmp_path / name)
    contents = {
        name: (tmp_path / name / "histories.parquet").read_bytes() for name in ("whole", "cut")
    }
    for name, other in (("whole", "cut"), ("cut", "whole")):
        (tmp_path / name / "histories.parquet").write_bytes(contents[other])
        with pytest.raises(ArchiveError, match=r"is damaged .*another number of rows"):
            read_archive(tmp_path / name)


def test_archives_in_a_folder_of_runs_are_read_with_them(mixed: Path, tmp_path: Path) -> None:
    runs = load_runs(mixed)[0]
    for name in ("a", "b"):
        write_archive(runs[:2], tmp_path / "both" / name)
    assert len(load_runs(tmp_path / "both")[0]) == 4


def test_timings_travel_with_the_runs(mixed: Path, tmp_path: Path) -> None:
    runs = load_runs(mixed)[0]
    key = timings.speed_key(runs[0].config)
    one = timings.Timing(
        key,
        "mlp",
        "sgd",
        "cpu, Some CPU, 1 thread",
        0.25,
        (0.2, 0.3),
        {"forward": 0.1},
        "python -m x",
    )
    folder = write_archive(runs, tmp_path / "archive", timings=timings.placed([one]))
    assert read_timings(folder) == timings.placed([one])
    (named,) = json.loads((folder / "timings.json").read_text()).values()
    # as archives of one machine have it
    (folder / "timings.json").write_text(json.dumps({key: named}))
    assert read_timings(folder) == timings.placed([one])
    records = build_records(*load_runs(folder), load_timings(folder))
    assert 0.25 in set(records.frame["exclusive_seconds_per_step"])
    assert load_timings(tmp_path / "nowhere" / "archive") is not None


def test_timings_find_their_runs_where_a_setting_was_a_path(mixed: Path, tmp_path: Path) -> None:
    run = load_runs(mixed)[0][0]
    run = replace(
        run,
        config={**run.config, "task": {**run.config["task"], "path": str(tmp_path / "book.txt")}},
    )
    one = timings.Timing(
        timings.speed_key(run.config), "mlp", "sgd", "cpu, Some CPU, 1 thread", 0.25, (0.2, 0.3)
    )
    folder = write_archive([run], tmp_path / "archive", timings=timings.placed([one]))
    (stored,) = read_archive(folder)
    assert stored.config["task"]["path"] == "book.txt"
    records = build_records([stored], [], read_timings(folder))
    assert list(records.frame["exclusive_seconds_per_step"]) == [0.25]


def test_the_command_writes_and_reads(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reference" / "one"
    assert (
        main(
            [
                "write",
                str(folder),
                "--runs",
                str(mixed),
                "--experiment",
                "one",
                "--about",
                "three runs",
            ]
        )
        == 0
    )
    assert is_archive(folder)
    assert {run.optimizer for run in read_archive(folder)} == {"sgd"}
    assert main(["read", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "3 runs, 63 rows" in output
    assert "about: three runs" in output
    with pytest.raises(SystemExit) as ended:
        main(["write", str(tmp_path / "none"), "--runs", str(mixed), "--task", "nothing"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["read", str(mixed)])
    assert "is no archive" in capsys.readouterr().err


def test_configurations_are_read_section_by_section_as_yaml_reads_them_whole(
    record: Record, runs: Path
) -> None:
    odd = {
        "note": "a: b\nc: d",
        "shared": None,
        "list": [1, [2, {"a": "x: y"}]],
        "long": "word " * 60,
        "empty": {},
    }
    shared = [1, 2]
    path = record(
        config={
            **odd,
            "first": shared,
            "second": shared,
            "tricky": "# no comment",
            "date": "2026-01-01",
        }
    )
    (run,), _ = load_runs(runs)
    assert run.config == yaml.safe_load((path / "config.yaml").read_text())
    for text in (
        "optimizer: {}\ntask: {}\nseed: 1\na: 'x\nb: y'\n",
        "{optimizer: {}, task: {}, seed: 1}\n",
    ):
        (path / "config.yaml").write_text(text)
        (run,), _ = load_runs(runs)
        assert run.config == yaml.safe_load(text)
