"""A sweep: how many runs it has, what it shows, and that a failing run does not end it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from suite import multirun
from suite.config import device

Command = Callable[..., Any]
Module = Callable[[str, str], str]


def entry(**changes: Any) -> dict[str, Any]:
    """A run's line in the list of outcomes."""
    return {
        **{
            "task": "mlp",
            "optimizer": "sgd",
            "seed": 0,
            "status": "done",
            "metric": "accuracy",
            "value": 0.5,
        },
        **{
            "seconds": 1.25,
            "message": "",
            "skipped": False,
            "command": "python -m suite optimizer=sgd",
            "run": "/x",
        },
        **changes,
    }


def shown(
    entries: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> tuple[list[list[str]], list[str]]:
    """The cells of the closing table, a list a row, and the lines below it."""
    multirun.print_outcomes(entries)
    lines = capsys.readouterr().out.splitlines()
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")
    ]
    below = lines[next(number for number, line in enumerate(lines) if line.startswith("└")) + 1 :]
    return rows, below


@pytest.mark.parametrize(
    ("given", "params", "count"),
    [
        (["optimizer=sgd,adam,kfac", "task=mlp,cnn", "seed=0,1"], {}, 12),
        (["optimizer=sgd"], {}, 1),
        (["seed=range(0,5)", "optimizer.lr=0.1,0.2"], {}, 10),
        (["optimizer.betas=[0.9,0.99]", "seed=1,2"], {}, 2),
        ([], {"task": "a,b,c", "optimizer": "d,e", "seed": "0,1,2"}, 18),
        (["task=a", "seed=0,1"], {"task": "a,b,c", "optimizer": "d,e", "seed": "0,1,2"}, 4),
    ],
)
def test_the_number_of_runs_is_the_product_of_the_lists(
    given: list[str], params: dict[str, str], count: int
) -> None:
    config = OmegaConf.create(
        {"hydra": {"overrides": {"task": given}, "sweeper": {"params": params}}}
    )
    assert multirun._count(config) == count


def test_the_closing_table_has_a_row_for_each_run_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = [
        entry(task="mlp", optimizer="sgd", seed=1, value=0.25),
        entry(task="mlp", optimizer="kfac", seed=0, skipped=True),
        entry(task="cnn", optimizer="sgd", seed=0, status="diverged", value=None, seconds=None),
    ]
    rows, below = shown(entries, capsys)

    assert [row[:6] for row in rows] == [
        ["cnn", "sgd", "0", "diverged", "—", "0.0"],
        ["mlp", "kfac", "0", "done (skipped)", "accuracy 0.5", "1.2"],
        ["mlp", "sgd", "1", "done", "accuracy 0.25", "1.2"],
    ]
    assert all(row[6] == "python -m suite optimizer=sgd force=true" for row in rows)
    assert below == []


def test_every_pair_that_has_something_to_say_says_it_once_with_its_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    because = {"status": "unsupported", "value": None, "message": "needs [bold]layers[/bold]"}
    entries = [
        entry(optimizer="kfac", seed=seed, command=f"run {seed}", **because) for seed in range(3)
    ]
    entries.append(
        entry(optimizer="kfac", seed=3, status="error", message="ValueError: x", command="run 3")
    )
    _, below = shown(entries, capsys)

    assert below == [
        "kfac on mlp: unsupported: needs [bold]layers[/bold]",
        "    run 0 force=true",
        "kfac on mlp: error: ValueError: x",
        "    run 3 force=true",
    ]


@pytest.mark.parametrize(("seeds", "grouped"), [(10, False), (11, True)])
def test_beyond_thirty_runs_a_row_stands_for_a_pair(
    capsys: pytest.CaptureFixture[str], seeds: int, grouped: bool
) -> None:
    entries = [
        entry(optimizer=name, seed=seed)
        for seed in range(seeds)
        for name in ("sgd", "kfac", "adam")
    ]
    several: list[dict[str, Any]] = [
        {"value": 1.5},
        {"status": "diverged", "value": None},
        {"skipped": True},
    ]
    for number, changes in enumerate(several):
        next(e for e in entries if e["optimizer"] == "sgd" and e["seed"] == number).update(changes)
    rows, _ = shown(entries, capsys)

    assert len(rows) == (3 if grouped else 30)
    if grouped:
        assert [row[1] for row in rows] == ["adam", "kfac", "sgd"]
        assert rows[0][2:] == ["0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10", "done", "accuracy 0.5", "13.8"]
        assert rows[2][3] == "done 9/11, diverged 1/11, done (skipped) 1/11"
        assert rows[2][4] == "accuracy 0.6"


def test_a_sweep_shows_a_line_for_each_run_and_goes_on_after_failures(
    command: Command, results: Path
) -> None:
    output = command(
        "-m", "optimizer=sgd,kfac", "task=quadratic", "steps=3", "optimizer.lr=0.1,1e200,-1"
    )
    lines = [line for line in output.out.splitlines() if line.startswith("[")]

    assert (output.code, output.err) == (0, "")
    assert [line.partition("] ")[0] for line in lines] == [f"[{n}/6" for n in range(1, 7)]
    words = [re.search(r"seed 0: (\w+)", line)[1] for line in lines]  # type: ignore[index]
    assert words == ["done", "diverged", "error", "unsupported", "unsupported", "error"]
    assert "error: ValueError: Invalid learning rate: -1" in lines[2]
    assert "6 runs" in output.out
    assert "optimizer.lr=-1 force=true" in output.out
    summaries = [
        json.loads(path.read_text()) for path in results.glob("runs/quadratic/*/*/summary.json")
    ]
    assert sorted(summary["status"] for summary in summaries) == sorted(words)
    assert not any(summary["parallel"] for summary in summaries)


