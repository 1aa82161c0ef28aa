"""The timing command.

Which pairs, taking turns, what is stored, and what is said of a machine that others use too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suite.config import registry
from suite.config.plan import Plan
from suite.errors import ConfigError
from suite.results import timings
from suite.time import __main__ as time
from suite.time import machine, windows
from suite.time.__main__ import Request
from suite.time.windows import Extent, NotTimedError

QUICK = ("scale=quick", "device=cpu", "wandb.mode=disabled", "steps=6")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without anybody else."""
    monkeypatch.setattr(machine.Watch, "cores", lambda self: 0.0)
    monkeypatch.setattr(machine, "other_runs", lambda: [])


@pytest.fixture
def by_number(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Windows that take 1, 2, 3 ... seconds a step in the order of their turns, which are noted."""
    turns: list[str] = []

    def window(begin: Callable[[], Any], part: Extent, limit: float) -> float:
        turns.append(begin().context.plan.optimizer)
        return float(len(turns))

    monkeypatch.setattr(windows, "window", window)
    return turns


def asked(*overrides: str, optimizers: tuple[str, ...] = ("sgd", "adam"), **others: Any) -> Request:
    return Request(
        optimizers, ["quadratic"], **{"windows": 3, **others}, overrides=[*QUICK, *overrides]
    )


def stored(results: Path) -> dict[str, timings.Timing]:
    return {each.optimizer: each for each in timings.load(results / "timing").values()}


# -- what is measured ------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
def test_the_optimizers_take_turns_and_the_median_window_counts(
    by_number: list[str], results: Path
) -> None:
    time.measure(asked())
    assert by_number == ["sgd", "adam", "adam", "sgd", "sgd", "adam"]
    timing = stored(results)
    assert timing["sgd"].windows == (1.0, 4.0, 5.0)
    assert (timing["sgd"].seconds_per_step, timing["adam"].seconds_per_step) == (4.0, 3.0)


@pytest.mark.usefixtures("quiet")
def test_what_is_stored_says_what_it_is_of(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = asked(optimizers=("sgd",), windows=2)
    (timing,) = time.measure(request)
    output = capsys.readouterr().out

    assert stored(results) == {"sgd": timing}
    assert (timing.task, timing.steps % 6, timing.first, timing.period) == ("quadratic", 0, 0, 1)
    assert timing.seconds_per_step == sum(timing.windows) / 2 > 0
    assert timing.hardware.startswith("cpu, ")
    assert timing.hardware.endswith(", 1 thread")
    assert {"forward", "backward", "other"} == set(timing.phases)
    words = "optimizer=sgd task=quadratic windows=2 max_seconds=60"
    assert timing.command == f"python -m suite.time {words} {' '.join(QUICK)}"
    assert time.parse(timing.command.split()[3:]) == replace(request, optimizers=["sgd"])
    assert not timing.shared
    assert (
        f"sgd on quadratic: {time.in_words(timing.seconds_per_step)} a step (2 windows of "
        in output
    )
    assert "forward " in output
    assert not (results / "runs").exists()


@pytest.mark.usefixtures("quiet")
def test_a_timing_is_found_for_the_runs_it_is_meant_for(
    by_number: list[str], results: Path, train: Callable[..., Any]
) -> None:
    (timing,) = time.measure(asked(optimizers=("sgd",)))
    done = train("optimizer=sgd", "task=quadratic", "steps=3", "seed=5")
    assert timings.speed_key(done.config) == timing.key
    other = train("optimizer=sgd", "task=quadratic", "steps=3", "task.dimension=7")
    assert timings.speed_key(other.config) != timing.key
    assert timings.speed_key({**done.config, "world_size": 2}) != timing.key


@pytest.mark.usefixtures("quiet", "by_number")
def test_the_pass_for_phases_may_be_left_out(results: Path) -> None:
    (timing,) = time.measure(asked(optimizers=("sgd",), phases=False))
    assert timing.phases == {}
    assert "phases=false" in timing.command


@pytest.mark.usefixtures("quiet", "by_number")
def test_threads_are_one_unless_the_command_says_otherwise() -> None:
    assert asked().plan("sgd", "quadratic").config["threads"] == 1
    plan = asked("threads=2").plan("sgd", "quadratic")
    assert plan.config["threads"] == 2
    assert plan.command.count("threads=") == 1


# -- what is not -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet", "by_number")
def test_a_pair_that_does_not_fit_is_said_and_keeps_no_other_from_its_timing(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time.measure(asked(optimizers=("kfac", "sgd")))
    assert set(stored(results)) == {"sgd"}
    assert "kfac on quadratic: not timed: kfac needs layers" in capsys.readouterr().err


@pytest.mark.usefixtures("quiet")
def test_a_pair_that_diverges_is_said(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="No pair could be timed"):
        time.measure(asked("optimizer.lr=1e30", optimizers=("sgd",)))
    output = capsys.readouterr().err
    assert "sgd on quadratic: not timed: it diverged at step " in output
    assert not stored(results)


@pytest.mark.usefixtures("quiet")
def test_a_pair_for_which_the_time_does_not_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="No pair"):
        time.measure(asked(optimizers=("sgd",), max_seconds=1e-9))
    assert "sgd on quadratic: not timed: 1 of its steps took " in capsys.readouterr().err


@pytest.mark.usefixtures("quiet")
def test_what_fails_in_a_window_concerns_its_pair_only(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def window(begin: Callable[[], Any], part: Extent, limit: float) -> float:
        if begin().context.plan.optimizer == "sgd":
            raise MemoryError("no room for it\nmore lines")
        return 0.5

    monkeypatch.setattr(windows, "window", window)
    time.measure(asked())
    assert set(stored(results)) == {"adam"}
    assert "sgd on quadratic: not timed: MemoryError: no room for it\n" in capsys.readouterr().err


@pytest.mark.usefixtures("quiet")
def test_an_unknown_setting_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["suite.time", "optimizer=sgd", "task=quadratic", *QUICK, "task.dimensions=3"]
    )
    with pytest.raises(SystemExit) as ended:
        time.main()
    assert ended.value.code == 2
    assert "task quadratic has no 'dimensions'. Did you mean dimension?" in capsys.readouterr().err


def test_data_that_is_absent_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(plan: Plan, place: Any) -> None:
        raise FileNotFoundError("the data are not here; python -m ... brings them")

    monkeypatch.setattr("suite.training.runner.build_task", absent)
    with pytest.raises(ConfigError, match="quadratic: the data are not here"):
        time.measure(asked())


# -- the machine -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_number")
@pytest.mark.parametrize(
    ("cores", "others", "shared"), [(0.02, 0.02, False), (0.7, 0.7, True), (None, None, False)]
)
def test_what_others_use_is_stored_and_said(
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cores: float | None,
    others: float | None,
    shared: bool,
) -> None:
    monkeypatch.setattr(machine.Watch, "cores", lambda self: cores)
    monkeypatch.setattr(
        machine, "other_runs", lambda: ["python -m suite optimizer=kfac"] if shared else []
    )
    time.measure(asked(optimizers=("sgd",)))
    output = capsys.readouterr()
    assert (stored(results)["sgd"].others, stored(results)["sgd"].shared) == (others, shared)
    assert ("Others kept 0.7 cores busy meanwhile: marked as shared" in output.out) is shared
    assert ("Beside this runs: python -m suite optimizer=kfac" in output.err) is shared


# -- files and words -------------------------------------------------------------------------------


def test_a_timing_survives_its_file_and_older_files_are_read(tmp_path: Path) -> None:
    timing = timings.Timing(
        "k" * 8,
        "mlp",
        "sgd",
        "cpu",
        0.5,
        (0.25, 0.5, 1.0),
        {"forward": 0.5},
        "x",
        20,
        5,
        10,
        0.5,
        True,
    )
    path = timings.store(timing, tmp_path)
    assert timings.load(tmp_path) == {timing.place: timing}
    assert timing.spread == 4.0
    content = json.loads(path.read_text())
    for name in ("steps", "first", "period", "others", "shared"):
        del content[name]
    path.write_text(json.dumps(content))
    assert timings.load(tmp_path)[timing.place].seconds_per_step == 0.5


def test_what_two_machines_measured_lies_side_by_side(tmp_path: Path) -> None:
    here = timings.Timing("k" * 8, "mlp", "sgd", "cpu, Some CPU, 1 thread", 0.5, (0.5,))
    others = [
        replace(here, hardware=name) for name in ("cpu, Some CPU, 2 threads", "cuda, Some GPU")
    ]
    paths = {timings.store(one, tmp_path) for one in (here, *others)}
    assert len(paths) == 3
    again = replace(here, seconds_per_step=0.25)
    assert timings.store(again, tmp_path) in paths
    assert timings.load(tmp_path) == timings.placed([again, *others])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2.0, "2 s"), (0.01234, "12.3 ms"), (1e-3, "1 ms"), (5.678e-5, "56.8 µs"), (1e-9, "0.001 µs")],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert time.in_words(seconds) == words


def test_a_command_line_is_a_request() -> None:
    words = [
        "optimizer=sgd,kfac",
        "task=mlp",
        "windows=7",
        "max_seconds=9.5",
        "scale=quick",
        "phases=false",
    ]
    assert time.parse(words) == Request(["sgd", "kfac"], ["mlp"], 7, 9.5, False, ["scale=quick"])
    assert time.parse(words[:2]) == Request(["sgd", "kfac"], ["mlp"], overrides=[])


def test_an_experiment_names_the_pairs_that_the_command_line_does_not() -> None:
    params = registry.read("experiment", "quick")["hydra"]["sweeper"]["params"]
    tasks, optimizers = params["task"].split(","), params["optimizer"].split(",")
    assert time.parse(["experiment=quick"]) == Request(
        optimizers, tasks, overrides=["experiment=quick"]
    )
    some = time.parse(["experiment=quick", "optimizer=sgd"])
    assert (some.optimizers, some.tasks) == (["sgd"], tasks)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=mlp"], "Isolated timing: the seconds of a step"),
        (["task=mlp"], "Missing: optimizer=..."),
        (["experiment=quik"], "experiment=quik is not one of "),
        (["optimizer=sdg", "task=mlp"], "optimizer=sdg is not one of "),
        (["optimizer=sgd", "task=mlq"], "task=mlq is not one of "),
        (
            ["optimizer=sgd", "task=mlp", "windows=0"],
            "windows must be a whole number from 1 on, got '0'",
        ),
        (["optimizer=sgd", "task=mlp", "windows=x"], "windows must be"),
        (
            ["optimizer=sgd", "task=mlp", "max_seconds=-1"],
            "max_seconds must be a number above 0, got '-1'",
        ),
        (["optimizer=sgd", "task=mlp", "max_seconds=soon"], "max_seconds must be a number above 0"),
        (["optimizer=sgd", "task=mlp", "max_seconds=nan"], "max_seconds must be a number above 0"),
        (["optimizer=sgd", "task=mlp", "phases=maybe"], "phases=maybe is not one of true, false"),
        (["optimizer=sgd", "task=mlp", "schedule=cosine"], "schedule= is not for this command"),
        (["optimizer=sgd", "task=mlp", "seed=1"], "seed= is not for this command"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        time.parse(words)
    assert message in str(refused.value)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        time.parse(["optimizer=sgd", "task=mlp"])


def test_what_is_not_timed_is_no_error_of_the_command() -> None:
    assert not issubclass(NotTimedError, ConfigError)  # the next pair is timed all the same
