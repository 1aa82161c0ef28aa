"""Looks that no two methods share, labels moved apart, legends no wider than the picture, words for
lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from suite.config import registry
from suite.report.drawing.canvas import RC
from suite.report.drawing.lines import (
    WIDTH,
    columns_that_fit,
    empty_note,
    end_labels,
    handle,
    legend,
    moved_apart,
    name_points,
    named_looks,
    ratio_ticks,
)
from suite.report.drawing.style import KNOWN, PALETTE, SHADES, looks
from suite.tables.formats import listed


def every_look() -> list[tuple[str, str, str]]:
    names = registry.names("optimizer")
    return [(name, name, registry.family(registry.read("optimizer", name))) for name in names]


def test_no_two_methods_of_a_report_look_the_same() -> None:
    everybody = every_look()
    for start in range(0, len(everybody), 7):
        some = everybody[start : start + 40]
        chosen = looks(some)
        assert len({(look.colour, look.marker) for look in chosen.values()}) == len(some)


def test_up_to_eleven_methods_differ_in_their_markers_alone() -> None:
    chosen = looks(every_look()[:11])
    assert len({look.marker for look in chosen.values()}) == 11


def test_names_of_one_hue_differ_in_shade_and_configurations_of_one_name_do_not() -> None:
    black = [name for name in KNOWN if KNOWN[name] == PALETTE[0]]
    chosen = list(looks([(name, name, "") for name in black]).values())
    assert [look.colour for look in chosen[:3]] == [PALETTE[0], *SHADES[PALETTE[0]]]
    settings = looks([(f"adam [{n}]", "adam", "") for n in range(33)]).values()
    assert {look.colour for look in list(settings)[:11]} == {PALETTE[0]}
    assert len({(look.colour, look.marker) for look in settings}) == 33


def test_two_settings_of_two_names_of_one_hue_never_look_the_same() -> None:
    labelled = [(f"{name} [{n}]", name, "") for n in range(16) for name in ("newton", "adam")]
    assert len({(look.colour, look.marker) for look in looks(labelled).values()}) == 32


def test_every_hue_has_shades_of_its_own() -> None:
    colours = [*PALETTE, *(shade for shades in SHADES.values() for shade in shades)]
    assert len(set(colours)) == 3 * len(PALETTE)


def test_labels_that_touch_are_moved_apart_in_their_order_and_no_further() -> None:
    assert moved_apart({"a": 0.2, "b": 0.8}, 0.1) == {"a": 0.2, "b": 0.8}
    moved = moved_apart({"a": 0.5, "b": 0.5, "c": 0.52}, 0.1)
    assert moved == pytest.approx({"a": 0.4067, "b": 0.5067, "c": 0.6067}, abs=1e-3)
    edge = moved_apart({str(place): 1.0 for place in range(5)}, 0.1)
    assert list(edge.values()) == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    crowd = moved_apart({str(place): place / 100 for place in range(10)}, 0.05)
    heights = list(crowd.values())
    assert all(high - low == pytest.approx(0.05) for low, high in itertools.pairwise(heights))
    assert list(crowd) == [str(place) for place in range(10)]


def test_names_of_points_do_not_cover_each_other() -> None:
    canvas = Figure(figsize=(4, 3))
    axes = canvas.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    name_points(axes, {f"name{place}": (0.5, 0.5) for place in range(4)})
    places = sorted(text.get_position()[1] for text in axes.texts)
    assert min(high - low for low, high in itertools.pairwise(places)) > 0.03


@pytest.mark.parametrize(
    "labels", [["a"], ["sgd", "kfac"] * 20, ["a very long label [lr=0.0001, momentum=0.9]"] * 7]
)
def test_a_legend_is_no_wider_than_its_picture(labels: list[str]) -> None:
    import matplotlib as mpl

    look = next(iter(looks([("a", "a", "")]).values()))
    with mpl.rc_context(RC):
        canvas = Figure(figsize=(WIDTH, 8), layout="constrained")
        canvas.subplots()
        legend(canvas, [handle(look, label) for label in labels])
        canvas.draw_without_rendering()
        box = canvas.legends[0].get_window_extent()
    assert box.width <= WIDTH * canvas.dpi
    assert 1 <= columns_that_fit(labels) <= len(labels)


def test_ends_of_lines_are_labelled_in_the_lines_order() -> None:
    canvas = Figure(figsize=(4, 3))
    axes = canvas.subplots()
    axes.set_ylim(0, 1)
    end_labels(
        axes,
        {"a": 0.5, "b": 0.5, "c": 0.1, "d": float("nan")},
        looks([(name, name, "") for name in "abcd"]),
    )
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}  # type: ignore[attr-defined]
    assert heights["c"] < heights["a"] < heights["b"]
    assert set(heights) == {"a", "b", "c"}


def test_ticks_of_ratios_are_plain_numbers() -> None:
    axes = Figure().subplots()
    axes.set(xscale="log", yscale="log", xlim=(0.01, 100), ylim=(0.5, 4))
    for ruler in (axes.xaxis, axes.yaxis):
        ratio_ticks(ruler)
    shown = [
        [tick.get_text() for tick in ruler.get_ticklabels()] for ruler in (axes.xaxis, axes.yaxis)
    ]
    assert {"0.01", "0.1", "1", "10", "100"} <= set(shown[0])
    assert {"0.5", "1", "2"} <= set(shown[1])


def test_a_panel_with_nothing_to_show_has_no_ticks_either() -> None:
    canvas = Figure()
    axes = canvas.subplots()
    axes.set(xscale="log", xlim=(1, 4))  # so narrow a range would have its minor ticks labelled
    empty_note(axes, "costs $5")
    canvas.draw_without_rendering()
    assert not [
        tick.get_text() for which in (False, True) for tick in axes.get_xticklabels(minor=which)
    ]
    assert [text.get_text() for text in axes.texts] == [r"costs \$5"]


def test_lists_in_words() -> None:
    assert [listed(list("abcdefgh"[:n])) for n in (0, 1, 2, 3)] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert listed(list("abcdefgh")) == "a, b, c, d, e and 3 more"


def test_names_without_a_label_get_a_look_of_their_own(
    plant: Callable[..., Any], record: Callable[..., Path], styled: Any, training: Any
) -> None:
    record("mlp", "sgd", 0, training(steps=100), hyper={"lr": 0.3}, config={"target": 0.5})
    records = plant({("mlp", "sgd"): [10], ("mlp", "kfac"): [10]})
    styles = styled(records)
    chosen = named_looks(["kfac", "sgd", "adamw", "nobody_knows"], styles, records)
    assert chosen["kfac"] == styles["kfac"]
    assert chosen["sgd"] in (styles["sgd [lr=0.1]"], styles["sgd [lr=0.3]"])
    assert len({(look.colour, look.marker) for look in chosen.values()}) == 4
