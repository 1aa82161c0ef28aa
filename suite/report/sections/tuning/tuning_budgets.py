"""Budget curves: the validation value expected after a number of trials of tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, literal, plain_ticks, save
from suite.report.drawing.lines import band, handle, legend, legend_height, marked_line, named_looks
from suite.report.drawing.panels import panels
from suite.report.drawing.style import Look
from suite.report.section import PROBLEM, Content, Context, Section
from suite.stats import budget_curve
from suite.tables.formats import listed, number

ACROSS, HEIGHT = 3, 2.9
EXCHANGEABLE = ("quasi", "random")  # samplers whose trials may be drawn again in any order
DECADE = 10.0
HOW_TO_READ = (
    "Height above k is what the best of k trials of tuning is expected to reach on the validation "
    "split, from the trials that were made, failed ones counted as the worst value seen. A method "
    "that is easy to tune is flat and good from the left on; where two lines cross, the budget "
    "decides who wins. The mark above `default` is the setting that nobody tuned. Towards the "
    "right end the band is too narrow: nothing better than the best trial can be drawn."
)


@dataclass(frozen=True)
class Tuned:
    """One study.

    Attributes:
        curve: `expected`, `low`, `high` by the number of trials.
        default: the untuned value.
        trials: how many there are.
        failed: how many of them have no value.
        mode: whether the metric is to be large, `max`, or small, `min`.
        metric: its name.
    """

    curve: pd.DataFrame
    default: float
    trials: int
    failed: int
    mode: str
    metric: str


def section(context: Context) -> Content:
    """The curves of the tasks of the records; empty where no task was tuned."""
    records, trials = context.records, context.trials
    studies, left_out = tuned(trials[trials["task"].isin(set(records.frame["task"]))])
    if not studies:
        return Content()
    looks = named_looks(
        dict.fromkeys(name for curves in studies.values() for name in curves),
        context.styles,
        records,
    )
    return Content([], [_picture(studies, left_out, looks, context.figures)], HOW_TO_READ)


def tuned(trials: pd.DataFrame) -> tuple[dict[str, dict[str, Tuned]], list[str]]:
    """The curves of each task and optimizer, and the studies that have none, in words.

    Of several studies of a pair the one with most trials counts. Trials of a search that learns
    from its trials, or stops some early, cannot be drawn again: such studies have no curve.
    """
    studies: dict[str, dict[str, Tuned]] = {}
    left_out: list[str] = []
    for (task, name), pair in trials.groupby(["task", "optimizer"], sort=False):
        free = pair[
            _exchangeable(pair) & np.isfinite(pair["score"]).groupby(pair["study"]).transform("any")
        ]
        sizes = free.groupby("study", sort=False).size()
        chosen = sizes.idxmax() if len(sizes) else None
        left_out += [str(study) for study in dict.fromkeys(pair["study"]) if study != chosen]
        if chosen is not None:
            studies.setdefault(str(task), {})[str(name)] = _tuned(free[free["study"] == chosen])
    return studies, left_out


def _exchangeable(trials: pd.DataFrame) -> pd.Series:
    quiet = trials["pruner"].fillna("none") == "none" if "pruner" in trials else True
    return trials["sampler"].isin(EXCHANGEABLE) & quiet


def _tuned(trials: pd.DataFrame) -> Tuned:
    mode = "max" if float(trials["sign"].iloc[0]) > 0 else "min"
    values = trials["value"].where(np.isfinite(trials["score"])).to_numpy(dtype=float)
    first = trials.loc[trials["number"] == 0, "value"]
    default = float(first.iloc[0]) if len(first) else math.nan
    curve = budget_curve(values, mode)
    failed = int((~np.isfinite(values)).sum())
    return Tuned(curve, default, len(values), failed, mode, str(trials["metric"].iloc[0]))


def _picture(
    studies: Mapping[str, Mapping[str, Tuned]],
    left_out: list[str],
    looks: Mapping[str, Look],
    folder: Path,
) -> Picture:
    handles = [handle(look, name) for name, look in looks.items()]
    with mpl.rc_context(RC):
        grid = panels(
            len(studies),
            WIDTH / ACROSS,
            HEIGHT,
            most=ACROSS,
            least=5.5,
            margin=lambda width: legend_height(handles, width),
        )
        for place, (task, curves) in enumerate(studies.items()):
            axes, one = grid.axes[place], next(iter(curves.values()))
            axes.set_title(literal(folded(task, 40)))
            axes.set_ylabel(literal(f"{one.metric} {'↑' if one.mode == 'max' else '↓'}"))
            axes.set_xlabel("trials" if grid.is_lowest(place) else "")
            _panel(axes, curves, looks)
        legend(grid.canvas, handles, grid.width)
        png = save(grid.canvas, folder, "budgets")
    title = "Expected best value after k trials"
    return Picture("budgets", title, _caption(studies, left_out), _alt(studies), png)


def _panel(axes: Axes, curves: Mapping[str, Tuned], looks: Mapping[str, Look]) -> None:
    shown = [
        value
        for one in curves.values()
        for value in (*one.curve["expected"], one.default)
        if math.isfinite(value)
    ]
    if min(shown) > 0 and max(shown) / min(shown) > DECADE:
        axes.set_yscale("log")
    for place, (name, one) in enumerate(curves.items()):
        _plot(axes, one, looks[name], place, len(curves))
    axes.set_xlim(0, max(one.trials for one in curves.values()) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "default" if value == 0 else f"{value:g}")
    )
    plain_ticks(axes.yaxis)


def _plot(axes: Axes, one: Tuned, look: Look, place: int, among: int) -> None:
    """A method's curve with its band, and a marker for the untuned value."""
    points = one.curve
    x = points.index.to_numpy(dtype=float)
    marked_line(axes, x, points["expected"].to_numpy(), look, place, marks=5)
    if points["low"].notna().all():
        low, high = points["low"].to_numpy(), points["high"].to_numpy()
        band(axes, x, low, high, look, among=among, steps=False)
    axes.plot(
        [0.25], [one.default], markersize=5.5, clip_on=False, color=look.colour, marker=look.marker
    )


