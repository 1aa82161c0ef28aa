"""Studies read back from their journals, past what is damaged."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from suite import paths
from suite.tune import __main__ as tune
from suite.tune import load_trials, unequal
from suite.tune.sampling import sequence

COLUMNS = [
    "study",
    "task",
    "optimizer",
    "number",
    "status",
    "value",
    "score",
    "sign",
    "metric",
    "settings",
    "seconds",
    "grad_equivalents",
    "sampler",
    "pruner",
    "seeds",
    "space",
    "path",
]
WORDS = ["optimizer=sgd,momentum", "task=quadratic", "jobs=1", "scale=quick", "task.steps=30"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a small study of two optimizers; read only."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SUITE_RESULTS", str(home))
        patched.setenv("KINETO_LOG_LEVEL", "99")
        tune.tune(tune.parse([*WORDS, "trials=4", f"out={home / 'tuned'}"]))
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "home"))


def summary(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(path) / "summary.json").read_text())
    return content


def test_a_row_a_trial_as_its_run_tells_it(home: Path) -> None:
    trials = load_trials(home)

    assert list(trials.columns) == COLUMNS
    assert trials.attrs["damaged"] == []
    assert trials.groupby("optimizer")["number"].apply(list).to_dict() == {
        "sgd": [0, 1, 2, 3],
        "momentum": [0, 1, 2, 3],
    }
    assert trials["study"].nunique() == 2
    for _, row in trials.iterrows():
        stored = summary(row["path"])
        config = yaml.safe_load((Path(row["path"]) / "config.yaml").read_text())
        assert (row["task"], row["optimizer"], row["status"]) == (
            stored["task"],
            stored["optimizer"],
            stored["status"],
        )
        assert row["settings"] == sequence(row["space"], 4)[row["number"]]
        assert row["settings"].items() <= config["optimizer"].items()
        assert row["seconds"] == stored["seconds"]
        assert row["grad_equivalents"] == stored["counts"]["grad"]
        assert (row["sign"], row["metric"], row["sampler"], row["pruner"], row["seeds"]) == (
            -1.0,
            "gap",
            "quasi",
            "none",
            1,
        )
        if stored["final_gap"] is None:
            assert math.isnan(row["value"])
            assert row["score"] == -math.inf
        else:
            assert row["score"] == -row["value"] == -stored["final_gap"]
    assert (trials["status"] == "diverged").any()  # a divergence is a value


def test_where_there_is_nothing_the_frame_is_empty(tmp_path: Path) -> None:
    trials = load_trials(tmp_path / "nowhere")
    assert list(trials.columns) == COLUMNS
    assert len(trials) == 0
    assert unequal(trials) == []


def test_what_is_damaged_is_named_and_the_rest_is_read(home: Path) -> None:
    broken = next((home / "tune" / "studies").glob("quadratic_sgd_*.journal"))
    content = broken.read_text().splitlines()
    broken.write_text("\n".join([*content[:3], "{half a line", *content[3:]]) + "\n")

    trials = load_trials(home)
    assert trials.groupby("optimizer").size().to_dict() == {"momentum": 4}
    ((path, reason),) = trials.attrs["damaged"]
    assert path == f"tune/studies/{broken.name}"
    assert reason


def test_a_journal_whose_runs_are_elsewhere_is_read_by_itself(home: Path) -> None:
    before = load_trials(home)
    shutil.rmtree(home / "tune" / "runs")
    pd.testing.assert_frame_equal(load_trials(home), before)


def test_reading_changes_nothing(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    load_trials(home)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_unequal_budgets_are_said_task_by_task(home: Path) -> None:
    trials = load_trials(home)
    assert unequal(trials) == []
    fewer = trials[~((trials["optimizer"] == "sgd") & (trials["number"] == 3))]
    assert unequal(fewer) == [
        "The optimizers were not tuned equally on quadratic; trials: momentum 4, sgd 3."
    ]


def test_reading_needs_no_torch(home: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from suite.tune import load_trials
assert len(load_trials(Path({str(home)!r}))) == 8
print(sorted({{"torch", "hydra", "wandb"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
