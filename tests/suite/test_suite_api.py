"""The suite from Python: run, sweep, load and compare as plain functions."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import suite
from suite import paths
from suite.config.plan import Plan
from suite.errors import ConfigError

QUICK: dict[str, Any] = {
    "scale": "quick",
    "threads": 1,
    "device": "cpu",
    "wandb": {"mode": "disabled"},
    "task": {"steps": 10},
}
NOTEBOOK = """
import os, sys
import suite
assert not {"torch", "numpy", "pandas", "hydra", "omegaconf"} & set(sys.modules)
before = list(sys.argv), os.getcwd()
settings = dict(scale="quick", threads=1, wandb={"mode": "disabled"}, task={"steps": 5})
result = suite.run("sgd", "quadratic", seed=1, results="mine", **settings)
suite.sweep(["sgd", "momentum"], ["quadratic"], seeds=2, results="mine", **settings)
frame = suite.load("mine", optimizer="sgd")
verdicts = suite.compare("sgd", "momentum", results="mine", seed=[0, 1])
from hydra.core.global_hydra import GlobalHydra
assert not GlobalHydra.instance().is_initialized()
assert (list(sys.argv), os.getcwd()) == before
assert sorted(os.listdir()) == ["mine"]
print(result.status, len(result.history), sorted(set(frame["seed"])), len(verdicts))
"""


@pytest.fixture
def swept(results: Path) -> list[Any]:
    return suite.sweep(["sgd", "momentum"], ["quadratic"], seeds=3, results=results, **QUICK)


def test_a_notebook_in_a_folder_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "notebook"
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done 6 [0, 1] 1"
    assert done.stderr == ""


# -- run -------------------------------------------------------------------------------------------


def test_a_run_is_that_of_the_command(results: Path, planned: Callable[..., Plan]) -> None:
    result = suite.run("sgd", "quadratic", seed=3, results=results, optimizer={"lr": 0.02}, **QUICK)
    plan = planned(
        "optimizer=sgd", "task=quadratic", "seed=3", "optimizer.lr=0.02", "task.steps=10"
    )
    assert result.directory == plan.directory
    assert (result.optimizer, result.task, result.seed) == ("sgd", "quadratic", 3)
    assert (result.status, result.metric) == ("done", "gap")
    assert result.value == result.summary["final_gap"]
    assert list(result.history["step"])[-1] == 10
    assert "optimizer.lr=0.02" in result.command
    assert repr(result).startswith("<sgd on quadratic, seed 3: done, gap ")

    again = suite.run("sgd", "quadratic", seed=3, results=results, optimizer={"lr": 0.02}, **QUICK)
    assert "done before" in repr(again)
    pd.testing.assert_frame_equal(again.history, result.history)


def test_a_training_that_fails_is_a_result(results: Path) -> None:
    bad = suite.run("sgd", "quadratic", results=results, optimizer={"lr": 1e30}, **QUICK)
    unfit = suite.run("kfac", "rosenbrock", results=results, **QUICK)
    assert (bad.status, unfit.status) == ("diverged", "unsupported")
    assert unfit.value is None
    assert "kfac needs layers" in repr(unfit)


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (("kfca", "mlp"), {}, "There is no optimizer 'kfca'. Did you mean kfac"),
        (("kfac", "mlq"), {}, "There is no task 'mlq'. Did you mean mlp"),
        (("mlp", "kfac"), {}, "the optimizer comes first, then the task: 'kfac', 'mlp'"),
        (("kfac", "mlp"), {"stepz": 1}, "There is no setting 'stepz'. Did you mean steps"),
        (
            ("kfac", "mlp"),
            {"optimizer": {"lrr": 1}},
            "optimizer kfac has no 'lrr'. Did you mean lr",
        ),
        (
            ("kfac", "mlp"),
            {"lr": 0.1},
            "lr is a setting of the optimizer kfac: optimizer={'lr': 0.1}",
        ),
        ((["kfac"], "mlp"), {}, "optimizer must be a name, got ['kfac']"),
        (("kfac", None), {}, "task must be a name, got None"),
        (("kfac", "mlp"), {"optimizer": 5}, "optimizer takes its settings in a mapping, got 5"),
        (("kfac", "mlp"), {"steps": 0}, "steps must be a whole number above 0, got 0"),
        (("kfac", "mlp"), {"scale": "tiny"}, "scale=tiny is not one of quick, small, full"),
        (("kfac", "mlp"), {"schedule": None}, "schedule=null is no choice: leave schedule= out"),
    ],
)
def test_a_wrong_name_says_what_to_type(
    names: tuple[Any, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        suite.run(*names, **settings)
    assert message in str(refused.value)
    with pytest.raises(ConfigError):
        suite.sweep(["sgd", names[0]], [names[1]], **settings)


@pytest.mark.parametrize(
    ("optimizers", "tasks", "seeds"),
    [
        ([], "quadratic", 1),
        ("sgd", [], 1),
        ("sgd", 3, 1),
        *[("sgd", "quadratic", seeds) for seeds in (0, -1, 1.5, True, [], "01", None)],
    ],
)
def test_a_sweep_of_nothing_is_refused(optimizers: Any, tasks: Any, seeds: Any) -> None:
    with pytest.raises(ConfigError):
        suite.sweep(optimizers, tasks, seeds=seeds)


def test_random_streams_and_threads_are_the_callers(results: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), Path.cwd()
    threads = torch.get_num_threads()
    suite.run("sgd", "quadratic", results=results, **{**QUICK, "threads": threads + 1})
    suite.sweep("sgd", "quadratic", results=results, **{**QUICK, "force": True})
    after = torch.get_rng_state(), random.getstate(), Path.cwd()
    assert torch.equal(before[0], after[0])
    assert (*before[1:], threads) == (*after[1:], torch.get_num_threads())


def test_runs_of_several_threads_wait_for_each_other(results: Path) -> None:
    def train(seed: int) -> str:
        return suite.run("sgd", "quadratic", seed=seed, results=results, **QUICK).status

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(train, [0, 1, 1])) == ["done", "done", "done"]


def test_hydras_state_is_the_callers(results: Path) -> None:
    with initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        before, arguments = GlobalHydra.instance().hydra, list(sys.argv)
        suite.run("sgd", "quadratic", results=results, **QUICK)
        assert GlobalHydra.instance().hydra is before
        assert compose("config", ["seed=7"]).seed == 7
    assert sys.argv == arguments


# -- sweep -----------------------------------------------------------------------------------------


def test_a_sweep_runs_every_pair_with_every_seed_and_shows_each(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = suite.sweep(["sgd", "kfac"], ["quadratic"], seeds=[4, 5], results=results, **QUICK)
    assert [(run.optimizer, run.seed) for run in runs] == [
        ("sgd", 4),
        ("sgd", 5),
        ("kfac", 4),
        ("kfac", 5),
    ]
    assert [run.status for run in runs] == ["done", "done", "unsupported", "unsupported"]
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert lines[1].startswith("[2/4] sgd on quadratic, seed 5: done, gap ")


def test_a_run_that_cannot_be_built_is_a_result_of_the_sweep(results: Path) -> None:
    runs = suite.sweep("sgd", "quadratic", results=results, optimizer={"lr": -1}, **QUICK)
    assert [run.status for run in runs] == ["error"]
    assert "Invalid learning rate" in runs[0].summary["message"]


# -- load and compare ------------------------------------------------------------------------------


def test_the_frame_has_a_row_a_logged_step(swept: list[Any], results: Path) -> None:
    frame = suite.load(results)
    assert len(frame) == sum(len(run.history) for run in swept)
    for run in swept:
        own = frame[frame["run_id"] == run.directory.name]
        assert set(own["seed"]) == {run.seed}
        assert set(own["optimizer"]) == {run.optimizer}
        assert list(own["loss"].dropna()) == list(run.history["loss"].dropna())
        assert list(own["value"].dropna())[-1] == pytest.approx(run.value)
    some = suite.load(results / "runs", optimizer="sgd", seed=[0, 2])
    assert set(zip(some["optimizer"], some["seed"], strict=True)) == {("sgd", 0), ("sgd", 2)}


def test_filters_go_by_settings_too(results: Path) -> None:
    for lr in (0.01, 0.02):
        suite.run("sgd", "quadratic", results=results, optimizer={"lr": lr}, **QUICK)
    frame = suite.load(results, optimizer={"lr": 0.02})
    (place,) = (results / "runs" / "quadratic" / "sgd").glob(frame["run_id"].iloc[0])
    assert "lr: 0.02" in (place / "config.yaml").read_text()
    assert len(set(frame["run_id"])) == 1
    with pytest.raises(ConfigError, match=r"no run has optimizer\.lr=0\.03"):
        suite.load(results, optimizer={"lr": 0.03})
    with pytest.raises(ConfigError, match="no runs in "):
        suite.load(results / "nowhere")


def test_verdicts_are_those_of_the_command(
    swept: list[Any], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from suite.compare.__main__ import main

    verdicts = suite.compare("sgd", "momentum", results=results, task="quadratic")
    capsys.readouterr()
    assert main(["sgd", "momentum", "task=quadratic", "--runs", str(results / "runs")]) == 0
    assert capsys.readouterr().out == f"{verdicts!r}\n"
    (verdict,) = verdicts
    assert verdicts[0] is verdict
    assert (verdict.a.label, verdict.b.label, verdict.seeds) == ("sgd", "momentum", 3)
    outcomes = "better|worse|undecided|no interval"
    assert re.fullmatch(rf"<sgd against momentum on quadratic: ({outcomes})>", repr(verdict))
    assert verdicts._repr_html_().startswith("<ul><li><b>quadratic")


def test_a_comparison_that_cannot_be_made_says_what_to_type(
    swept: list[Any], results: Path
) -> None:
    with pytest.raises(ConfigError, match="there is no run of kfac"):
        suite.compare("sgd", "kfac", results=results)
    with pytest.raises(ConfigError, match="has no level 33"):
        suite.compare("sgd", "momentum", results=results, level=33)
    with pytest.raises(ConfigError, match="1 is no method: name one, such as 'kfac'"):
        suite.compare(1, "kfac", results=results)  # type: ignore[arg-type]


def test_the_functions_are_listed() -> None:
    assert {"run", "sweep", "load", "compare"} <= set(dir(suite))
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        suite.walk  # noqa: B018
