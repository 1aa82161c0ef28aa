"""The tuner: the same budget of settings for all, the default among them.

Its file says where the values come from.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pytest
import yaml

from suite import paths
from suite.config import registry, targets
from suite.errors import ConfigError
from suite.training.runner import Outcome, run
from suite.tune import __main__ as tune
from suite.tune import load_trials, sampling
from suite.tune.execution import trial_of
from suite.tune.study import TUNING_SEED, Request, studies

SMALL = ["task=quadratic", "scale=quick", "task.steps=5"]
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def home(results: Path) -> Path:
    (results / "tune").mkdir()
    (results / "tune" / "costs").symlink_to(results / "costs")
    return results


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path
) -> Callable[..., Any]:
    """`python -m suite.tune ...` in this process: what it ended with, and what it said."""

    def command(*words: str) -> tuple[int, str, str]:
        given = [
            *words,
            *([] if any(word.startswith("out=") for word in words) else [f"out={home / 'tuned'}"]),
        ]
        monkeypatch.setattr("sys.argv", ["suite.tune", *given])
        capsys.readouterr()
        code = 0
        try:
            tune.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def runs(home: Path, pair: str) -> list[Path]:
    return sorted((home / "tune" / "runs" / pair).iterdir())


# -- what is asked for -----------------------------------------------------------------------------


def test_a_command_line_is_a_request() -> None:
    request = tune.parse(
        ["optimizer=sgd,kfac", "task=mlp", "trials=5", "jobs=3", "scale=quick", "out=/x", "steps=7"]
    )

    assert (request.optimizers, request.tasks, request.trials, request.jobs) == (
        ["sgd", "kfac"],
        ["mlp"],
        5,
        3,
    )
    assert (list(request.overrides), request.out) == (["scale=quick", "steps=7"], Path("/x"))
    assert (request.sampler, request.pruner, request.seeds, request.batched) == (
        "quasi",
        "none",
        1,
        1,
    )
    assert (
        request.command
        == "python -m suite.tune optimizer=sgd,kfac task=mlp trials=5 scale=quick steps=7"
    )


def test_options_of_the_study_are_part_of_the_command_that_repeats_it() -> None:
    request = tune.parse(
        ["optimizer=sgd", "task=mlp", "sampler=tpe", "seeds=2", "batched=auto", "storage=/shared"]
    )
    assert (request.sampler, request.seeds, request.batched, request.storage) == (
        "tpe",
        2,
        32,
        Path("/shared"),
    )
    assert (
        request.command
        == "python -m suite.tune optimizer=sgd task=mlp trials=12 sampler=tpe seeds=2"
    )


def test_help_is_printed_and_no_error(call: Callable[..., Any]) -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert out.startswith("Equal-budget tuning.\n\n    python -m suite.tune")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=mlp"], "Equal-budget tuning.\n\n    python -m suite.tune"),
        (["optimizer=sgd"], "Equal-budget tuning"),
        (["optimizer=sdg", "task=mlp"], "optimizer=sdg is not one of "),
        (["optimizer=sgd", "task=mlp,mlq"], "task=mlq is not one of "),
        (
            ["optimizer=sgd", "task=mlp", "trials=0"],
            "trials must be a whole number from 1 on, got '0'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "trials=many"],
            "trials must be a whole number from 1 on, got 'many'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "trials="],
            "trials must be a whole number from 1 on, got ''",
        ),
        (
            ["optimizer=sgd", "task=mlp", "jobs=-1"],
            "jobs must be a whole number from 1 on, got '-1'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "seeds=1.5"],
            "seeds must be a whole number from 1 on, got '1.5'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "batched=all"],
            "batched must be a whole number from 1 on, got 'all'",
        ),
        (
            ["optimizer=sgd", "task=mlp", "sampler=quasy"],
            "sampler=quasy is not one of quasi, random, tpe. Did you mean quasi?",
        ),
        (
            ["optimizer=sgd", "task=mlp", "pruner=hyperband"],
            "pruner=hyperband is not one of none, halving.",
        ),
        (
            ["optimizer=sgd", "task=mlp", "pruner=halving", "seeds=2"],
            "pruner=halving runs all trials side by side",
        ),
        (
            ["optimizer=sgd", "task=mlp", "pruner=halving", "sampler=tpe"],
            "pruner=halving runs all trials side by side",
        ),
        (
            ["optimizer=sgd", "task=mlp", "seed=3"],
            "seed= is not for this command: trials have seeds of their own",
        ),
        (
            ["optimizer=sgd", "task=mlp", "force=true"],
            "force= is not for this command: what is recorded is not tried again",
        ),
        (
            ["optimizer=sgd", "task=mlp", "tuned=mlp_sgd"],
            "tuned= is not for this command: tuning begins with the default settings",
        ),
        (["optimizer=sgd", "task=mlp", "quick"], "'quick' is not of the form key=value"),
        (["optimizer=sgd", "optimizer=kfac", "task=mlp"], "optimizer is given twice"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tune.parse(arguments)
    assert message in str(refused.value)


def test_an_unknown_setting_is_refused_with_the_closest_before_anything_runs(
    call: Callable[..., Any], home: Path
) -> None:
    code, _, err = call("optimizer=sgd", "task=quadratic", "trials=1", "jobs=1", "task.stepss=3")
    assert code == 2
    assert "task quadratic has no 'stepss'. Did you mean steps?" in err
    assert not (home / "tune" / "runs").exists()
    assert not (home / "tune" / "studies").exists()


def test_a_storage_that_cannot_be_written_is_refused(call: Callable[..., Any], home: Path) -> None:
    (home / "file").write_text("")
    code, _, err = call("optimizer=sgd", *SMALL, "trials=1", "jobs=1", f"storage={home / 'file'}")
    assert code == 2
    assert "the study cannot be kept in" in err
    assert "storage=PATH" in err


def test_a_search_space_that_makes_no_sense_is_refused(call: Callable[..., Any]) -> None:
    code, _, err = call("optimizer=sgd", *SMALL, "trials=2", "jobs=1", "optimizer.search.lr.low=20")
    assert code == 2
    assert err.startswith(
        "the search space of optimizer sgd: lr must have a low below its high, got 20 and 10.0"
    )


def test_a_space_that_names_no_setting_is_refused(call: Callable[..., Any]) -> None:
    code, _, err = call(
        "optimizer=sgd", *SMALL, "trials=2", "jobs=1", "+optimizer.search.rate={choices: [1]}"
    )
    assert code == 2
    assert "the search space names 'rate', which is no setting of torch.optim.SGD" in err


# -- studies ---------------------------------------------------------------------------------------


def request(*words: str) -> Request:
    return tune.parse([*words, "jobs=1", "out=/x"])


def test_what_the_command_line_sets_is_not_searched() -> None:
    (study,) = studies(
        request("optimizer=kfac", "task=mlp", "scale=quick", "optimizer.damping=0.1")
    )
    assert list(study.space) == ["lr", "kl_clip"]
    assert study.defaults == {"lr": 0.1, "kl_clip": 0.001}
    assert study.plan.config["optimizer"]["damping"] == 0.1


def test_a_space_may_be_changed_on_the_command_line_and_is_another_study() -> None:
    (study,) = studies(request("optimizer=sgd", *SMALL))
    (wider,) = studies(request("optimizer=sgd", *SMALL, "optimizer.search.lr.high=30"))
    assert (study.space["lr"]["high"], wider.space["lr"]["high"]) == (10.0, 30)
    assert study.name != wider.name


def test_the_same_runs_asked_for_in_other_words_are_the_same_study() -> None:
    names = [
        studies(request("optimizer=sgd", *words))[0].name
        for words in (SMALL, [*SMALL[::-1], "log_every=3"])
    ]
    assert names[0] == names[1]
    (longer,) = studies(request("optimizer=sgd", *SMALL[:-1], "task.steps=6"))
    assert longer.name != names[0]


def test_the_tuning_seeds_are_none_of_those_that_comparisons_use() -> None:
    experiment = registry.read("experiment", "quick")
    seeds = [int(word) for word in experiment["hydra"]["sweeper"]["params"]["seed"].split(",")]
    (study,) = studies(request("optimizer=sgd", *SMALL, "seeds=3"))
    assert study.seeds == [TUNING_SEED, TUNING_SEED + 1, TUNING_SEED + 2]
    assert study.plan.seed == TUNING_SEED
    assert not set(study.seeds) & set(seeds)


def test_a_stored_target_does_not_make_trials_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = studies(request("optimizer=sgd", *SMALL, "task.target=null"))
    monkeypatch.setattr(
        targets, "find", lambda *given: {"target": 0.125, "levels": {50: 0.25, 100: 0.125}}
    )
    (after,) = studies(request("optimizer=sgd", *SMALL, "task.target=null"))
    assert after.plan.config["levels"] == {50: 0.25, 100: 0.125}
    assert after.plan.config["target"] is None
    assert (after.name, after.plan.run_id) == (before.name, before.plan.run_id)


# -- the whole way ---------------------------------------------------------------------------------


def test_a_small_study_ends_with_the_best_of_its_runs(call: Callable[..., Any], home: Path) -> None:
    words = ["optimizer=sgd,kfac", *SMALL, "trials=3", "jobs=1"]
    code, said, _ = call(*words)
    out = home / "tuned"

    assert code == 0
    assert said.startswith("6 trials: 1 tasks x 2 optimizers x 3\n")
    assert said.count("kfac on quadratic, ") == 3
    assert "kfac on quadratic: no trial of 3 ended well (3 unsupported)" in said
    assert "tuning sgd on quadratic: 3 trials, " in said
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
    _, again, _ = call(*words)  # every trial is only looked up
    assert "6 of them are recorded already" in again
    assert "[" not in again
    assert (out / "quadratic_sgd.yaml").read_bytes() == written
    assert len(runs(home, "quadratic/sgd")) == 3


def test_a_larger_budget_does_the_missing_trials_only(call: Callable[..., Any], home: Path) -> None:
    call("optimizer=sgd", *SMALL, "trials=2", "jobs=1")
    before = {
        path: (path / "summary.json").stat().st_mtime_ns for path in runs(home, "quadratic/sgd")
    }
    _, said, _ = call("optimizer=sgd", *SMALL, "trials=4", "jobs=1")
    assert "2 of them are recorded already" in said
    assert [line.split("]")[0] for line in said.splitlines() if line.startswith("[")] == [
        "[3/4",
        "[4/4",
    ]
    after = {
        path: (path / "summary.json").stat().st_mtime_ns for path in runs(home, "quadratic/sgd")
    }
    assert len(after) == 4
    assert before.items() <= after.items()

    _, said, _ = call("optimizer=sgd", *SMALL, "trials=3", "jobs=1")
    assert "sgd on quadratic: the study has 1 trials more, of a larger request" in said
    assert "# Trial 0 of 3:" in (home / "tuned" / "quadratic_sgd.yaml").read_text()


def test_one_trial_is_the_default_setting(call: Callable[..., Any], home: Path) -> None:
    call("optimizer=sgd", *SMALL, "trials=1", "jobs=1")
    assert yaml.safe_load((home / "tuned" / "quadratic_sgd.yaml").read_text()) == {"optimizer": {}}
    assert load_trials(home)["settings"].to_list() == [{}]


def test_where_nothing_is_searched_the_default_is_the_only_trial(
    call: Callable[..., Any], home: Path
) -> None:
    _, said, _ = call("optimizer=sgd,momentum", *SMALL, "trials=3", "jobs=1", "optimizer.lr=0.05")
    assert said.startswith("4 trials: ")
    assert "sgd on quadratic: nothing to search, so its default setting is its only trial" in said
    assert (
        "not equally tuned on quadratic; trials: sgd 1, momentum 3 (nothing to search is one trial"
        in said
    )
    assert load_trials(home).groupby("optimizer").size().to_dict() == {"momentum": 3, "sgd": 1}


def test_several_seeds_score_a_setting_by_their_mean(call: Callable[..., Any], home: Path) -> None:
    call(
        "optimizer=sgd", "task=logistic", "scale=quick", "steps=3", "trials=2", "seeds=2", "jobs=1"
    )
    trials = load_trials(home)
    assert list(trials["seeds"]) == [2, 2]
    found: dict[float, list[Any]] = {}
    for path in runs(home, "logistic/sgd"):
        config = yaml.safe_load((path / "config.yaml").read_text())
        found.setdefault(config["optimizer"]["lr"], []).append(
            json.loads((path / "summary.json").read_text())
        )
    for _, row in trials.iterrows():
        told = found[row["settings"].get("lr", registry.read("optimizer", "sgd")["lr"])]
        assert sorted(each["seed"] for each in told) == [1000, 1001]
        assert row["value"] == pytest.approx(
            sum(each[f"final_{row['metric']}"] for each in told) / 2, rel=1e-12
        )
        assert row["grad_equivalents"] == 6
        assert row["seconds"] == pytest.approx(sum(each["seconds"] for each in told))


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
    call: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    words = ["optimizer=sgd", *SMALL, "trials=2", "jobs=1", f"storage={tmp_path / 'shared'}"]
    call(*words)
    assert [path.suffix for path in (tmp_path / "shared").glob("*.journal")] == [".journal"]
    assert not (home / "tune" / "studies").exists()
    (home / "tune" / "runs").rename(tmp_path / "of_another_machine")
    _, said, _ = call(*words)
    assert "2 of them are recorded already" in said
    assert not (home / "tune" / "runs").exists()


def test_one_of_many_that_a_yaml_stands_for_is_tuned_by_its_own_name(
    call: Callable[..., Any], home: Path
) -> None:
    given = [
        "optimizer.name=Lookahead",
        "optimizer.settings.optimizer=SGD",
        "optimizer.settings.k=2",
        "scale=quick",
    ]
    small = ["steps=2", "task.hidden=[4]", "trials=2", "jobs=1"]
    _, said, _ = call("optimizer=pytorch_optimizer", "task=mlp", *given, *small)
    name = "mlp_pytorch_optimizer_lookahead"

    assert [path.name for path in (home / "tuned").iterdir()] == [f"{name}.yaml"]
    assert "of 2: final validation accuracy" in (home / "tuned" / f"{name}.yaml").read_text()
    assert "pytorch_optimizer_lookahead on mlp, {}: done" in said
    assert f"to use these values: tuned={name}\n" in said


def test_a_file_of_the_users_is_tuned_under_its_own_name(
    call: Callable[..., Any], home: Path, root: Path
) -> None:
    file = root / "examples" / "my_task.py"
    code, said, err = call(
        "optimizer=sgd", "task=custom", f"task.file={file}", "steps=2", "trials=1", "jobs=1"
    )
    assert (code, err) == (0, "")
    assert [path.name for path in (home / "tuned").iterdir()] == ["my_task_sgd.yaml"]
    assert "to use these values: 'tuned=my_task_${optimizer}'" in said


def test_a_broken_file_ends_the_study_at_once(
    call: Callable[..., Any], home: Path, tmp_path: Path
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
    code, said, err = call(*words)
    assert code == 2
    assert "broken.py" in err
    assert "[" not in said
    assert len(load_trials(home)) == 0


def test_tpe_is_repeatable_and_goes_on_where_it_was(
    call: Callable[..., Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "STARTUP", 2)
    words = ["optimizer=sgd", *SMALL, "jobs=1", "sampler=tpe"]
    call(*words, "trials=4")
    at_once = [json.dumps(settings) for settings in load_trials(home)["settings"]]
    (home / "tune" / "studies").rename(tmp_path / "before")
    call(*words, "trials=3")
    call(*words, "trials=4")
    assert [
        json.dumps(settings) for settings in load_trials(home).query("sampler == 'tpe'")["settings"]
    ] == at_once
    assert at_once[3] != json.dumps(sampling.sequence(load_trials(home)["space"].iloc[0], 4)[3])
    _, said, _ = call(*[word.replace("jobs=1", "jobs=2") for word in words], "trials=4")
    assert (
        "sampler=tpe with several jobs tries other settings each time; jobs=1 is reproducible"
        in said
    )


# -- interruptions and company ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_trial_ends_the_study_and_is_gone_on_with(
    call: Callable[..., Any],
    home: Path,
    at_batch: Callable[..., Any],
    planned: Callable[..., Any],
    number: Any,
) -> None:
    words = ["optimizer=sgd", "task=quadratic", "trials=2", "jobs=1", "scale=quick", "task.steps=9"]
    with at_batch(planned("task=quadratic"), 5, lambda: signal.raise_signal(number)):
        code, _, err = call(*words)
    assert code == 130
    assert "The same command goes on where this one stopped." in err
    assert not (home / "tuned").exists()
    (run,) = runs(home, "quadratic/sgd")
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"

    code, said, _ = call(*words)
    assert code == 0
    assert "[2/2]" in said
    assert set(load_trials(home)["status"]) == {"done"}
    with (run / "history.csv").open() as file:
        steps = [line.split(",")[0] for line in file][1:]
    assert steps == [str(step) for step in range(10)]  # gone on with, not begun anew


def test_a_process_killed_in_mid_trial_leaves_it_to_the_next(
    call: Callable[..., Any], home: Path, at_batch: Callable[..., Any], planned: Callable[..., Any]
) -> None:
    words = ["optimizer=sgd", "task=quadratic", "trials=3", "jobs=1", "scale=quick", "task.steps=9"]
    marker = home / "at_work"

    def hang() -> None:
        marker.touch()
        time.sleep(600)

    with at_batch(planned("task=quadratic"), 5, hang):
        child = FORK.Process(target=call, args=words)
        child.start()
        deadline = time.monotonic() + 300
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert marker.exists()
        os.kill(int(child.pid or 0), signal.SIGKILL)
        child.join()
    assert len(load_trials(home)) == 0

    code, said, _ = call(*words)
    assert code == 0
    assert [line.split("]")[0] for line in said.splitlines() if line.startswith("[")] == [
        "[1/3",
        "[2/3",
        "[3/3",
    ]
    assert list(load_trials(home)["number"]) == [0, 1, 2]
    assert len(runs(home, "quadratic/sgd")) == 3
    (journal,) = (home / "tune" / "studies").glob("*.journal")
    assert journal.read_text().count('"attempts":2') == 1
    assert not list((home / "tune" / "studies" / "workers").glob(f"*-{os.getpid()}-*"))


def test_two_commands_at_once_share_one_study(
    call: Callable[..., Any], home: Path, at_batch: Callable[..., Any], planned: Callable[..., Any]
) -> None:
    words = ["optimizer=sgd", "task=quadratic", "trials=6", "jobs=1", "scale=quick", "task.steps=5"]
    started = FORK.Barrier(2)

    def wait() -> None:
        with suppress(
            BrokenBarrierError
        ):  # broken by its timeout, or by nobody else being at a trial any more
            started.wait(60)

    with at_batch(planned("task=quadratic"), 3, wait):
        children = [FORK.Process(target=call, args=words) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
    assert [child.exitcode for child in children] == [0, 0]
    (journal,) = (home / "tune" / "studies").glob("*.journal")
    begun = [line for line in journal.read_text().splitlines() if '"attempts":1' in line]
    owners = {json.loads(line)["user_attrs"]["owner"]["name"] for line in begun}
    assert len(begun) == len(runs(home, "quadratic/sgd")) == 6
    assert len(owners) == 2  # both took part
    assert list(load_trials(home)["number"]) == list(range(6))
    assert (home / "tuned" / "quadratic_sgd.yaml").exists()


@pytest.mark.slow
def test_two_jobs_find_what_one_finds(call: Callable[..., Any], home: Path) -> None:
    code, said, _ = call("optimizer=sgd,kfac", *SMALL, "trials=3", "jobs=2")
    assert code == 0, said
    parallel = load_trials(home)
    assert {
        json.loads((Path(path) / "summary.json").read_text())["parallel"]
        for path in parallel["path"]
    } == {True}
    for name in ("studies", "runs"):
        (home / "tune" / name).rename(home / f"{name}_of_two")
    call("optimizer=sgd,kfac", *SMALL, "trials=3", "jobs=1")
    alone = load_trials(home)
    same = [name for name in alone.columns if name != "seconds"]
    assert alone[same].astype(str).equals(parallel[same].astype(str))


@pytest.mark.slow
def test_a_broken_file_ends_all_jobs_and_is_said_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def model(:\n")
    words = [
        "optimizer=sgd",
        "task=custom",
        f"task.file={tmp_path / 'broken.py'}",
        "steps=2",
        "trials=5",
        "jobs=2",
    ]
    command = [sys.executable, "-m", "suite.tune", *words, f"out={home / 'tuned'}"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2
    assert done.stderr.count("broken.py") == 1
    assert "Traceback" not in done.stderr
    assert not (home / "tuned").exists()


# -- batches ---------------------------------------------------------------------------------------


def test_batched_trials_find_what_separate_ones_find(call: Callable[..., Any], home: Path) -> None:
    words = ["optimizer=momentum", "task=logistic", "scale=quick", "steps=20", "trials=6", "jobs=1"]
    code, said, _ = call(*words, "batched=4")
    assert code == 0
    assert "not batched" not in said
    together = load_trials(home)
    told = [
        json.loads((Path(path) / "summary.json").read_text()).get("batched")
        for path in together["path"]
    ]
    assert told == [4, 4, 4, 4, 2, 2]
    for name in ("studies", "runs"):
        (home / "tune" / name).rename(home / f"{name}_of_batches")
    call(*words)
    alone = load_trials(home)
    assert list(alone["settings"]) == list(together["settings"])
    assert list(alone["study"]) == list(together["study"])
    assert list(alone["value"]) == pytest.approx(list(together["value"]), rel=1e-4, nan_ok=True)


def test_a_method_that_cannot_be_batched_is_run_by_itself_and_said(
    call: Callable[..., Any], home: Path
) -> None:
    words = [
        "optimizer=newton",
        "task=quadratic",
        "scale=quick",
        "task.steps=3",
        "trials=3",
        "jobs=1",
    ]
    code, said, _ = call(*words, "batched=auto")
    assert code == 0
    assert "newton on quadratic, not batched: newton asks for hessian" in said
    assert list(load_trials(home)["status"]) == ["done"] * 3
