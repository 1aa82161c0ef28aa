"""The break-even plane.

Places worked out by hand, failures on either side, hardware, levels, captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.report.sections.costs.break_even import section
from suite.report.sections.costs.break_even_plane import Plane, plane

INF = math.inf


def place(drawn: Plane, name: str, problem: str = "mlp") -> tuple[float, float]:
    (point,) = (point for point in drawn.points[name] if point.problem == problem)
    return point.steps.ratio, point.cost.ratio


def test_half_the_steps_at_four_times_the_price(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [40, 40, 40], ("mlp", "kfac"): [20, 20, 20]},
        seconds_per_step=lambda task, optimizer: 0.04 if optimizer == "kfac" else 0.01,
    )
    points = plane(records)
    assert points.against == ["sgd"]
    assert place(points, "kfac") == (pytest.approx(0.5), pytest.approx(4.0))
    (point,) = points.points["kfac"]
    # the seeds agree
    assert (point.steps.low, point.steps.high) == (pytest.approx(0.5), pytest.approx(0.5))
    assert not point.shared
    assert (points.levels, points.left_out, points.runs) == ({"mlp": "target"}, {}, 6)


def test_the_interval_is_that_of_paired_log_ratios(plant: Callable[..., Any]) -> None:
    from scipy import stats

    records = plant({("mlp", "sgd"): [40, 50, 80], ("mlp", "kfac"): [20, 10, 40]})
    (point,) = plane(records).points["kfac"]
    logs = [math.log(a / b) for a, b in ((20, 40), (10, 50), (40, 80))]
    interval = stats.t.interval(0.95, 2, loc=sum(logs) / 3, scale=stats.sem(logs))
    assert (point.steps.low, point.steps.high) == pytest.approx(tuple(map(math.exp, interval)))


def test_a_single_seed_has_no_interval(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "sgd"): [40], ("mlp", "kfac"): [20]})
    (point,) = plane(records).points["kfac"]
    assert math.isnan(point.steps.low)
    (picture,) = section(context(records)).pictures
    assert "A single seed: no intervals." in picture.caption
    assert (
        "kfac earlier in 1 of 1 (median 0.50 times the steps, 1.00 times the cost of a step)"
        in picture.alt
    )


def test_who_never_arrives_stands_at_an_edge(plant: Callable[..., Any], context: Any) -> None:
    records = plant(
        {
            ("mlp", "sgd"): [40, 40, 40],
            ("mlp", "kfac"): [INF, INF, 20],
            ("mlp", "lbfgs"): [INF, 20, 20],
        }
    )
    points = plane(records)
    assert place(points, "kfac")[0] == INF  # most of its runs failed
    assert place(points, "lbfgs")[0] == 0.5  # the median run arrived
    (picture,) = section(context(records)).pictures
    assert "An arrow at an edge" in picture.caption
    assert "dotted where they have no end" in picture.caption


def test_the_level_is_one_that_the_baseline_always_reaches(
    plant: Callable[..., Any], context: Any
) -> None:
    levels = {50: 0.2, 100: 0.5}  # planted failures end at 0.25
    records = plant(
        {("mlp", "sgd"): [40, INF], ("mlp", "kfac"): [20, 20]}, config={"levels": levels}
    )
    points = plane(records)
    assert points.levels == {"mlp": "50 %"}
    assert 0 < place(points, "kfac")[0] < 1
    (picture,) = section(context(records)).pictures
    assert "the hardest level that all of the baseline's runs reached" in picture.caption


def test_a_baseline_that_never_arrives_is_at_the_other_edge(plant: Callable[..., Any]) -> None:
    cells = {
        ("mlp", "sgd"): [INF, INF],
        ("mlp", "kfac"): [20, 20],
        ("cnn", "sgd"): [40.0],
        ("cnn", "kfac"): [40.0],
    }
    assert place(plane(plant(cells)), "kfac")[0] == 0


def test_nobody_arrives(plant: Callable[..., Any], context: Any) -> None:
    records = plant(
        {("mlp", "sgd"): [INF], ("mlp", "kfac"): [INF], ("cnn", "sgd"): [10], ("cnn", "kfac"): [10]}
    )
    assert plane(records).left_out == {"mlp": "nobody reached a level"}
    (picture,) = section(context(records)).pictures
    assert "Left out: mlp (nobody reached a level)." in picture.caption
    assert "From 2 runs." in picture.caption


def test_different_hardware_is_not_compared(plant: Callable[..., Any]) -> None:
    records = plant(
        {("mlp", "sgd"): [40], ("mlp", "kfac"): [20]},
        environment=lambda task, optimizer: {"cpu": f"CPU of {optimizer}"},
    )
    assert plane(records).points == {}


def test_shared_seconds_are_hollow_and_said(plant: Callable[..., Any], context: Any) -> None:
    records = plant({("mlp", "sgd"): [40], ("mlp", "kfac"): [20]}, summary={"parallel": True})
    assert plane(records).points["kfac"][0].shared
    assert "shared the machine" in section(context(records)).pictures[0].caption


@pytest.mark.parametrize("cells", [{}, {("mlp", "sgd"): [10.0]}, {("mlp", "kfac"): [10.0]}])
def test_nothing_to_compare_is_no_picture(
    plant: Callable[..., Any],
    record: Callable[..., Path],
    context: Any,
    cells: dict[tuple[str, str], list[float]],
) -> None:
    record("cnn", "sgd")
    assert not section(context(plant(cells))).is_shown


def test_many_problems_are_numbered_panels_of_methods(
    plant: Callable[..., Any], context: Any
) -> None:
    cells = {
        (f"task{n}", name): [20.0, 40.0] for n in range(5) for name in ("sgd", "kfac", "newton")
    }
    (picture,) = section(context(plant(cells))).pictures
    assert "kfac earlier in 0 of 5" in picture.alt
    assert "From 30 runs." in picture.caption
