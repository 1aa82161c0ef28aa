"""An optimizer of another package and a task of one's own, each added by a YAML in a folder outside
the repository."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.config import registry

Command = Callable[..., Any]
Module = Callable[[str, str], str]

TASK = '''
"""Fit a line through a few points."""
import torch
from tasks import DataTask

class Line(DataTask):
    offers = frozenset({"hessian", "ggn", "jacobian", "sampled", "per_example", "layers"})
    metric = "loss"
    direction = "min"

    def __init__(self, slope=2.0, **common):
        x = torch.linspace(-1, 1, 24).unsqueeze(1)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
        parts = dict(zip(("train", "val", "test"), (order[:12], order[12:18], order[18:])))
        self.splits = {name: (x[chosen], slope * x[chosen]) for name, chosen in parts.items()}
        super().__init__(**common)
        self.loss_fn = torch.nn.MSELoss()

    def build(self):
        return torch.nn.Linear(1, 1)

    def measure(self, outputs, targets):
        return {"loss": (outputs - targets).square().mean(1)}
'''


@pytest.fixture
def folder(tmp_path: Path, module: Module) -> Path:
    """A user's folder of configurations, and the module one of them names."""
    module("my_tasks", TASK)
    module("my_optimizers", "import torch\n\nclass Wombat(torch.optim.NAdam):\n    pass\n")
    own = tmp_path / "own"
    files = {
        "optimizer/wombat.yaml": "# An optimizer of another package.\n_target_: "
        "my_optimizers.Wombat\nlr: 0.003\n"
        "search:\n  lr: {low: 1.0e-4, high: 1.0e-1, log: true}\n",
        "task/line.yaml": "# A line of one's own.\n_target_: my_tasks.Line\nslope: "
        "3.0\nbatch_size: 4\nsteps: 6\n"
        "eval_every: 3\ntarget: null\n",
        "tuned/line_wombat.yaml": "# @package _global_\noptimizer:\n  lr: 0.0625\n",
    }
    for name, text in files.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    return own


ALLOWED = "allow=[my_optimizers,my_tasks]"


def test_they_run_in_a_sweep_beside_those_of_the_suite_and_appear_in_the_report(
    command: Command, folder: Path, results: Path
) -> None:
    output = command(
        "-m",
        f"--config-dir={folder}",
        "optimizer=wombat,kfac,adam",
        "task=line,mlp",
        "steps=4",
        ALLOWED,
    )

    assert output.code == 0, output.err
    assert output.out.count(": done, ") == 6
    (directory,) = (results / "runs/line/wombat").iterdir()
    config = yaml.safe_load((directory / "config.yaml").read_text())
    summary = json.loads((directory / "summary.json").read_text())
    # the folder's tuned value
    assert (config["optimizer"]["lr"], config["task"]["slope"]) == (0.0625, 3.0)
    assert (config["metric"], config["direction"]) == ("loss", "min")
    assert (summary["optimizer"], summary["task"], summary["steps"]) == ("wombat", "line", 4)
    assert summary["state_bytes"] > 0
    assert f"--config-dir {folder}" in config["command"]

    from suite.results.load import load_runs

    runs = load_runs(results / "runs")[0]
    assert {("line", "wombat"), ("mlp", "wombat"), ("line", "kfac")} <= {
        (run.task, run.optimizer) for run in runs
    }


def test_the_recorded_command_finds_the_folder_again(
    command: Command, folder: Path, results: Path
) -> None:
    output = command(f"--config-dir={folder}", "optimizer=sgd", "task=line", ALLOWED)
    assert output.code == 0, output.err
    (directory,) = (results / "runs/line/sgd").iterdir()
    words = shlex.split(yaml.safe_load((directory / "config.yaml").read_text())["command"])
    place = words.index("--config-dir")

    options, overrides = [f"--config-dir={words[place + 1]}"], words[place + 2 :]
    assert words[:place] == ["python", "-m", "suite"]
    assert "skipped" in command(*options, *overrides).out


def test_without_the_users_word_nothing_outside_is_imported(
    command: Command, folder: Path, results: Path
) -> None:
    output = command(f"--config-dir={folder}", "optimizer=wombat", "task=mlp")
    assert output.code == 2
    assert "my_optimizers.Wombat is not on the allow-list" in output.err
    assert "'allow=[my_optimizers]'" in output.err

    output = command(f"--config-dir={folder}", "optimizer=sgd", "task=line")
    assert output.code == 2
    assert "'allow=[my_tasks]'" in output.err
    assert not (results / "runs").exists()


def test_typos_are_explained_with_the_users_names_among_the_known(
    command: Command, folder: Path
) -> None:
    output = command(f"--config-dir={folder}", "optimizer=wombatt")
    assert "Did you mean wombat?" in output.err
    assert ", wombat" in output.err
    output = command(f"--config-dir={folder}", "optimizer=wombat", "optimizer.lrr=1")
    assert "optimizer wombat has no 'lrr'. Did you mean lr?" in output.err
    output = command(f"--config-dir={folder}", "task=line", "task.slop=1")
    assert "task line has no 'slop'. Did you mean slope?" in output.err


def test_the_registry_knows_the_users_folder(folder: Path) -> None:
    assert set(registry.names("optimizer", [folder])) == {*registry.names("optimizer"), "wombat"}
    assert registry.description("task", "line", [folder]) == "A line of one's own."
    assert "line" in registry.tasks_offering(frozenset({"layers"}), [folder], ["my_tasks"])
    assert "line" not in registry.tasks_offering(frozenset({"matrices"}), [folder], ["my_tasks"])
    # not allowed, so not imported
    assert "line" not in registry.tasks_offering(frozenset({"layers"}), [folder])


def test_a_folder_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    output = command(f"--config-dir={tmp_path / 'absent'}", "optimizer=sgd")
    assert output.code == 2
    assert str(tmp_path / "absent") in output.err


def test_a_file_with_the_name_of_one_of_ours_is_refused_since_ours_would_be_taken(
    tmp_path: Path, command: Any
) -> None:
    (tmp_path / "own/tuned").mkdir(parents=True)
    (tmp_path / "own/tuned/mlp_sgd.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.5\n")
    output = command(f"--config-dir={tmp_path / 'own'}", "optimizer=sgd", "task=mlp", "steps=1")
    assert output.code == 2
    assert "mlp_sgd.yaml would not be used" in output.err
    assert "tuned=NAME" in output.err
