"""Telemetry: the run it watches takes the very same steps, and what it says is what dense
computations say."""

from __future__ import annotations

import csv
import math
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.results.directory import COLUMNS, History, RunRecord
from suite.training.measures.telemetry import Telemetry
from tests.suite.telemetry_cases import LENGTH, ON, Small, Train, telemetry

TINY_TRANSFORMER = (
    *(
        "task=char_transformer",
        "task.context=8",
        "task.width=16",
        "task.layers=1",
        "task.batch_size=4",
    ),
    *("task.val_size=8", "task.test_size=8", "task.dropout=0.2"),
)


PAIRS = {
    "sgd with noise": ("optimizer=sgd", "task=quadratic", "task.noise=0.5", "task.batch_size=4"),
    "adam with batch norm": (
        "optimizer=adam",
        "task=cnn",
        "task.channels=[2,4]",
        "task.batch_norm=true",
    ),
    "adamw with dropout": ("optimizer=adamw", *TINY_TRANSFORMER, "schedule=exponential"),
    "torch_lbfgs": ("optimizer=torch_lbfgs", "task=logistic", "optimizer.max_iter=3"),
    "ggn_cg": (
        "optimizer=ggn_cg",
        "task=autoencoder",
        "task.widths=[8,4]",
        "optimizer.max_iterations=3",
    ),
    "hessian_free samples its preconditioner": (
        *("optimizer=hessian_free", "task=mlp", "task.hidden=[8]", "optimizer.max_iterations=3"),
    ),
    "kfac": ("optimizer=kfac", "task=mlp", "task.hidden=[8]"),
    "adam in slices with dropout": ("optimizer=adam", *TINY_TRANSFORMER, "accumulate=2"),
    "lbfgs knows the last gradient": ("optimizer=lbfgs", "task=rosenbrock"),
    "levenberg_marquardt": ("optimizer=levenberg_marquardt", "task=nist"),
}


STEP = {"cosine", "gradient_norm", "update_norm", "non_finite", "update_ratio_median"}


CURVATURE = {
    *(
        "eigenvalue_1",
        "eigenvalue_2",
        "eigenvalue_3",
        "eigenvalue_min",
        "eigenvalue_error",
        "trace",
    ),
    *("negative_share", "negative_mass", "gradient_curvature", "update_curvature", "lr_sharpness"),
}


def telemetry_of(row: dict[str, str]) -> dict[str, float]:
    """The telemetry of a row that is not empty."""
    return {
        key.removeprefix("telemetry/"): float(v)
        for key, v in row.items()
        if key.startswith("telemetry/") and v
    }


