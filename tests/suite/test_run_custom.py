"""`task=custom` through the command: its name, its identity, and what a broken file costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.config import registry, task_file
from suite.errors import FatalConfigError

FILE = """import torch
model = lambda: torch.nn.Linear(4, 3)
loss = torch.nn.CrossEntropyLoss()
data = torch.randn(50, 4), torch.arange(50) % 3
"""
SHORT = ("steps=3", "task.eval_every=3")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_run_goes_by_the_name_of_its_file(command: Any, mine: Path, results: Path) -> None:
    output = command("task=custom", "task.file=mine.py", "optimizer=adamw", *SHORT)
    assert output.code == 0, output.err
    assert "adamw on mine, seed 0: done, accuracy" in output.out
    (record,) = (results / "runs" / "mine" / "adamw").iterdir()
    config = yaml.safe_load((record / "config.yaml").read_text())
    assert config["task"]["file"] == "mine.py"
    assert (
        config["task"]["digest"]
        == task_file.digested({"file": str(mine), "digest": None})["digest"]
    )
    assert (
        "done before, skipped"
        in command("task=custom", "task.file=mine.py", "optimizer=adamw", *SHORT).out
    )


def test_an_edited_file_is_another_run_and_the_first_one_stays(
    train: Callable[..., Any], mine: Path
) -> None:
    asked = ("task=custom", "task.file=mine.py", "optimizer=sgd", *SHORT)
    first = train(*asked)
    mine.write_text(FILE.replace("50", "60"))
    second = train(*asked)
    assert (first.status, second.status, second.outcome.skipped) == ("done", "done", False)
    assert first.directory != second.directory
    assert first.directory.exists()
    mine.write_text(FILE)
    assert train(*asked).outcome.skipped


def test_a_file_is_the_same_however_its_path_is_typed(
    train: Callable[..., Any], mine: Path
) -> None:
    asked = ("task=custom", "optimizer=sgd", *SHORT)
    assert not train(*asked, "task.file=mine.py").outcome.skipped
    assert train(*asked, f"task.file={mine.resolve()}").outcome.skipped


@pytest.mark.parametrize("sweep", [(), ("-m",)])
def test_a_broken_file_stops_the_command_before_anything_is_recorded(
    command: Any, mine: Path, results: Path, sweep: tuple[str, ...]
) -> None:
    mine.write_text(FILE.replace("Loss()", 'Loss(reduction="none")'))
    output = command(
        *sweep,
        "task=custom",
        "task.file=mine.py",
        "optimizer=adamw,sgd" if sweep else "optimizer=sgd",
    )
    assert output.code == 2
    assert "mine.py, line 3: loss gives a tensor of shape (8,), not one number" in output.err
    assert '3 | loss = torch.nn.CrossEntropyLoss(reduction="none")' in output.err
    assert "Traceback" not in output.err
    assert not (results / "runs").exists()


@pytest.mark.filterwarnings("error:Callback SweepCallback")
def test_tuned_values_of_a_file_are_asked_for_by_its_name(command: Any, mine: Path) -> None:
    tuned = mine.parent / "own" / "tuned"
    tuned.mkdir(parents=True)
    (tuned / "mine_sgd.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.25\n")
    asked = ("task=custom", "task.file=mine.py", "tuned=mine_${optimizer}", *SHORT)
    output = command("--config-dir=own", "-m", *asked, "optimizer=sgd,adamw")
    assert output.code == 0, output.err
    assert "[2/2] adamw on mine, seed 0: done" in output.out
    rates = {}
    for path in (mine.parent / "results" / "runs" / "mine").glob("*/*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        rates[path.parts[-3]] = config["optimizer"]["lr"]
        assert "'tuned=mine_${optimizer}'" in config["command"]
    assert rates == {"sgd": 0.25, "adamw": 0.001}


def test_a_pair_that_does_not_fit_is_told_what_in_the_file_stands_against_it(
    train: Callable[..., Any], mine: Path
) -> None:
    refused = train("task=custom", "task.file=mine.py", "optimizer=levenberg_marquardt", *SHORT)
    assert refused.status == "unsupported"
    output = (
        "levenberg_marquardt needs jacobian, which mine does not offer (jacobian: the loss is no "
        "sum of squares; "
    )
    assert refused.summary["message"] == output + "nn.MSELoss() is)"


def test_an_absent_file_is_said(train: Callable[..., Any], mine: Path) -> None:
    with pytest.raises(FatalConfigError, match=r"task\.file=other\.py: there is no such file"):
        train("task=custom", "task.file=other.py")


def test_a_file_called_like_a_task_does_not_take_its_place() -> None:
    taken = registry.names("task")[0]
    assert task_file.name_of("custom", {"file": f"somewhere/{taken}.py"}) == f"my_{taken}"
    assert task_file.name_of("custom", {"file": "~/net v2.py"}) == "net v2"
    assert task_file.name_of("custom", {"file": None}) == "custom"
    assert task_file.digested({"file": "absent.py", "digest": None}) == {
        "file": "absent.py",
        "digest": None,
    }
