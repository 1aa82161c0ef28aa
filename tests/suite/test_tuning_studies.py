"""Studies from the first trial to the file of tuned values."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.config import registry
from suite.training.runner import Outcome, run
from suite.tune import load_trials, sampling
from suite.tune.execution import trial_of

SMALL = ["task=quadratic", "scale=quick", "task.steps=5"]
FORK = multiprocessing.get_context("fork")


def runs(home: Path, pair: str) -> list[Path]:
    return sorted((home / "tune" / "runs" / pair).iterdir())


def test_a_small_study_ends_with_the_best_of_its_runs(
    tune_command: Callable[..., Any], home: Path
) -> None:
    words = ["optimizer=sgd,kfac", *SMALL, "trials=3", "jobs=1"]
    code, output, _ = tune_command(*words)
    out = home / "tuned"

    assert code == 0
    assert output.startswith("6 trials: 1 tasks x 2 optimizers x 3\n")
    assert output.count("kfac on quadratic, ") == 3
    assert "kfac on quadratic: no trial of 3 ended well (3 unsupported)" in output
    assert "tuning sgd on quadratic: 3 trials, " in output
    assert [path.name for path in out.iterdir()] == ["quadratic_sgd.yaml"]
    gaps = {}
    for folder in runs(home, "quadratic/sgd"):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["seed"], config["experiment"], config["wandb"]["job_type"]) == (
            1000,
            "tune",
            "tune",
        )
        gaps[config["optimizer"]["lr"]] = json.loads((folder / "summary.json").read_text())[
            "final_gap"
        ]
    default = registry.read("optimizer", "sgd")["lr"]
    assert len(gaps) == 3
    chosen = yaml.safe_load((out / "quadratic_sgd.yaml").read_text())["optimizer"].get(
        "lr", default
    )
    assert gaps[chosen] == min(gap for gap in gaps.values() if gap is not None)
    assert not (home / "runs").exists()

    written = (out / "quadratic_sgd.yaml").read_bytes()
    _, again, _ = tune_command(*words)  # every trial is only looked up
    assert "6 of them are recorded already" in again
    assert "[" not in again
    assert (out / "quadratic_sgd.yaml").read_bytes() == written
    assert len(runs(home, "quadratic/sgd")) == 3


def test_a_larger_budget_does_the_missing_trials_only(
    tune_command: Callable[..., Any], home: Path
) -> None:
    tune_command("optimizer=sgd", *SMALL, "trials=2", "jobs=1")
    before = {
        path: (path / "summary.json").stat().st_mtime_ns for path in runs(home, "quadratic/sgd")
    }
    _, output, _ = tune_command("optimizer=sgd", *SMALL, "trials=4", "jobs=1")
    assert "2 of them are recorded already" in output
    assert [line.split("]")[0] for line in output.splitlines() if line.startswith("[")] == [
        "[3/4",
        "[4/4",
    ]
    after = {
        path: (path / "summary.json").stat().st_mtime_ns for path in runs(home, "quadratic/sgd")
    }
    assert len(after) == 4
    assert before.items() <= after.items()

    _, output, _ = tune_command("optimizer=sgd", *SMALL, "trials=3", "jobs=1")
    assert "sgd on quadratic: the study has 1 trials more, of a larger request" in output
    assert "# Trial 0 of 3:" in (home / "tuned" / "quadratic_sgd.yaml").read_text()


def test_one_trial_is_the_default_setting(tune_command: Callable[..., Any], home: Path) -> None:
    tune_command("optimizer=sgd", *SMALL, "trials=1", "jobs=1")
    assert yaml.safe_load((home / "tuned" / "quadratic_sgd.yaml").read_text()) == {"optimizer": {}}
    assert load_trials(home)["settings"].to_list() == [{}]


def test_where_nothing_is_searched_the_default_is_the_only_trial(
    tune_command: Callable[..., Any], home: Path
) -> None:
    _, output, _ = tune_command(
        "optimizer=sgd,momentum", *SMALL, "trials=3", "jobs=1", "optimizer.lr=0.05"
    )
    assert output.startswith("4 trials: ")
    assert "sgd on quadratic: nothing to search, so its default setting is its only trial" in output
    assert (
        "not equally tuned on quadratic; trials: sgd 1, momentum 3 (nothing to search is one trial"
        in output
    )
    assert load_trials(home).groupby("optimizer").size().to_dict() == {"momentum": 3, "sgd": 1}


def test_several_seeds_score_a_setting_by_their_mean(
    tune_command: Callable[..., Any], home: Path
) -> None:
    tune_command(
        "optimizer=sgd", "task=logistic", "scale=quick", "steps=3", "trials=2", "seeds=2", "jobs=1"
    )
    trials = load_trials(home)
    assert list(trials["seeds"]) == [2, 2]
    summaries: dict[float, list[Any]] = {}
    for path in runs(home, "logistic/sgd"):
        config = yaml.safe_load((path / "config.yaml").read_text())
        summaries.setdefault(config["optimizer"]["lr"], []).append(
            json.loads((path / "summary.json").read_text())
        )
    for _, row in trials.iterrows():
        repeats = summaries[row["settings"].get("lr", registry.read("optimizer", "sgd")["lr"])]
        assert sorted(each["seed"] for each in repeats) == [1000, 1001]
        assert row["value"] == pytest.approx(
            sum(each[f"final_{row['metric']}"] for each in repeats) / 2, rel=1e-12
        )
        assert row["grad_equivalents"] == 6
        assert row["seconds"] == pytest.approx(sum(each["seconds"] for each in repeats))


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_one_seed_that_fails_fails_the_setting(
    planned: Callable[..., Any], value: float | None
) -> None:
    plans = [
        planned("task=quadratic", "optimizer=sgd", "task.steps=2", f"seed={seed}")
        for seed in (1, 2)
    ]
    ended = [run(plan) for plan in plans]
    assert (
        trial_of(1, {}, plans, ended).value
        == sum(outcome.summary["final_gap"] for outcome in ended) / 2
    )
    failed = Outcome(
        {**ended[1].summary, "final_gap": value, "status": "diverged", "message": "why"}, "gap"
    )
    trial = trial_of(1, {"lr": 0.1}, plans, [ended[0], failed])
    assert (trial.status, trial.value, trial.score, trial.message) == (
        "diverged",
        None,
        -math.inf,
        "why",
    )
    assert trial.grad_equivalents == 4


def test_studies_may_be_kept_in_a_shared_folder(
    tune_command: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    words = ["optimizer=sgd", *SMALL, "trials=2", "jobs=1", f"storage={tmp_path / 'shared'}"]
    tune_command(*words)
    assert [path.suffix for path in (tmp_path / "shared").glob("*.journal")] == [".journal"]
    assert not (home / "tune" / "studies").exists()
    (home / "tune" / "runs").rename(tmp_path / "of_another_machine")
    _, output, _ = tune_command(*words)
    assert "2 of them are recorded already" in output
    assert not (home / "tune" / "runs").exists()


def test_one_of_many_that_a_yaml_stands_for_is_tuned_by_its_own_name(
    tune_command: Callable[..., Any], home: Path
) -> None:
    words = [
        "optimizer.name=Lookahead",
        "optimizer.settings.optimizer=SGD",
        "optimizer.settings.k=2",
        "scale=quick",
    ]
    small = ["steps=2", "task.hidden=[4]", "trials=2", "jobs=1"]
    _, output, _ = tune_command("optimizer=pytorch_optimizer", "task=mlp", *words, *small)
    name = "mlp_pytorch_optimizer_lookahead"

    assert [path.name for path in (home / "tuned").iterdir()] == [f"{name}.yaml"]
    assert "of 2: final validation accuracy" in (home / "tuned" / f"{name}.yaml").read_text()
    assert "pytorch_optimizer_lookahead on mlp, {}: done" in output
    assert f"to use these values: tuned={name}\n" in output


def test_a_file_of_the_users_is_tuned_under_its_own_name(
    tune_command: Callable[..., Any], home: Path, root: Path
) -> None:
    file = root / "examples" / "my_task.py"
    code, output, err = tune_command(
        "optimizer=sgd", "task=custom", f"task.file={file}", "steps=2", "trials=1", "jobs=1"
    )
    assert (code, err) == (0, "")
    assert [path.name for path in (home / "tuned").iterdir()] == ["my_task_sgd.yaml"]
    assert "to use these values: 'tuned=my_task_${optimizer}'" in output


def test_a_broken_file_ends_the_study_at_once(
    tune_command: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("def model(:\n")
    words = [
        "optimizer=sgd",
        "task=custom",
        f"task.file={tmp_path / 'broken.py'}",
        "steps=2",
        "trials=5",
        "jobs=1",
    ]
    code, output, err = tune_command(*words)
    assert code == 2
    assert "broken.py" in err
    assert "[" not in output
    assert len(load_trials(home)) == 0


def test_tpe_is_repeatable_and_goes_on_where_it_was(
    tune_command: Callable[..., Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "STARTUP", 2)
    words = ["optimizer=sgd", *SMALL, "jobs=1", "sampler=tpe"]
    tune_command(*words, "trials=4")
    at_once = [json.dumps(settings) for settings in load_trials(home)["settings"]]
    (home / "tune" / "studies").rename(tmp_path / "before")
    tune_command(*words, "trials=3")
    tune_command(*words, "trials=4")
    assert [
        json.dumps(settings) for settings in load_trials(home).query("sampler == 'tpe'")["settings"]
    ] == at_once
    assert at_once[3] != json.dumps(sampling.sequence(load_trials(home)["space"].iloc[0], 4)[3])
    _, output, _ = tune_command(*[word.replace("jobs=1", "jobs=2") for word in words], "trials=4")
    assert (
        "sampler=tpe with several jobs tries other settings each time; jobs=1 is reproducible"
        in output
    )
