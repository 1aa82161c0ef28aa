"""The mirror in W&B: it gets what the record gets, and whatever it does, the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Train = Callable[..., Any]
RUN = (
    "optimizer=sgd",
    "task=quadratic",
    "steps=6",
    "task.eval_every=2",
    "log_every=1",
    "wandb.mode=offline",
)


class Mirror:
    """A stand-in for the wandb package that writes down what it is told, and fails where it
    should."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.started: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.finished: list[int] = []
        self.metrics: list[Any] = []
        self.summary: dict[str, Any] = {}
        self.Settings = SimpleNamespace

    def init(self, **given: Any) -> Mirror:
        self.started = given
        self._maybe("init")
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, row: dict[str, Any]) -> None:
        if len(self.rows) == 2:
            self._maybe("log")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self._maybe("finish")
        self.finished.append(exit_code)

    def _maybe(self, place: str) -> None:
        if self.fails == place:
            raise OSError("no route to host")


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Mirror]:
    def install(fails: str) -> Mirror:
        built = Mirror(fails)
        monkeypatch.setitem(sys.modules, "wandb", built)
        return built

    return install


def test_the_mirror_gets_the_evaluated_rows_and_the_summary(
    train: Train, mirror: Callable[[str], Mirror]
) -> None:
    seen = mirror("")
    done = train(*RUN, experiment="mine")

    evaluated = [row for row in done.rows if row["val/gap"]]
    assert (
        [row["step"] for row in seen.rows]
        == [int(row["step"]) for row in evaluated]
        == [0, 2, 4, 6]
    )
    assert [row["val/gap"] for row in seen.rows] == [float(row["val/gap"]) for row in evaluated]
    assert "loss" not in seen.rows[0]
    assert "test/gap" in seen.rows[-1]
    assert seen.summary == done.summary
    assert seen.finished == [0]
    assert seen.metrics == [("*", "step")]
    assert seen.started["config"]["optimizer"]["lr"] == done.config["optimizer"]["lr"]
    labels = {
        key: seen.started[key]
        for key in ("id", "mode", "group", "job_type", "tags", "project", "dir")
    }
    assert labels == {
        **{
            "id": done.plan.run_id,
            "mode": "offline",
            "group": "mine/quadratic",
            "job_type": "train",
        },
        **{"tags": ["sgd", "quadratic"], "project": "second-order-suite", "dir": done.directory},
    }


@pytest.mark.parametrize("place", ["init", "log", "finish"])
def test_a_failing_mirror_is_said_once_and_the_run_is_unharmed(
    train: Train, mirror: Callable[[str], Mirror], capsys: pytest.CaptureFixture[str], place: str
) -> None:
    seen = mirror(place)
    done = train(*RUN)

    output = capsys.readouterr().err
    assert (done.status, done.summary["message"]) == ("done", "")
    assert len(done.rows) == 7
    assert (
        output.count(
            "W&B is left out of this run (OSError: no route to host); the local record goes on."
        )
        == 1
    )
    assert len(seen.rows) == {"init": 0, "log": 2, "finish": 4}[place]
    assert seen.finished == []


def test_a_missing_package_does_not_fail_a_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(*RUN).status == "done"
    assert "W&B is left out of this run (ModuleNotFoundError" in capsys.readouterr().err


def test_disabled_means_that_the_package_is_not_even_asked(
    train: Train, mirror: Callable[[str], Mirror]
) -> None:
    seen = mirror("init")
    assert train(*RUN, "wandb.mode=disabled").status == "done"
    assert seen.started == {}


def test_a_run_that_stops_early_tells_the_mirror_how(
    train: Train, mirror: Callable[[str], Mirror]
) -> None:
    seen = mirror("")
    assert train(*RUN, "max_seconds=1e-9").status == "timeout"
    assert (seen.summary["status"], seen.finished) == ("timeout", [0])
    seen = mirror("")
    assert train(*RUN, "optimizer.lr=1e200").status == "diverged"
    assert seen.summary["status"] == "diverged"
