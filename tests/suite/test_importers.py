"""Published results read as runs: times, scores and losses are those that were published.

Damage is told by file.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suite.importers import algoperf, deepobs
from suite.importers.__main__ import main
from suite.importers.foreign import ImportFaultError, direction_of
from suite.report.report import write_report
from suite.report.sections.answers.final_metrics import main_table
from suite.results.archive import read_archive, write_archive
from suite.results.frame import build_records
from suite.results.levels import levels
from suite.results.load import load_runs
from suite.results.time_to_target import times
from suite.stats import performance_profile, profile_score, time_to_target
from suite.tables.markdown import markdown

FIXTURES = Path(__file__).parent / "fixtures"


ALGOPERF, DEEPOBS = FIXTURES / "algoperf", FIXTURES / "deepobs"


# -- AlgoPerf --------------------------------------------------------------------------------------


def published_times() -> pd.DataFrame:
    """AlgoPerf's times to targets, a row a workload; no entry means not reached."""
    table = pd.read_csv(ALGOPERF / "time_to_targets.csv", index_col="submission")
    return table.astype(float).T.fillna(math.inf)


def test_the_median_times_to_the_target_are_those_that_algoperf_published() -> None:
    records = build_records(algoperf.read(ALGOPERF), [])
    (problem,) = records.problems
    assert levels(records, problem) == {"target": 0.723653}
    ours = times(records, "seconds").loc[problem]
    published = published_times().loc["fastmri"]
    assert set(ours.index) == {"ademamix", "schedule_free_adamw_v2"}
    for submission, seconds in ours.items():
        assert seconds == pytest.approx(published[submission], rel=1e-15)
    # the median of 10206, 12799 and 7546
    assert times(records, "steps").loc[problem, "ademamix"] == 10206


def test_scores_from_the_published_times_are_the_published_ones() -> None:
    """The benchmark integrates its profiles by trapezoids over 100 points from 1 to 4.

    Ours is the exact integral.
    """
    table = published_times()
    published = pd.read_csv(ALGOPERF / "leaderboard.csv", index_col=0)["score_by_wallclock"]
    profile = performance_profile(table)
    grid = np.linspace(1, 4, 100)
    shares = [profile[profile.index <= tau].iloc[-1] for tau in grid]
    by_trapezoids = pd.Series(
        np.trapezoid(np.array(shares), grid, axis=0) / 3, index=profile.columns
    )
    np.testing.assert_allclose(by_trapezoids[published.index], published, rtol=0, atol=1e-12)
    exact = profile_score(table, tau_max=4.0)
    np.testing.assert_allclose(exact[published.index], published, rtol=0, atol=0.002)
    assert list(exact.sort_values(ascending=False).index[:3]) == list(published.index[:3])


def test_what_a_trial_says_is_kept() -> None:
    first = next(
        run for run in algoperf.read(ALGOPERF) if run.optimizer == "ademamix" and run.seed == 0
    )
    assert (first.task, first.status, first.number("steps")) == ("fastmri", "done", 10206)
    assert first.environment["gpu"] == "4 x NVIDIA A100-SXM4-40GB"
    assert first.number("final_ssim") == 0.724893770663337
    assert first.number("target_seconds") == 1555.3687834739685
    table = first.history
    assert table["step"].is_monotonic_increasing
    assert table["step"].is_unique
    row = table[table["step"] == 1].iloc[0]  # an evaluation, and a row of the training loss, in one
    assert (row["seconds"], row["val/ssim"], row["loss"]) == (
        239.4470498561859,
        0.2339671429584183,
        0.9878648519515992,
    )
    assert row["test/ssim"] == 0.2555283943523544


def test_a_study_is_spoken_for_by_its_fastest_trial(tmp_path: Path) -> None:
    study = tmp_path / "logs" / "mine" / "study_0" / "fastmri_pytorch"
    source = ALGOPERF / "schedule_free_adamw_v2"
    for trial, number in enumerate((1, 2, 0), start=1):  # 1279.7, 1018.6 and 1128.8 s
        shutil.copytree(
            source / f"study_{number}" / "fastmri_pytorch" / "trial_1", study / f"trial_{trial}"
        )
        (study / f"trial_{trial}" / "hparams.json").write_text(
            json.dumps({"learning_rate": 0.1 * trial})
        )
    never = pd.read_csv(study / "trial_1" / "eval_measurements.csv").iloc[:-1]
    (study / "trial_4").mkdir()
    never.to_csv(study / "trial_4" / "eval_measurements.csv", index=False)
    (run,) = algoperf.read(tmp_path)
    assert (run.number("target_seconds"), run.config["trial"]) == (1018.5896019935608, 2)
    assert run.config["hyperparameters"] == {"learning_rate": 0.2}
    assert run.config["optimizer"] == {"_target_": "algoperf.mine"}