def test_an_optimizer_that_fails_in_its_constructor_is_a_row_of_the_sweep(
    command: Command, module: Module
) -> None:
    name = module(
        "broken_maker", "def make(params, lr, weight_decay):\n    raise ZeroDivisionError('oh')\n"
    )
    output = command(
        *("-m", "optimizer=sgd", "task=quadratic", "steps=3", "seed=0,1"),
        *(f"optimizer._target_=torch.optim.SGD,{name}.make", f"allow=[{name}]"),
    )

    assert output.code == 0
    # a line for each of the two, and one reason
    assert output.out.count("error: ZeroDivisionError: oh") == 3
    assert output.out.count("seed 0: done") == output.out.count("seed 1: done") == 1


def test_an_experiments_lists_are_swept_without_the_flag(command: Command, results: Path) -> None:
    output = command(
        "experiment=quick", "task=quadratic", "optimizer=sgd", "seed=0,1", "task.steps=3"
    )

    assert output.code == 0
    assert "[2/2] sgd on quadratic, seed 1: done" in output.out
    configs = list(results.glob("runs/quadratic/sgd/*/config.yaml"))
    assert len(configs) == 2
    assert all("experiment: quick\n" in path.read_text() for path in configs)


def test_ctrl_c_ends_the_sweep_and_not_only_the_run_it_met(
    command: Command, at_batch: Command, planned: Command, results: Path
) -> None:
    arguments = ("-m", "optimizer=sgd,adam", "task=quadratic", "steps=20")
    with at_batch(planned("task=quadratic"), 5, lambda: signal.raise_signal(signal.SIGINT)):
        output = command(*arguments)

    assert output.code == 130
    assert "The same command goes on where this one stopped." in output.err
    (summary,) = results.glob("runs/quadratic/*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "interrupted"

    again = command(*arguments)
    assert again.code == 0
    assert again.out.count("seed 0: done") == 2


@pytest.mark.parametrize(
    ("launcher", "workers"),
    [
        (
            {
                "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
                "n_jobs": 3,
            },
            3,
        ),
        (
            {
                "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
                "n_jobs": -1,
            },
            8,
        ),
        (
            {
                "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
                "n_jobs": -2,
            },
            7,
        ),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
    ],
)
def test_the_launcher_tells_how_many_runs_share_the_machine(
    monkeypatch: pytest.MonkeyPatch, launcher: dict[str, Any], workers: int
) -> None:
    import suite.app

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert suite.app._workers(OmegaConf.create(launcher)) == workers


@pytest.mark.slow
def test_a_parallel_sweep_shares_the_cores_and_closes_with_a_table(
    command: Command, results: Path, root: Path
) -> None:
    """One real process with the launcher of `make compare`.

    The same sweep again only looks its runs up.
    """
    sweep_of_four = (
        "optimizer=sgd,kfac",
        "task=quadratic,logistic",
        "scale=quick",
        "steps=5",
        "wandb.mode=disabled",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "suite",
            "-m",
            *sweep_of_four,
            "hydra/launcher=joblib",
            "hydra.launcher.n_jobs=2",
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"^\[(\d)/4\] ", done.stdout, re.MULTILINE)) == ["1", "2", "3", "4"]
    assert "4 runs" in done.stdout
    assert len(re.findall(r"│ (?:quadratic|logistic) +│ (?:sgd|kfac) +│ 0 +│ ", done.stdout)) == 4
    assert (
        "kfac on quadratic: unsupported: kfac needs layers, which quadratic does not offer"
        in done.stdout
    )
    assert "Traceback" not in done.stderr
    summaries = list(results.glob("runs/*/*/*/summary.json"))
    stored = [json.loads(path.read_text()) for path in summaries]
    assert sorted(summary["status"] for summary in stored) == [
        "done",
        "done",
        "done",
        "unsupported",
    ]
    assert all(summary["parallel"] is True for summary in stored)
    threads = {
        json.loads((path.parent / "environment.json").read_text())["threads"] for path in summaries
    }
    assert threads == {max(1, device.cores() // 2)}

    again = command("-m", *sweep_of_four)
    assert again.code == 0
    assert again.out.count("done before, skipped") == 4
    assert list(results.glob("runs/*/*/*/summary.json")) == summaries


def test_lists_in_a_command_are_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "task": "sine",
        "optimizer": "mine",
        "seed": 0,
        "status": "done",
        "metric": "gap",
        "value": 1.0,
        "seconds": 1.0,
        "message": "",
        "skipped": False,
        "command": "python -m suite 'allow=[mine,yours]'",
        "run": "x",
    }

    multirun.print_outcomes([entry])

    assert "allow=[mine,yours]" in capsys.readouterr().out