def _caption(studies: Mapping[str, Mapping[str, Tuned]], left_out: list[str]) -> str:
    every = [one for curves in studies.values() for one in curves.values()]
    trials, failed = sum(one.trials for one in every), sum(one.failed for one in every)
    notes = [f"{failed} of {trials} trials failed."] if failed else []
    unequal = [task for task, curves in studies.items() if _unequal(curves)]
    if unequal:
        notes.append(f"The methods had different numbers of trials on {listed(unequal)}.")
    if left_out:
        notes.append(
            f"Without a curve: {listed(left_out)} (a search that learns, a study without any "
            "value, or a smaller study of the same pair)."
        )
    return " ".join(
        [
            "Expected best of k trials drawn with replacement; band: its 95 % bootstrap interval "
            "over trials.",
            *notes,
            _from(trials, len(every)),
        ]
    )


def _from(trials: int, studies: int) -> str:
    words = f"{trials} trial{'s' if trials != 1 else ''}"
    return f"From {words} of {studies} stud{'ies' if studies != 1 else 'y'}."


def _unequal(curves: Mapping[str, Tuned]) -> bool:
    return len({one.trials for one in curves.values()}) > 1


def _alt(studies: Mapping[str, Mapping[str, Tuned]]) -> str:
    """The best method with one trial, and with all."""
    parts = []
    for task, curves in studies.items():
        better = max if next(iter(curves.values())).mode == "max" else min
        heads = {name: float(one.curve["expected"].iloc[0]) for name, one in curves.items()}
        tails = {name: float(one.curve["expected"].iloc[-1]) for name, one in curves.items()}
        first, last = better(heads, key=heads.__getitem__), better(tails, key=tails.__getitem__)
        parts.append(
            f"{task}: best with one trial {first} ({number(heads[first])}), with all {last} "
            f"({number(tails[last])})"
        )
    return f"Expected best validation value against the number of trials. {'; '.join(parts)}."


SECTION = Section("budgets", "Tuning budgets", {PROBLEM}, 180, section)
