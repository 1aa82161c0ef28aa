"""What is the same problem, what is the same configuration, and how the others are labelled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from suite.results.frame import Records, build_records
from suite.results.labels import distinguishing_keys, flatten, show
from suite.results.load import load_runs

Record = Callable[..., Path]


def read(runs: Path) -> Records:
    return build_records(*load_runs(runs))


def test_settings_are_flat_and_equal_numbers_are_equal_text() -> None:
    assert flatten({"a": {"b": [1, 2.0]}, "c": None, "d": True}) == {
        "a.b": "[1, 2]",
        "c": "null",
        "d": "true",
    }
    assert show(1) == show(1.0) == "1"
    assert show(1e-5) == "1e-05"


def test_a_key_is_taken_only_if_it_tells_more_apart() -> None:
    settings = [
        {"scale": "quick", "steps": "5"},
        {"scale": "full", "steps": "9"},
        {"scale": "full", "steps": "9"},
    ]
    assert distinguishing_keys(settings) == ["scale"]


def test_one_way_of_running_a_task_needs_no_label(record: Record, runs: Path) -> None:
    record("mlp", "sgd", 0)
    record("mlp", "adamw", 0)
    assert read(runs).problems == ["mlp"]


def test_budgets_data_scale_and_device_are_never_mixed(
    record: Record, runs: Path, training: Any
) -> None:
    record("mlp", "sgd", 0)
    record("mlp", "sgd", 0, training(steps=40))
    record("cnn", "sgd", 0)
    record("cnn", "sgd", 0, settings={"data": "mnist"})
    record("rnn", "sgd", 0)
    record("rnn", "sgd", 0, config={"scale": "full"})
    record("gpt", "sgd", 0)
    record("gpt", "sgd", 0, config={"device": "cuda"})
    assert read(runs).problems == [
        "cnn (data=digits)",
        "cnn (data=mnist)",
        "gpt (cpu)",
        "gpt (cuda)",
        "mlp (steps=20)",
        "mlp (steps=40)",
        "rnn (full)",
        "rnn (quick)",
    ]


def test_a_label_names_all_that_is_needed(record: Record, runs: Path) -> None:
    for scale, depth in (("quick", 8), ("quick", 20), ("small", 8)):
        record("resnet", "sgd", 0, config={"scale": scale}, settings={"depth": depth})
    assert read(runs).problems == [
        "resnet (quick, depth=20)",
        "resnet (quick, depth=8)",
        "resnet (small, depth=8)",
    ]


def test_configurations_of_an_optimizer_are_labelled_by_what_differs(
    record: Record, runs: Path
) -> None:
    record("mlp", "sgd", 0, hyper={"lr": 0.1, "betas": [0.9, 0.99]})
    record("mlp", "sgd", 0, hyper={"lr": 0.01, "betas": [0.9, 0.99]})
    record("cnn", "sgd", 0, hyper={"lr": 0.5})
    assert read(runs).optimizers == ["sgd", "sgd [lr=0.01]", "sgd [lr=0.1]"]


def test_a_schedule_is_part_of_the_configuration(record: Record, runs: Path) -> None:
    record(config={"schedule": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR"}})
    record(config={"schedule": {"_target_": "torch.optim.lr_scheduler.ConstantLR"}})
    assert read(runs).optimizers == [
        "sgd [schedule=ConstantLR]",
        "sgd [schedule=CosineAnnealingLR]",
    ]


def test_a_search_space_is_no_part_of_the_configuration(record: Record, runs: Path) -> None:
    record(seed=0, hyper={"search": {"lr": {"low": 1}}})
    record(seed=1, hyper={"search": {"lr": {"low": 2}}})
    records = read(runs)
    assert records.optimizers == ["sgd"]
    assert len(records.pair("mlp", "sgd")) == 2


def test_a_repeated_seed_is_no_sample(record: Record, runs: Path, training: Any) -> None:
    older = record(training=training(final=0.8), config={"experiment": "a"})
    newer = record(
        training=training(final=0.7), config={"experiment": "b", "metric": "accuracy", "threads": 2}
    )
    os.utime(older / "summary.json", (1, 1))
    records = read(runs)
    assert list(records.frame["final"]) == [0.7]
    assert records.repeats == [older.relative_to(runs).as_posix()]
    assert newer.name in records.frame["path"].iloc[0]


def test_an_ended_run_is_kept_before_a_later_unfinished_one(
    record: Record, runs: Path, training: Any
) -> None:
    record(training=training(final=0.8))
    record(training=training(status="unfinished"), config={"threads": 2})
    assert list(read(runs).frame["status"]) == ["done"]


def test_a_run_refused_before_it_was_built_stays_with_its_problem(
    record: Record, runs: Path, training: Any
) -> None:
    record("mlp", "sgd", 0)
    path = record("mlp", "adamw", 0, training(status="error", message="ValueError: lr"))
    config = yaml.safe_load((path / "config.yaml").read_text())
    known = {key: value for key, value in config.items() if key not in ("metric", "direction")}
    (path / "config.yaml").write_text(
        yaml.safe_dump({**known, "device": "auto", "precision": "auto"})
    )
    records = read(runs)
    assert records.problems == ["mlp"]
    assert set(records.frame["metric"]) == {"accuracy"}
