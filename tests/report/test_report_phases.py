"""Phase bars: only the timings of the records' own settings, cut into the phases in the order of a
step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from suite.report.sections.costs.phases import phase_panels, phases_of, section
from suite.results.timings import Place, Timing, placed, speed_key

PHASES = {
    "forward": 0.001,
    "backward": 0.002,
    "inverse": 0.006,
    "other": 0.001,
    "melody": 0.0005,
    "line search": 0.0,
}


def measured(records: Any, name: str, problem: str = "mlp", **changes: Any) -> dict[Place, Timing]:
    config = records.runs[int(records.pair(problem, name).index[0])].config
    key = speed_key(config)
    one = Timing(key, problem, name, "cpu, Some CPU, 1 thread", 0.0105, (0.0105,), PHASES)
    return placed([replace(one, **changes)])


def test_the_bars_are_those_of_the_runs_own_settings(
    plant: Callable[..., Any], context: Any
) -> None:
    records = plant({("mlp", "sgd"): [10, 20], ("mlp", "kfac"): [10]})
    timings = measured(records, "kfac") | placed(
        [Timing("0badc0de", "mlp", "sgd", "cpu", 1.0, (1.0,), PHASES)]
    )
    panels = phase_panels(records, timings)
    assert panels == {"mlp": {"kfac": PHASES}}
    (picture,) = section(context(records, timings=timings)).pictures
    assert picture.file.exists()
    assert "mlp: kfac takes longest, 10.50 ms, 57% of it inverse" in picture.alt
    assert "From 1 timing of `suite.time`." in picture.caption


def test_phases_stand_in_the_order_of_a_step_and_unknown_ones_before_the_rest() -> None:
    assert list(phases_of({"mlp": {"kfac": PHASES}})) == [
        "forward",
        "backward",
        "inverse",
        "melody",
        "other",
    ]


def test_several_machines_have_panels_of_their_own(plant: Callable[..., Any]) -> None:
    records = plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [10]})
    timings = measured(records, "kfac") | measured(records, "sgd", hardware="cuda, Some GPU")
    assert list(phase_panels(records, timings)) == [
        "mlp\ncuda, Some GPU",
        "mlp\ncpu, Some CPU, 1 thread",
    ]


@pytest.mark.parametrize("phases", [{}, {"forward": 0.0}])
def test_timings_without_phases_make_no_picture(
    plant: Callable[..., Any], context: Any, phases: dict[str, float]
) -> None:
    records = plant({("mlp", "sgd"): [10]})
    content = section(context(records, timings=measured(records, "sgd", phases=phases)))
    assert not content.is_shown
    assert not section(context(records, timings={})).is_shown
