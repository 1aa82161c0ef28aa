"""What an archive leaves out: rows of long histories, paths, users and machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.results.anonymise import Scrubber
from suite.results.archive import (
    read_archive,
    write_archive,
)
from suite.results.downsample import FIRST, thin
from suite.results.load import load_runs
from suite.results.parquet import decode, encode
from suite.results.run import Run
from suite.stats import time_to_target
from tests.report.archive_cases import Record

# -- what is left out ------------------------------------------------------------------------------


def long_run(
    rows: int, *, every: int, metric: str = "accuracy", direction: str = "max", **config: Any
) -> Run:
    """A run whose loss falls noisily and whose metric wanders upwards, evaluated every so many
    steps."""
    random = np.random.default_rng(0)
    steps = np.arange(rows)
    values = np.where(steps % every == 0, np.sqrt(steps) + random.standard_normal(rows), np.nan)
    history = pd.DataFrame(
        {
            "step": steps.astype(float),
            "seconds": steps * np.pi,
            "loss": np.exp(-5 * steps / rows + 0.1 * random.standard_normal(rows)),
            "grad_equivalents": steps * 1.5,
            f"val/{metric}": values,
            "telemetry/eigenvalue_1": np.where(steps % 997 == 5, 1.0, np.nan),
        }
    )
    return Run(
        Path("a/b/c"),
        "a",
        "b",
        0,
        "done",
        "",
        {"metric": metric, "direction": direction, **config},
        {},
        {},
        history,
    )


def test_a_long_history_keeps_what_tables_and_figures_need() -> None:
    run = long_run(20_000, every=100)
    thinned = thin(run, rows=300)
    assert 300 < len(thinned) < 300 + 200 + 20 + FIRST + 2
    assert set(range(FIRST)) | {19_999} <= set(thinned["step"].astype(int))
    evaluated = run.history[run.history["val/accuracy"].notna()].reset_index(drop=True)
    same = thinned[thinned["val/accuracy"].notna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, evaluated, check_exact=True)
    assert (
        thinned["telemetry/eigenvalue_1"].notna().sum()
        == run.history["telemetry/eigenvalue_1"].notna().sum()
    )
    assert thinned["grad_equivalents"].iloc[-1] == run.history["grad_equivalents"].iloc[-1]
    for level in np.linspace(0, 150, 31):
        spent = [
            time_to_target(table, level, "max", metric="val/accuracy")
            for table in (run.history, thinned)
        ]
        assert spent[0] == spent[1]


def test_the_median_loss_of_a_stretch_stays_where_it_was() -> None:
    run = long_run(20_000, every=100)
    rows_left = thin(run, rows=300)
    ratios = []
    for low in range(1000, 20_000, 1000):
        whole, thinned = (
            table["loss"][(table["step"] >= low) & (table["step"] < low + 1000)].median()
            for table in (run.history, rows_left)
        )
        ratios.append(thinned / whole)
    assert np.abs(np.log(ratios)).max() < 0.06  # single losses scatter by ten per cent
    assert abs(np.mean(np.log(ratios))) < 0.01


def test_of_very_many_evaluations_the_crossings_of_the_known_levels_are_kept() -> None:
    run = long_run(20_000, every=1, target=100.0, levels={50: 50.0, 95: 95.5})
    thinned = thin(run, rows=300)
    assert len(thinned) < 1200
    for level in (50.0, 95.5, 100.0):
        assert time_to_target(thinned, level, "max", unit="step") == time_to_target(
            run.history, level, "max", unit="step"
        )
    values = run.history["val/accuracy"]
    assert thinned["val/accuracy"].max() == values.max()
    assert thinned["val/accuracy"].iloc[-1] == values.iloc[-1]


def test_a_history_that_is_read_step_by_step_is_kept_whole() -> None:
    run = long_run(1500, every=10, metric="gap", direction="min")
    pd.testing.assert_frame_equal(thin(run, rows=50), run.history, check_exact=True)


def test_single_precision_neither_overflows_nor_makes_zeros() -> None:
    run = long_run(100, every=10)
    run.history["loss"] = np.where(np.arange(100) % 2, 1e200, 1e-200)
    assert np.array_equal(thin(run)["loss"], run.history["loss"])


@pytest.mark.parametrize(
    "value", [{50: 1.0, None: "a"}, {"__items__": [1]}, [1, {"a": {2: True}}], 1e-300, "ü\n", None]
)
def test_settings_survive_json(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value


# -- whose machine it was --------------------------------------------------------------------------


PRIVATE = {
    "python -m suite task=custom task.file=/home/jane/nets/mine.py": "python -m suite task=custom "
    "task.file=mine.py",
    "no data in /srv/data/mnist; see https://a.org/b/c": "no data in mnist; see https://a.org/b/c",
    "read '/tmp/x y/z' and ~/notes/a.txt": "read 'x y/z' and a.txt",
    r"C:\Users\jane\mine.py failed": "mine.py failed",
    r"\\server\share\mine.py failed": "mine.py failed",
    "val/accuracy and/or train/loss 3/4": "val/accuracy and/or train/loss 3/4",
    "tasks.vision.mlp.Task": "tasks.vision.mlp.Task",
}


@pytest.mark.parametrize("text", PRIVATE)
def test_paths_become_names(text: str) -> None:
    assert Scrubber().text(text) == PRIVATE[text]


def test_different_paths_stay_different_and_the_same_one_the_same() -> None:
    scrub = Scrubber()
    assert [scrub(f"/data/{name}/book.txt") for name in ("a", "b", "a")] == [
        "book.txt",
        "book.txt~2",
        "book.txt",
    ]


def test_names_of_user_and_machine_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "fileserver7.example.org")
    monkeypatch.setattr("getpass.getuser", lambda: "janedoe")
    scrub = Scrubber()
    assert scrub("janedoe@fileserver7: no such file") == "…@…: no such file"
    assert scrub(
        {"host": "x", "Hostname": "y", "cpu": "Some CPU", "list": ["on fileserver7.example.org"]}
    ) == {"cpu": "Some CPU", "list": ["on …"]}
    assert scrub({"platform": "Linux-6.1.0-44-cloud-amd64-x86_64-with-glibc2.36"}) == {
        "platform": "Linux-x86_64-with-glibc2.36"
    }


def test_nothing_private_is_in_the_files_of_an_archive(
    record: Record, runs: Path, training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "fileserver7")
    monkeypatch.setattr("getpass.getuser", lambda: "janedoe")
    secret = {
        "user": "janedoe",
        "platform": "Linux-9.9-built-by-janedoe-x86_64-with-glibc2.36",
        "cwd": "/home/janedoe",
    }
    settings = {"file": "/home/janedoe/nets/mine.py", "digest": "abc"}
    command = f"python -m suite task.file=/home/janedoe/nets/mine.py +x={tmp_path}/deep/er"
    failed = training(status="error", message=f"fileserver7: {tmp_path}/deep/er is gone")
    record(
        "mine", "sgd", 0, failed, settings=settings, config={"command": command}, environment=secret
    )
    folder = write_archive(load_runs(runs)[0], tmp_path / "archive")
    (run,) = read_archive(folder)
    columns = (
        " ".join(map(str, (run.config, run.summary, run.environment)))
        + (folder / "archive.json").read_text()
    )
    for word in ("janedoe", "/home", "fileserver7", str(tmp_path), tmp_path.parent.name):
        assert word not in columns
    assert run.config["task"]["file"] == "mine.py"
    assert run.summary["message"] == "…: er is gone"
