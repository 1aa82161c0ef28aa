"""The command that sets targets: from whole runs of the baseline, stored with where they come
from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite import paths, target
from suite.config import targets
from suite.errors import ConfigError
from suite.target import Request

QUICK = (
    "scale=quick",
    "threads=1",
    "device=cpu",
    "wandb.mode=disabled",
    "task.eval_every=4",
    "steps=12",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(targets, "FOLDER", tmp_path / "targets")
    return tmp_path / "targets"


def asked(folder: Path, *overrides: str, task: str = "quadratic", **others: Any) -> Request:
    return Request(
        [task], **{"optimizer": "adamw", "out": folder, **others}, overrides=[*QUICK, *overrides]
    )


def stored(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text())["quick"])


def finals(results: Path, place: str) -> list[float]:
    summaries = (results / "runs" / place).glob("*/summary.json")
    return [json.loads(path.read_text())["final_gap"] for path in summaries]


def test_the_target_is_the_median_of_the_baselines_runs(
    folder: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = target.establish(asked(folder))
    entry, output = stored(path), capsys.readouterr().out
    runs = entry["origin"]["runs"]

    assert path == folder / "quadratic.yaml"
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert sorted(run["final"] for run in runs) == sorted(finals(results, "quadratic/adamw"))
    assert entry["final"] == sorted(run["final"] for run in runs)[1]
    assert entry["untrained"] == sorted(run["untrained"] for run in runs)[1]
    assert entry["levels"] == targets.ladder(entry["untrained"], entry["final"], "min").values
    assert entry["target"] == entry["levels"][100] >= entry["final"]
    assert (entry["metric"], entry["direction"]) == ("gap", "min")
    assert all((results / "runs" / run["run"] / "summary.json").exists() for run in runs)
    assert f"levels 50 %: {entry['levels'][50]:g}, 80 %: " in output
    assert "The target of runs stays the task's own, 1e-06." in output


def test_the_origin_says_what_repeats_it(folder: Path) -> None:
    (path,) = target.establish(asked(folder, "optimizer.lr=0.03125", seeds=[4, 2]))
    origin = stored(path)["origin"]

    words = "task=quadratic optimizer=adamw seeds=4,2"
    assert (
        origin["command"]
        == f"python -m suite.target {words} {' '.join(QUICK)} optimizer.lr=0.03125"
    )
    assert (origin["baseline"], origin["tuned"], origin["steps"]) == (
        "adamw",
        "quadratic_adamw",
        12,
    )
    assert origin["optimizer"]["lr"] == 0.03125
    assert not {"search", "about"} & set(origin["optimizer"])
    assert [run["seed"] for run in origin["runs"]] == [4, 2]
    assert {"python", "torch", "device", "commit"} == set(origin["versions"])
    again = target.parse(origin["command"].split()[3:])
    assert (again.tasks, again.optimizer, list(again.seeds)) == (["quadratic"], "adamw", [4, 2])


def test_runs_that_are_done_are_only_looked_up(
    folder: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = target.establish(asked(folder, task="vit", seeds=[0]))
    before = stored(first)
    capsys.readouterr()
    (again,) = target.establish(asked(folder, task="vit", seeds=[0]))

    # though the task has a stored target now
    assert "done before, skipped" in capsys.readouterr().out
    assert stored(again) == before
    assert len(list((results / "runs/vit/adamw").iterdir())) == 1


def test_entries_of_several_scales_live_beside_each_other(folder: Path) -> None:
    small = [word for word in QUICK if not word.startswith("scale")] + [
        "scale=small",
        "task.dimension=20",
    ]
    target.establish(Request(["quadratic"], out=folder, seeds=[0], overrides=small))
    (path,) = target.establish(asked(folder, "task.dimension=30", seeds=[0]))
    content = yaml.safe_load(path.read_text())

    assert list(content) == ["quick", "small"]
    assert [content[scale]["setting"]["dimension"] for scale in content] == [30, 20]


def test_one_seed_and_a_baseline_that_is_not_tuned_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = target.establish(asked(folder, task="vit", seeds=[3]))
    output = capsys.readouterr().out
    assert (
        "From one seed only: a lucky run sets the bar for all. Give several: seeds=0,1,2" in output
    )
    assert "The baseline is not tuned" in output
    assert "python -m suite.tune optimizer=adamw task=vit scale=quick" in output
    assert stored(path)["origin"]["tuned"] is None

    target.establish(asked(folder))
    output = capsys.readouterr().out
    assert "one seed" not in output
    assert "not tuned" not in output
    (path,) = target.establish(asked(folder, "~tuned"))
    assert "The baseline is not tuned" in capsys.readouterr().out
    assert stored(path)["origin"]["tuned"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer.lr=1e30"],
            "quadratic: the baseline sgd ended as `diverged` with seed 0, and a target is",
        ),
        (["max_seconds=1e-9"], "the baseline sgd ended as `timeout` with seed 0"),
        (["optimizer.lr=0.0"], "sets no target: the metric went from .* no improvement"),
    ],
)
def test_a_baseline_that_fails_sets_no_target(folder: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        target.establish(asked(folder, *words, optimizer="sgd"))
    assert not folder.exists()


def test_a_pair_that_does_not_fit_sets_no_target(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"ended as `unsupported` with seed 0 .*kfac needs layers"
    ):
        target.establish(asked(folder, optimizer="kfac"))


def test_a_task_without_a_target_does_not_keep_another_from_its_own(folder: Path) -> None:
    both = Request(["rosenbrock", "quadratic"], "sgd", [0], [*QUICK, "optimizer.lr=0.05"], folder)
    with pytest.raises(
        ConfigError, match="No target was set for\nrosenbrock: the baseline sgd ended as `diverged`"
    ):
        target.establish(both)
    assert [path.name for path in folder.iterdir()] == ["quadratic.yaml"]


def test_a_command_line_is_a_request() -> None:
    request = target.parse(
        ["task=mlp,cnn", "seeds=5,6", "scale=quick", "out=/x", "~tuned", "optimizer.lr=1"]
    )
    assert (request.tasks, request.optimizer, request.seeds) == (["mlp", "cnn"], "adamw", [5, 6])
    assert (list(request.overrides), request.out) == (
        ["scale=quick", "~tuned", "optimizer.lr=1"],
        Path("/x"),
    )
    assert target.parse(["task=mlp"]) == Request(["mlp"], overrides=[])
    assert Request(["mlp"]).out == paths.CONFIGS / "targets"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Targets from a tuned baseline"),
        (["optimizer=adamw"], "Targets from a tuned baseline"),
        (["task=mlq"], "task=mlq is not one of .* Did you mean mlp"),
        (["task=mlp", "optimizer=adamv"], "optimizer=adamv is not one of "),
        (
            ["task=mlp", "optimizer=adam,sgd"],
            "optimizer=adam,sgd has several names, and this command takes one",
        ),
        (["task=mlp", "seeds=0,one"], "seeds must be whole numbers with commas between"),
        (["task=mlp", "seeds="], "seeds must be whole numbers"),
        (["task=mlp", "seeds=1,2,1"], "seeds=1,2,1 has one twice"),
        (["task=mlp", "seeds=1", "seeds=2"], "seeds is given twice"),
        (["task=mlp", "quick"], "'quick' is not of the form key=value"),
        (["task=mlp", "seed=1"], "seed= is not for this command"),
        (["task=mlp", "target=0.5"], "target= is not for this command"),
        (["task=mlp", "stop_at_target=true"], "stop_at_target= is not for this command"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        target.parse(arguments)


def test_the_command_ends_with_words_and_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task=quadratic", "optimizer=sgd", "optimizer.lr=1e30", *QUICK, f"out={folder}"]
    monkeypatch.setattr("sys.argv", ["suite.target", *words])
    with pytest.raises(SystemExit) as ended:
        target.main()
    assert ended.value.code == 2
    assert "ended as `diverged`" in capsys.readouterr().err


def test_an_interrupted_run_ends_the_command(
    folder: Path,
    at_batch: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    planned: Callable[..., Any],
) -> None:
    import signal

    monkeypatch.setattr("sys.argv", ["suite.target", "task=quadratic", *QUICK, f"out={folder}"])
    stop = at_batch(planned("task=quadratic"), 5, lambda: signal.raise_signal(signal.SIGINT))
    with stop, pytest.raises(SystemExit) as ended:
        target.main()
    assert ended.value.code == 130
    assert not folder.exists()