def others(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [
        {key: value for key, value in row.items() if not key.startswith("telemetry/")}
        for row in rows
    ]


# -- it does not disturb ---------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_a_run_with_telemetry_takes_the_same_steps_bit_for_bit(
    train: Train, pair: tuple[str, ...]
) -> None:
    plain = train(*pair, *LENGTH)
    watched = train(*pair, *LENGTH, *ON)
    assert plain.status == watched.status == "done"
    assert watched.plan.run_id != plain.plan.run_id
    assert others(watched.repeatable_rows) == plain.repeatable_rows
    summary = {
        key: value
        for key, value in watched.repeatable_summary.items()
        if not key.startswith("telemetry_")
    }
    assert summary == plain.repeatable_summary  # the counts of oracle calls among them
    for name in ("model", "optimizer", "generator", "host_generator"):
        assert same(plain.checkpoint[name], watched.checkpoint[name]), name
    steps, ends = (
        telemetry_of(watched.rows[-1]),
        [telemetry_of(row) for row in watched.rows if row["val/loss"]],
    )
    assert steps.keys() >= STEP
    assert all(
        end.keys() >= CURVATURE - {"update_curvature", "eigenvalue_3", "eigenvalue_2"}
        for end in ends
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def test_gradients_buffers_and_streams_are_left_alone() -> None:
    task, model = Small(), Small().model(0)
    watch = telemetry(task, model)
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state = torch.get_rng_state()
    watch.begin(*task.batch)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1
    watch.end()
    watch.row(evaluated=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(bool((p.grad == 3).all()) for p in model.parameters() if p.grad is not None)
    assert all(module.training for module in model.modules())


# -- what is recorded ------------------------------------------------------------------------------


def test_which_rows_have_what(train: Train) -> None:
    done = train(
        "optimizer=momentum",
        "task=mlp",
        "task.hidden=[8]",
        "steps=9",
        "task.eval_every=4",
        "log_every=3",
        *ON,
    )
    assert done.column("step") == [0, 3, 4, 6, 8, 9]
    rows = {int(row["step"]): telemetry_of(row) for row in done.rows}
    assert rows[0].keys() == CURVATURE - {"update_curvature"}
    assert rows[3].keys() >= STEP
    assert not rows[3].keys() & CURVATURE
    assert rows[4].keys() >= STEP | CURVATURE
    lr = done.config["optimizer"]["lr"]
    assert rows[4]["lr_sharpness"] == pytest.approx(lr * rows[4]["eigenvalue_1"])
    assert (
        0
        < rows[3]["update_ratio_min"]
        <= rows[3]["update_ratio_median"]
        <= rows[3]["update_ratio_max"]
    )
    assert {
        "telemetry_seconds",
        "telemetry_seconds_per_evaluation",
        "telemetry_note",
    } <= done.summary.keys()
    assert done.summary["telemetry_seconds"] > done.summary["telemetry_seconds_per_evaluation"] > 0
    assert done.summary["telemetry_note"] == ""


def test_layers_are_told_apart_in_a_file_of_their_own(train: Train) -> None:
    done = train(
        "optimizer=sgd", "task=mlp", "task.hidden=[8]", "steps=4", "task.eval_every=2", *ON
    )
    with (done.directory / "telemetry.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"step", "name", "layer", "value"}
    assert {int(row["step"]) for row in rows} == {2, 4}
    weights = {"1.weight", "3.weight"}
    ratios = {
        row["layer"]: float(row["value"])
        for row in rows
        if (row["step"], row["name"]) == ("4", "update_ratio")
    }
    assert weights < ratios.keys()
    last = telemetry_of(done.rows[-1])
    # of the matrices, not of the biases
    assert last["update_ratio_min"] == min(ratios[name] for name in weights)
    assert last["update_ratio_max"] == max(ratios[name] for name in weights)
    assert {row["name"] for row in rows} == {"update_ratio", "cosine", "gradient_norm"}


def test_without_telemetry_there_is_none(train: Train) -> None:
    done = train("optimizer=sgd", "task=mlp", "task.hidden=[8]", "steps=4", "task.eval_every=2")
    assert not any(key.startswith("telemetry") for key in (*done.rows[0], *done.summary))
    assert not (done.directory / "telemetry.csv").exists()


def test_a_method_tells_of_itself(train: Train) -> None:
    done = train(
        "optimizer=ggn_cg",
        "task=autoencoder",
        "task.widths=[8,4]",
        "steps=3",
        "task.eval_every=3",
        *ON,
    )
    rows = [telemetry_of(row) for row in done.rows]
    assert rows[0]["damping"] == done.config["optimizer"]["damping"]
    assert all(row["reduction_ratio"] > 0 and row["cg_iterations"] >= 1 for row in rows[1:])
    assert rows[-1]["failures"] == rows[-1]["failures/refused"] == 0


def test_a_task_without_a_hessian_goes_without_the_curvature() -> None:
    class Flat(Small):
        offers = frozenset()

    watch = telemetry(Flat(), Flat().model(0))
    assert watch.row(evaluated=True) == {}
    assert (
        watch.summary()["telemetry_note"]
        == "the task offers no hessian: the columns of curvature are left out"
    )


def test_a_curvature_that_fails_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    watch = telemetry(Small(), Small().model(0))

    def refuse(*_: object) -> None:
        raise RuntimeError("no second derivative\nof that kernel")

    monkeypatch.setattr("suite.training.measures.telemetry.spectral_density", refuse)
    assert watch.row(evaluated=True) == {}
    assert watch.note == "curvature is left out from here on: RuntimeError: no second derivative"
    assert watch.note in capsys.readouterr().err
    assert watch.row(evaluated=True) == {}
    assert capsys.readouterr().err == ""


def test_a_step_that_cannot_be_watched_is_left_out_and_said(capsys: Any) -> None:
    task, model = Small(), Small().model(0)
    watch = telemetry(task, model)
    watch.begin(torch.zeros(16, 7).double(), task.batch[1])
    watch.end()
    assert watch.note.startswith(
        "the step's columns are left out from here on: RuntimeError: mat1 and mat2 shapes"
    )
    assert watch.note in capsys.readouterr().err
    watch.begin(*task.batch)
    watch.end()
    assert not any("cosine" in name for name in watch.row(evaluated=False))
    assert "telemetry/trace" in watch.row(evaluated=True)


def test_what_is_not_finite_is_left_empty() -> None:
    task, model = Small(), Small().model(0)
    optimizer = SimpleNamespace(
        param_groups=[{}],
        failures=Counter(inverse=2),
        telemetry=lambda: {"damping": math.nan, "age": 3},
    )
    watch = Telemetry(model, task, optimizer, 0, products=12)
    with torch.no_grad():
        next(model.parameters()).fill_(math.inf)
    watch.begin(*task.batch)
    watch.end()
    row = watch.row(evaluated=True)
    assert (
        row["telemetry/damping"] == row["telemetry/cosine"] == row["telemetry/gradient_norm"] == ""
    )
    assert (row["telemetry/age"], row["telemetry/failures"]) == (3, 2)
    assert row["telemetry/non_finite"] > 0
    assert "telemetry/lr_sharpness" not in row


def test_it_survives_an_interruption(
    train: Train, planned: Train, at_batch: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    monkeypatch.setattr("suite.training.checkpoint.CHECKPOINT_SHARE", 1e9)
    pair = (
        "optimizer=ggn_cg",
        *TINY_TRANSFORMER,
        "optimizer.max_iterations=2",
        "steps=8",
        "task.eval_every=3",
        *ON,
    )
    with at_batch(planned(*pair), 6, kill), pytest.raises(Killed):
        train(*pair)
    record = RunRecord(planned(*pair).directory)
    assert "telemetry/cosine" in record.history.read_text().splitlines()[0]
    resumed = train(*pair)
    rows, layers = resumed.repeatable_rows, record.telemetry.read_text()
    unbroken = train(*pair, "force=true")
    assert resumed.status == unbroken.status == "done"
    by_name = [sorted(row.items()) for row in rows]
    assert by_name == [sorted(row.items()) for row in unbroken.repeatable_rows]
    assert record.telemetry.read_text() == layers


def test_the_history_grows_columns_when_they_are_met(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", ["loss"])
    history.add({"step": 0, "loss": 1.0})
    history.flush()
    history.add({"step": 1, "loss": 0.5, "telemetry/a": 7.0, "unknown": 3})
    history.add({"step": 2, "loss": 0.4, "telemetry/failures/inverse": 1.0})
    history.flush()
    assert read(history.path) == [
        ("0", "1.0", "", ""),
        ("1", "0.5", "7.0", ""),
        ("2", "0.4", "", "1.0"),
    ]
    resumed = History(tmp_path / "history.csv", ["loss"])
    resumed.rewind(1)
    resumed.add({"step": 2, "loss": 0.3, "telemetry/a": 8.0, "telemetry/failures/inverse": 2.0})
    resumed.flush()
    assert read(history.path)[1:] == [("1", "0.5", "7.0", ""), ("2", "0.3", "8.0", "2.0")]


def read(path: Path) -> list[tuple[str, ...]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "unknown" not in rows[0]
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    return [
        tuple(row[key] for key in ("step", "loss", "telemetry/a", "telemetry/failures/inverse"))
        for row in rows
    ]


def test_failures_are_counted_on_after_a_resumption(
    train: Train, planned: Train, at_batch: Train
) -> None:
    """ARC with hardly any cube takes Newton's steps, of which Rosenbrock's function refuses the
    second."""
    pair = (
        "optimizer=arc",
        "task=rosenbrock",
        "optimizer.sigma=1e-9",
        "optimizer.max_trials=1",
        "steps=8",
    )
    pair = (*pair, "task.eval_every=1", *ON)
    with at_batch(planned(*pair), 6, lambda: signal.raise_signal(signal.SIGINT)):
        train(*pair)
    resumed = [telemetry_of(row)["failures"] for row in train(*pair).rows]
    unbroken = [telemetry_of(row)["failures"] for row in train(*pair, "force=true").rows]
    assert resumed == unbroken
    assert unbroken[-1] >= 1
    assert unbroken == sorted(unbroken)