def test_a_submissions_own_folder_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ALGOPERF / "ademamix")
    assert [(run.optimizer, run.seed) for run in algoperf.read(Path("."))] == [
        ("ademamix", seed) for seed in range(3)
    ]
    assert [run.seed for run in algoperf.read(Path("study_1"))] == [1]


def test_a_workload_that_is_judged_by_its_loss(tmp_path: Path) -> None:
    folder = tmp_path / "sub" / "study_0" / "criteo1tb_jax" / "trial_1"
    folder.mkdir(parents=True)
    text = (
        "global_step,accumulated_submission_time,validation/loss,test/loss\n1,5,0.7,0.7\n"
        "100,60,0.1236,0.126\n"
    )
    (folder / "eval_measurements.csv").write_text(text)
    (run,) = algoperf.read(tmp_path)
    assert (run.config["metric"], run.config["direction"]) == ("eval_loss", "min")
    assert run.number("target_seconds") == 60
    assert math.isnan(run.number("final_loss"))  # the training loss was not logged


ALGOPERF_FAULTS: dict[str, Callable[[Path], Any]] = {
    "is not a table of numbers, or cut off": lambda f: (f / "eval_measurements.csv").write_text(
        "a,b\n1,2\nx,3\n"
    ),
    "has no column 'global_step'": lambda f: (f / "eval_measurements.csv").write_text("a,b\n1,2\n"),
    "has no rows": lambda f: (f / "eval_measurements.csv").write_text(
        "global_step,validation/ssim\n"
    ),
    "has no column 'validation/ssim'": lambda f: (f / "eval_measurements.csv").write_text(
        "global_step,x\n1,2\n"
    ),
    "is not JSON, or cut off": lambda f: (f / "meta_data_0.json").write_text('{"a": '),
}


@pytest.mark.parametrize("message", ALGOPERF_FAULTS)
def test_a_broken_log_is_named(tmp_path: Path, message: str) -> None:
    folder = tmp_path / "sub" / "study_0" / "fastmri_jax" / "trial_1"
    shutil.copytree(ALGOPERF / "ademamix" / "study_1" / "fastmri_pytorch" / "trial_1", folder)
    ALGOPERF_FAULTS[message](folder)
    with pytest.raises(ImportFaultError, match=message) as fault:
        algoperf.read(tmp_path)
    assert "trial_1" in str(fault.value)


def test_folders_without_trials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFaultError, match="has no trials of AlgoPerf; they are folders"):
        algoperf.read(tmp_path)
    with pytest.raises(ImportFaultError, match="is no folder"):
        algoperf.read(tmp_path / "nowhere")
    odd = tmp_path / "a" / "b"
    odd.mkdir(parents=True)
    shutil.copy(ALGOPERF / "ademamix/study_1/fastmri_pytorch/trial_1/eval_measurements.csv", odd)
    with pytest.raises(ImportFaultError, match="by which a trial is told"):
        algoperf.read(tmp_path)
    unknown = tmp_path / "c" / "study_0" / "novel_jax" / "trial_1"
    shutil.move(odd, unknown)
    with pytest.raises(ImportFaultError, match="tells the target of novel"):
        algoperf.read(tmp_path)


# -- DeepOBS ---------------------------------------------------------------------------------------


def published(name: str) -> tuple[Path, dict[str, Any]]:
    (file,) = DEEPOBS.glob(f"quadratic_deep/GradientDescentOptimizer/*{name}/*.json")
    return file, json.loads(file.read_text())


def test_a_run_of_deepobs_has_the_losses_that_were_published() -> None:
    file, content = published("lr__1.5848931925e-02")
    (run,) = deepobs.read(file)
    assert (run.task, run.optimizer, run.seed, run.status) == (
        "quadratic_deep",
        "GradientDescentOptimizer",
        46,
        "done",
    )
    evaluated = run.history.dropna(subset=["val/eval_loss"])
    # seven batches of 128 of a thousand examples
    assert list(evaluated["step"]) == [0, 7, 14, 21, 28]
    assert list(evaluated["val/eval_loss"]) == content["test_losses"]
    logged = run.history.dropna(subset=["loss"])
    assert list(logged["step"]) == list(range(1, 29))
    assert list(logged["loss"]) == content["minibatch_train_losses"]
    assert run.number("final_eval_loss") == content["test_losses"][-1]
    assert run.config["optimizer"]["lr"] == 0.015848931925
    assert run.config["task"]["judged_on"] == "test set"
    assert (
        time_to_target(run.history, 101.5, "min", metric="val/eval_loss", unit="grad_equivalents")
        == 21
    )


