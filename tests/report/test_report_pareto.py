"""Time against memory: the front by hand and against a slow twin, and the odd cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.report.sections.costs.pareto import front, per_step, section, to_target

INF = math.inf


def test_the_front_by_hand() -> None:
    points = {
        "a": (1.0, 9.0),
        "b": (2.0, 5.0),
        "c": (3.0, 5.0),
        "d": (4.0, 1.0),
        "e": (INF, 0.5),
        "f": (9.0, math.nan),
    }
    assert front(points) == ["a", "b", "d"]
    # equals are both on it
    assert front({"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (1.0, 2.0)}) == ["a", "b"]
    assert front({"e": (INF, 1.0)}) == []


def test_the_front_is_what_nobody_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        pairs = generator.integers(1, 6, size=(8, 2)).astype(float)
        points = {str(index): (float(x), float(y)) for index, (x, y) in enumerate(pairs)}
        beaten = {
            name
            for name, (x, y) in points.items()
            for u, v in points.values()
            if u <= x and v <= y and (u < x or v < y)
        }
        assert set(front(points)) == set(points) - beaten


def test_the_points_of_a_problem(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [10, 30, 20], ("mlp", "kfac"): [5, INF, INF], ("mlp", "lbfgs"): [10, 20]},
        summary=lambda task, optimizer: {"peak_memory_bytes": 100 if optimizer == "sgd" else 900},
    )
    panels = to_target(records).contents
    sgd, kfac, lbfgs = (panels["mlp"][name] for name in ("sgd", "kfac", "lbfgs"))
    assert (sgd.time, sgd.fastest, sgd.slowest) == pytest.approx((0.2, 0.1, 0.3))
    assert sgd.memory == 100
    assert (kfac.time, kfac.fastest, kfac.memory) == (INF, pytest.approx(0.05), 900)
    assert lbfgs.time == pytest.approx(0.15)
    assert to_target(records).runs == 8


def test_a_step_in_milliseconds_against_the_state(plant: Callable[..., Any], context: Any) -> None:
    records = plant(
        {("mlp", "sgd"): [10], ("mlp", "kfac"): [5]},
        summary=lambda task, optimizer: {"state_bytes": 0 if optimizer == "sgd" else 4096},
        seconds_per_step=lambda task, optimizer: 0.02 if optimizer == "sgd" else 0.005,
    )
    points = per_step(records).contents["mlp"]
    assert {name: (point.time, point.memory) for name, point in points.items()} == {
        "sgd": (pytest.approx(20), 0),
        "kfac": (pytest.approx(5), 4096),
    }
    pictures = {picture.name: picture for picture in section(context(records)).pictures}
    assert "mlp: kfac (5.000, 4.0 KiB) and sgd (20.00, 0 B)" in pictures["pareto-step"].alt
    assert all(picture.file.exists() for picture in pictures.values())


def test_each_hardware_has_its_own_panel(plant: Callable[..., Any], context: Any) -> None:
    records = plant(
        {("mlp", "sgd"): [10], ("mlp", "kfac"): [5]},
        environment=lambda task, optimizer: {"cpu": f"CPU of {optimizer}"},
    )
    assert list(to_target(records).contents) == [
        "mlp\ncpu, CPU of sgd, 1 thread",
        "mlp\ncpu, CPU of kfac, 1 thread",
    ]
    assert len(section(context(records)).pictures) == 2


def test_nobody_arrives_and_nobody_keeps_anything(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "sgd"): [INF]}, summary={"state_bytes": 0, "parallel": True})
    (picture,) = section(context(records)).pictures
    assert picture.name == "pareto-step"
    assert "Hollow: seconds of runs that shared the machine" in picture.caption


def test_nothing_measured_is_no_picture(
    record: Callable[..., Path], plant: Callable[..., Any], context: Any
) -> None:
    record("mlp", "sgd", summary={"state_bytes": None, "peak_memory_bytes": None})
    assert not section(context(plant({}))).is_shown
