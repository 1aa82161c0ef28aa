"""The telemetry figure.

Which panels are drawn, with what lines, on which scales, and what the caption says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from suite.report.drawing.style import looks
from suite.report.report import write_report
from suite.report.sections.progress.telemetry import _draw, telemetry_pictures
from suite.report.sections.progress.telemetry_panels import LIMITS, LOSS, PANELS, UNDRAWN, generic
from suite.report.sections.progress.telemetry_runs import (
    failure_steps,
    panels_with_data,
    stability_limit,
    watched_runs,
)
from suite.results.frame import Records, build_records
from suite.results.load import load_runs

mpl.use("Agg")
Record = Callable[..., Path]
Numbers = Callable[[float], float]


def add(directory: Path, every: int = 1, **columns: Numbers) -> None:
    """Add columns of telemetry to a history, functions of the step, at every so many steps.

    `__` stands for a slash.
    """
    history = pd.read_csv(directory / "history.csv")
    for name, value in columns.items():
        steps = history["step"]
        history[f"telemetry/{name.replace('__', '/')}"] = [
            value(s) if s % every == 0 else math.nan for s in steps
        ]
    history.to_csv(directory / "history.csv", index=False)


def step_columns(directory: Path) -> None:
    add(
        directory,
        cosine=lambda step: 1 / (1 + step),
        overshoot=lambda step: 1e9 if step == 3 else 1.0,
        update_ratio_min=lambda step: 1e-3,
        update_ratio_median=lambda step: 2e-3,
        update_ratio_max=lambda step: 4e-3,
        gradient_norm=lambda step: 5.0,
    )


def curvature_columns(directory: Path) -> None:
    add(
        directory,
        every=5,
        eigenvalue_1=lambda step: 10.0 ** (1 + step / 10),
        lr_sharpness=lambda step: 1.0 + step / 10,
        update_curvature=lambda step: 1.0,
        gradient_curvature=lambda step: 2.0,
        negative_mass=lambda step: 0.1,
    )


def records_of(runs: Path) -> Records:
    return build_records(*load_runs(runs))


def drawn(records: Records, problem: str) -> Any:
    """The figure, the panels and the watched runs of a problem."""
    names = [(name, name, "other") for name in records.optimizers]
    watched = watched_runs(records, problem, looks(names))
    panels = panels_with_data(watched)
    return _draw(problem, watched, panels), panels, watched


def axes_by_title(canvas: Any) -> dict[str, Any]:
    return {axes.get_title(loc="left"): axes for axes in canvas.axes if axes.get_visible()}


@pytest.fixture
def pair(record: Record, runs: Path, training: Any) -> Records:
    """SGD with everything, Newton with what its method tells, AdamW without telemetry."""
    first = record("mlp", "sgd", 0, training())
    step_columns(first)
    curvature_columns(first)
    second = record("mlp", "newton", 0, training())
    step_columns(second)
    add(
        second,
        damping=lambda step: 10.0 ** (-step / 5),
        reduction_ratio=lambda step: 0.9,
        failures=lambda step: float(step >= 4) + float(step >= 11),
        failures__refused=lambda step: 1.0,
        trust=lambda step: step,
    )
    record("mlp", "adamw", 0, training())
    return records_of(runs)


def test_only_panels_that_have_data(pair: Records) -> None:
    canvas, panels, watched = drawn(pair, "mlp")
    titles = [panel.title for panel in panels]
    assert titles == [
        *(
            "training loss",
            "cosine of step and -gradient",
            "gradient norm",
            "overshoot of the step",
        ),
        "update / weight",
        *(
            "largest eigenvalue",
            "lr x largest eigenvalue",
            "curvature along the step",
            "share of negative curvature",
        ),
        *("damping", "reduction ratio", "trust", "failures"),
    ]
    assert [one.name for one in watched] == ["sgd", "newton"]  # AdamW has none
    assert set(axes_by_title(canvas)) == set(titles)


def test_loss_on_top_and_one_axis_of_steps(pair: Records) -> None:
    canvas, _, _ = drawn(pair, "mlp")
    tops = [axes for axes in canvas.axes if axes.get_title(loc="left") == "training loss"]
    assert len(tops) == 2  # one on each column
    for axes in canvas.axes:
        assert axes.get_xlim() == tops[0].get_xlim()
    assert tops[0].get_xlim()[0] == 0
    labelled = [axes for axes in canvas.axes if axes.get_xlabel() == "steps"]
    assert len(labelled) == 2


def test_few_panels_stand_in_one_column(record: Record, runs: Path, training: Any) -> None:
    add(record("mlp", "sgd", 0, training()), cosine=lambda step: 0.5, lr_sharpness=lambda step: 1.0)
    canvas, panels, _ = drawn(records_of(runs), "mlp")
    assert [panel.title for panel in panels] == [
        "training loss",
        "cosine of step and -gradient",
        LIMITS.title,
    ]
    assert [axes.get_title(loc="left") for axes in canvas.axes] == [panel.title for panel in panels]


def test_the_lines_are_the_histories(pair: Records) -> None:
    canvas, _, watched = drawn(pair, "mlp")
    panels = axes_by_title(canvas)
    colours = {one.name: one.look.colour for one in watched}
    cosines = {line.get_color(): line for line in panels["cosine of step and -gradient"].lines[1:]}
    assert set(cosines) == set(colours.values())
    assert list(cosines[colours["sgd"]].get_ydata()) == pytest.approx(
        [1 / (1 + step) for step in range(21)]
    )
    eigenvalues = panels["largest eigenvalue"]
    assert eigenvalues.get_yscale() == "log"
    assert list(eigenvalues.lines[0].get_xdata()) == [0, 5, 10, 15, 20]
    assert panels["curvature along the step"].get_yscale() == "linear"
    assert [len(line.get_xdata()) for line in panels["curvature along the step"].lines] == [5, 5]


def test_what_leaves_a_range_is_drawn_at_the_edge(pair: Records) -> None:
    canvas, _, _ = drawn(pair, "mlp")
    axes = axes_by_title(canvas)["overshoot of the step"]
    guides = [
        line.get_ydata()[0]
        for line in axes.lines
        if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert guides == [1, 2]
    assert axes.get_ylim()[1] < 5
    peak = max(max(line.get_ydata()) for line in axes.lines)
    assert peak == pytest.approx(axes.get_ylim()[1])


def test_the_band_and_the_limit(pair: Records) -> None:
    canvas, _, watched = drawn(pair, "mlp")
    panels = axes_by_title(canvas)
    assert len(panels["update / weight"].collections) == 2
    lines = panels[
        "lr x largest eigenvalue"
    ].lines  # for SGD alone: what Newton's lr times an eigenvalue is tells nothing
    assert len(lines) == 2
    assert {line.get_color() for line in lines} == {watched[0].look.colour}
    assert sorted(set(lines[1].get_ydata()) | set(lines[0].get_ydata()))[-1] == pytest.approx(3.0)
    assert any(set(line.get_ydata()) == {2.0} for line in lines)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"_target_": "torch.optim.SGD"}, 2.0),
        ({"_target_": "torch.optim.SGD", "momentum": "0.9"}, 3.8),
        ({"_target_": "torch.optim.SGD", "momentum": "0.9", "nesterov": "true"}, 3.8 / 2.8),
        ({"_target_": "torch.optim.SGD", "momentum": "0.9", "dampening": "0.9"}, None),
        ({"_target_": "torch.optim.Adam"}, None),
    ],
)
def test_the_limit_of_stability_is_where_a_quadratic_diverges(
    settings: dict[str, str], limit: float | None
) -> None:
    assert stability_limit(settings) == (None if limit is None else pytest.approx(limit))
    if limit is None:
        return
    import torch

    def end(lr: float) -> float:
        x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        momentum, nesterov = float(settings.get("momentum", 0)), settings.get("nesterov") == "true"
        optimizer = torch.optim.SGD([x], lr=lr, momentum=momentum, nesterov=nesterov)
        for _ in range(2000):
            x.grad = x.detach().clone()
            optimizer.step()
        return abs(float(x.detach()))

    assert end(0.98 * limit) < 1e-3
    assert end(1.02 * limit) > 1e3


def test_the_limit_is_shown_where_it_is_near(record: Record, runs: Path, training: Any) -> None:
    add(record("mlp", "sgd", 0, training()), lr_sharpness=lambda step: 1.0 + step / 40)
    add(record("cnn", "sgd", 0, training()), lr_sharpness=lambda step: 0.1)
    records = records_of(runs)
    tops = {
        name: axes_by_title(drawn(records, name)[0])[LIMITS.title].get_ylim()[1]
        for name in ("mlp", "cnn")
    }
    assert tops["mlp"] > 2 > 1 > tops["cnn"]


def test_failures_are_ticks_at_the_steps_that_had_one(pair: Records) -> None:
    canvas, _, _ = drawn(pair, "mlp")
    (ticks,) = axes_by_title(canvas)["failures"].lines
    assert list(ticks.get_xdata()) == [4, 11]
    assert ticks.get_marker() == "|"


def test_failure_steps() -> None:
    history = pd.DataFrame({"step": [0, 1, 2, 5], "telemetry/failures": [1.0, 1.0, math.nan, 3.0]})
    assert list(failure_steps(history)) == [0, 5]
    assert len(failure_steps(history[["step"]])) == 0


def test_a_diverged_run_is_drawn_to_its_end(record: Record, runs: Path, training: Any) -> None:
    step_columns(record("mlp", "sgd", 0, training(status="diverged", cut=8)))
    canvas, panels, _ = drawn(records_of(runs), "mlp")
    assert panels[0] is LOSS
    top = axes_by_title(canvas)["training loss"]
    assert [line.get_marker() for line in top.lines][-1] == "x"
    assert (
        list(axes_by_title(canvas)["cosine of step and -gradient"].lines[-1].get_xdata())[-1] == 8
    )


def test_much_longer_runs_take_a_logarithmic_axis(
    record: Record, runs: Path, training: Any
) -> None:
    step_columns(record("mlp", "sgd", 0, training(steps=400)))
    step_columns(record("mlp", "newton", 0, training(steps=400, cut=10, status="target")))
    canvas, _, _ = drawn(records_of(runs), "mlp")
    assert {axes.get_xscale() for axes in canvas.axes} == {"symlog"}


def test_caption_and_alternative_text(pair: Records, tmp_path: Path) -> None:
    names = [(name, name, "other") for name in pair.optimizers]
    (picture,) = telemetry_pictures(pair, looks(names), tmp_path)
    assert picture.file.exists()
    assert picture.file.with_suffix(".pdf").exists()
    assert picture.caption.startswith(
        "Seed 0, training loss on top. Cosine of step and -gradient: 1 is steepest"
    )
    assert "Failures: a tick where" in picture.caption
    assert picture.caption.endswith("From 2 runs.")
    assert "Radius" not in picture.caption
    assert "CG iterations" not in picture.caption
    assert picture.alt.startswith(
        "Telemetry of sgd, newton on mlp, under the training loss: cosine"
    )


def test_the_report_has_the_section_where_there_is_telemetry(pair: Records, tmp_path: Path) -> None:
    write_report(pair, tmp_path / "out", "title", "command")
    page = (tmp_path / "out" / "tasks" / "mlp.html").read_text()
    assert '<section id="telemetry"' in page
    assert "telemetry-mlp.png" in (tmp_path / "out" / "files.txt").read_text()


def test_and_not_elsewhere(record: Record, runs: Path, training: Any, tmp_path: Path) -> None:
    record("mlp", "sgd", 0, training())
    add(record("mlp", "adamw", 0, training()), cosine=lambda step: math.nan)
    records = records_of(runs)
    write_report(records, tmp_path / "out", "title", "command")
    assert '<section id="telemetry"' not in (tmp_path / "out" / "tasks" / "mlp.html").read_text()


def test_generic_panels_are_few_and_ordered() -> None:
    names = {"zeta", "alpha", "failures/inverse", "beta", "gamma", "delta", *UNDRAWN}
    assert [panel.title for panel in generic(names)] == ["alpha", "beta", "delta", "gamma"]


def test_panels_say_how_to_read_them() -> None:
    assert all(panel.reading.endswith(".") for panel in PANELS)
    columns = [panel.columns[0] for panel in PANELS]
    assert len(columns) == len(set(columns))
    assert np.isfinite([value for panel in PANELS for value in panel.guides]).all()