def test_a_run_of_deepobs_that_diverged_is_counted_as_such() -> None:
    file, _ = published("lr__1.e+01")
    (run,) = deepobs.read(file)
    assert run.status == "diverged"
    assert math.isnan(run.number("final_eval_loss"))
    records = build_records(deepobs.read(DEEPOBS), [])
    assert sorted(records.frame["status"]) == ["diverged", "done"]
    assert len(records.problems) == 1
    assert len(records.optimizers) == 2  # two learning rates


def test_the_later_format_of_deepobs(tmp_path: Path) -> None:
    """Version 1.2 has a validation set, accuracies, and its optimizer's settings under another
    name."""
    _, content = published("lr__1.5848931925e-02")
    del content["hyperparams"], content["learning_rate"]
    rising = [0.1, 0.2, 0.4, 0.5, 0.6]
    new = {"optimizer_hyperparams": {"lr": 0.25, "momentum": 0.9}, "l2_reg": 5e-4}
    new |= {
        "valid_losses": content["test_losses"],
        "valid_accuracies": rising,
        "test_accuracies": rising[::-1],
    }
    (tmp_path / "run.json").write_text(json.dumps({**content, **new}))
    (run,) = deepobs.read(tmp_path)
    assert (run.config["metric"], run.config["direction"]) == ("accuracy", "max")
    assert list(run.history["val/accuracy"].dropna()) == rising
    assert list(run.history["test/accuracy"].dropna()) == rising[::-1]
    assert run.config["optimizer"] == {
        "_target_": "deepobs.GradientDescentOptimizer",
        "lr": 0.25,
        "momentum": 0.9,
    }
    assert (run.config["task"]["judged_on"], run.config["task"]["weight_decay"]) == (
        "validation set",
        5e-4,
    )


DEEPOBS_FAULTS = {
    "is not JSON, or cut off": lambda content: json.dumps(content)[:500],
    "is a list, not a mapping": lambda content: "[1, 2]",
    "has no 'testproblem'": lambda content: json.dumps(
        {k: v for k, v in content.items() if k != "testproblem"}
    ),
    "test_losses has 3 values for 4 epochs, not 5": lambda content: json.dumps(
        {**content, "test_losses": [1, 2, 3]}
    ),
    "27 mini-batch losses in 4 epochs": lambda content: json.dumps(
        {**content, "minibatch_train_losses": content["minibatch_train_losses"][:-1]}
    ),
}


@pytest.mark.parametrize("message", DEEPOBS_FAULTS)
def test_a_broken_output_of_deepobs_is_named(tmp_path: Path, message: str) -> None:
    _, content = published("lr__1.5848931925e-02")
    (tmp_path / "broken.json").write_text(DEEPOBS_FAULTS[message](content))
    with pytest.raises(ImportFaultError, match=message) as fault:
        deepobs.read(tmp_path)
    assert "broken.json" in str(fault.value)


def test_a_folder_without_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFaultError, match="has no JSON files"):
        deepobs.read(tmp_path)


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("wer", "min"), ("error_rate", "min"), ("val_loss", "min"), ("bleu", "max")],
)
def test_the_direction_of_a_metric(metric: str, direction: str) -> None:
    assert direction_of(metric) == direction


def test_the_command_makes_an_archive_that_can_be_reported_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], offline: Path
) -> None:
    for source, path in (("algoperf", ALGOPERF), ("deepobs", DEEPOBS), ("wandb", offline)):
        out = tmp_path / "archives" / source
        assert main([source, str(path), "--out", str(out), "--about", "published"]) == 0
        assert f"python -m suite.report --runs {out}" in capsys.readouterr().out
    runs, damaged = load_runs(tmp_path / "archives")
    assert (len(runs), damaged) == (9, [])
    records = build_records(runs, damaged)
    assert len(records.problems) == 3
    table = markdown(main_table(records))
    assert "| schedule\\_free\\_adamw\\_v2 |" in table
    assert "0.7249 ± 0.0001 (3)" in table  # of 0.72489, 0.72495 and 0.72481


@pytest.mark.slow
def test_a_report_can_do_without_seconds_and_losses(tmp_path: Path) -> None:
    runs = [*algoperf.read(ALGOPERF), *deepobs.read(DEEPOBS)]
    write_report(build_records(runs, []), tmp_path, "title", "command")
    assert {"main.md", "results.md"} <= {path.name for path in (tmp_path / "tables").iterdir()}
    assert len(list((tmp_path / "figures").rglob("*.png"))) >= 2


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["deepobs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "has no JSON files" in capsys.readouterr().err


def test_imported_runs_survive_an_archive(tmp_path: Path) -> None:
    runs = algoperf.read(ALGOPERF)
    back = read_archive(write_archive(runs, tmp_path / "archive"))
    for one, other in zip(runs, back, strict=True):
        assert (other.path.parts[-3:], other.summary) == (one.path.parts[-3:], one.summary)
        pd.testing.assert_frame_equal(other.history, one.history)
