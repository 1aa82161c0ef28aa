"""Curves, their scales and the look of an optimizer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from suite.config.registry import FIRST_ORDER, OTHER, family
from suite.report.drawing.canvas import WIDTH
from suite.report.drawing.lines import columns_that_fit
from suite.report.drawing.style import colour_of, looks
from suite.results.learning_curves import MOST_POINTS, curve, is_logarithmic, limits, spread, window


def history(values: list[float], seconds: float = 1.0) -> pd.DataFrame:
    steps = np.arange(len(values), dtype=float)
    columns = {
        "step": steps,
        "seconds": seconds * steps,
        "grad_equivalents": 2 * steps,
        "loss": values,
    }
    return pd.DataFrame(columns)


def cell(*statuses: str) -> pd.DataFrame:
    return pd.DataFrame({"status": list(statuses)})


def test_the_middle_is_the_median_and_the_band_reaches_from_the_smallest_to_the_largest() -> None:
    histories = {0: history([8, 4, 1], 1.0), 1: history([8, 5, 2], 3.0), 2: history([8, 9, 3], 2.0)}
    one = curve(cell("done", "done", "target"), histories, "loss", 1)
    assert list(one.middle["value"]) == [8, 5, 2]
    assert list(one.middle["low"]) == [8, 4, 1]
    assert list(one.middle["high"]) == [8, 9, 3]
    assert list(one.middle["seconds"]) == [0, 2, 4]
    assert one.runs == 3


def test_the_middle_goes_as_far_as_half_of_the_runs() -> None:
    histories = {0: history([3, 2, 1]), 1: history([3, 2]), 2: history([3])}
    assert list(curve(cell("done", "target", "target"), histories, "loss", 1).middle["step"]) == [
        0,
        1,
    ]


def test_a_failed_run_is_drawn_apart_to_its_last_finite_value() -> None:
    histories = {0: history([3, 2, 1]), 1: history([3, 1e9, np.inf]), 2: history([np.nan])}
    one = curve(cell("done", "diverged", "unsupported"), histories, "loss", 1)
    assert list(one.middle["high"]) == [3, 2, 1]
    (strand,) = one.strands
    assert (strand.status, list(strand.points["value"])) == ("diverged", [3, 1e9])


def test_long_histories_are_thinned_by_medians() -> None:
    long = history([1.0] + [10.0 ** -(step % 3) for step in range(1, 3001)])
    steps = window([long])
    assert steps == 50
    one = curve(cell("done"), {0: long}, "loss", steps)
    assert len(one.middle) <= MOST_POINTS + 2
    # the first steps stay as they are
    assert list(one.middle["value"].iloc[:4]) == pytest.approx([1, 0.1, 0.01, 1])
    assert list(one.middle["value"].iloc[-50:]) == pytest.approx([0.1] * 50)
    assert window([history([1.0, 2.0])]) == 1


def test_log_scales_are_for_positive_values_that_span_decades() -> None:
    def scale(values: list[float]) -> bool:
        return is_logarithmic([curve(cell("done"), {0: history(values)}, "loss", 1)])

    assert scale([50.0, 1.0, 0.0])
    assert not scale([5.0, 1.0])
    assert not scale([50.0, -1.0])
    assert not is_logarithmic([])


def test_what_explodes_does_not_set_the_limits() -> None:
    histories = {0: history([2.0, 1.0, 0.5]), 1: history([2.0, 1e12])}
    curves = [curve(cell("done", "diverged"), histories, "loss", 1)]
    low, high = limits(curves, "min", log=False) or (np.nan, np.nan)
    assert (low, high) == (0.5, 2.0)
    failed = [curve(cell("diverged"), {0: history([2.0, 1e12])}, "loss", 1)]
    assert limits(failed, "min", log=False) is not None
    assert limits([], "min", log=False) is None


def test_exact_zeros_do_not_stretch_a_log_scale() -> None:
    curves = [curve(cell("done"), {0: history([10.0, 1e-30, 0.0])}, "loss", 1)]
    low, high = limits(curves, "min", log=True) or (np.nan, np.nan)
    assert high / low == pytest.approx(1e16)


def test_the_spread_of_costs() -> None:
    curves = [
        curve(cell("done"), {0: history([2, 1], seconds)}, "loss", 1) for seconds in (1.0, 9.0)
    ]
    assert spread(curves, "seconds") == 9.0
    assert spread([], "seconds") == 1.0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("torch.optim.AdamW", FIRST_ORDER),
        ("torch.optim.LBFGS", FIRST_ORDER),
        ("optimizers.natural_gradient.KFAC", "natural gradient"),
        ("optimizers.newton.newton.Newton", "newton"),
        ("optimizers.novel.Thing", "novel"),
        ("pytorch_optimizer.Lion", FIRST_ORDER),
        ("somebody.SOAP", OTHER),
        ("", OTHER),
    ],
)
def test_families_come_from_the_module_unless_the_yaml_says_so(target: str, expected: str) -> None:
    assert family({"_target_": target}) == expected
    assert family({"_target_": target, "about": {"family": "novel"}}) == "novel"


def test_a_colour_belongs_to_a_name_whoever_else_takes_part() -> None:
    alone = looks([("kfac", "kfac", "natural gradient")])["kfac"]
    among = looks([("sgd", "sgd", FIRST_ORDER), ("kfac", "kfac", "natural gradient")])["kfac"]
    assert alone == among
    assert colour_of("an unknown name") == colour_of("an unknown name")


def test_the_optimizers_of_the_quick_experiment_have_colours_of_their_own() -> None:
    names = ("sgd", "momentum", "adamw", "torch_lbfgs", "muon", "kfac", "ggn_cg", "newton")
    assert len({colour_of(name) for name in names}) == len(names)


def test_configurations_of_one_optimizer_share_the_colour_but_not_the_marker() -> None:
    two = looks([("sgd [lr=1]", "sgd", FIRST_ORDER), ("sgd [lr=2]", "sgd", FIRST_ORDER)])
    first, second = two.values()
    assert first.colour == second.colour
    assert first.marker != second.marker
    assert looks([("new", "new", "novel")])["new"].dashes is not None


@pytest.mark.parametrize("longest", [3, 22, 57])
def test_a_legend_is_no_wider_than_its_picture(longest: int) -> None:
    name = "pytorch_optimizer_lookahead [name=lookahead, lr=0.1, k=5]"
    names = [name[: longest - number % 3] for number in range(22)]
    columns = columns_that_fit(names)
    canvas = Figure(figsize=(WIDTH, 8), layout="constrained")
    canvas.subplots()
    handles = [Line2D([], [], label=name) for name in names]
    legend = canvas.legend(
        handles=handles, loc="outside lower center", ncols=columns, handlelength=3.2
    )
    canvas.draw_without_rendering()
    assert legend.get_window_extent().width <= canvas.bbox.width
    assert columns == {3: 8, 22: 4, 57: 2}[longest]
