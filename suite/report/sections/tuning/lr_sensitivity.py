"""Final values against the learning rate, from trials of tuning and from sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import RC, WIDTH, Picture, folded, literal, plain_ticks, save
from suite.report.drawing.lines import handle, legend, legend_height, named_looks
from suite.report.drawing.panels import shape_of
from suite.report.drawing.style import Look
from suite.report.section import PROBLEM, Content, Context, Section
from suite.results.frame import Records
from suite.results.run import VALUED
from suite.stats import rate_sensitivity
from suite.tables.formats import NOT_RUN, listed, number
from suite.tables.table import Cell, Table, make_table

RATE = "lr"
FEWEST = 3  # rates of which a range can be spoken
WITHIN = 0.05
ACROSS, HEIGHT = 3, 2.5
DECADE = 10.0
STRIP = 0.11  # inches for the bar of a good region
HOW_TO_READ = (
    "A flat, low line (high, for a metric that is to be large) over a wide range of rates means "
    "that a method forgives a rate that is not tuned. Points joined by a line differ in the rate "
    "alone, with their medians over seeds; single points are trials of tuning in which other "
    "settings change too. Crosses at the edge are rates at which runs failed. The bars below show "
    "where the value stays within 5 % of the method's best without a break."
)


@dataclass(frozen=True)
class Rates:
    """One method on one problem.

    Attributes:
        by_rate: index rate, ascending, the median value; infinite on the bad side where half of the
            runs failed.
        alone: whether the rate is all that changes.
        mode: whether the metric is to be large, `max`, or small, `min`.
        metric: its name.
        space: the search range, where it is known.
        runs: how many runs or trials are behind it.
    """

    by_rate: pd.Series
    alone: bool
    mode: str
    metric: str
    space: tuple[float, float] | None
    runs: int


Problems = dict[str, dict[str, Rates]]


def section(context: Context) -> Content:
    """A panel for each problem with three rates of some method, and the table of good regions."""
    problems = rates(context.records, context.trials)
    if not problems:
        return Content()
    names = dict.fromkeys(name for methods in problems.values() for name in methods)
    looks = named_looks(names, context.styles, context.records)
    return Content([_table(problems)], [_picture(problems, looks, context.figures)], HOW_TO_READ)


def rates(records: Records, trials: pd.DataFrame) -> Problems:
    """The values by rate of every (problem, method).

    At least three rates were tried, and one of them succeeded. Trials of tuning stand apart from
    sweeps among the records, since their scale may be another.
    """
    problems: Problems = {}
    for problem, name, one in [*_from_runs(records), *_from_trials(records, trials)]:
        if len(one.by_rate) >= FEWEST and np.isfinite(one.by_rate).any():
            problems.setdefault(problem, {}).setdefault(name, one)
    return problems


def _from_runs(records: Records) -> Iterator[tuple[str, str, Rates]]:
    """Runs of one method on one problem that differ in the rate alone.

    The other settings are those of most of its rates.
    """
    rows = list(_rated(records))
    if not rows:
        return
    runs = records.frame.merge(pd.DataFrame(rows), on=["problem", "optimizer"])
    for (problem, name), group in runs.groupby(["problem", "name"], sort=False):
        if group["rate"].nunique() >= FEWEST:
            widest = group.groupby("rest")["rate"].nunique().idxmax()
            same = group[[rest == widest for rest in group["rest"]]]
            values = same["final"].where(same["status"].isin(VALUED))
            first = records.runs[
                int(records.pair(str(problem), str(same["optimizer"].iloc[0])).index[0])
            ]
            known = (
                str(same["direction"].iloc[0]),
                str(same["metric"].iloc[0]),
                _space(first.config["optimizer"]),
            )
            yield str(problem), str(name), _rates(same["rate"], values, True, *known)


def _rated(records: Records) -> Iterator[dict[str, Any]]:
    """A row for each pair with a learning rate: the rate, and the rest of its settings."""
    for (problem, label), settings in records.optimizer_settings.items():
        rate = _number(settings.get(RATE))
        if rate > 0:
            rest = tuple(sorted((key, value) for key, value in settings.items() if key != RATE))
            yield {"problem": problem, "optimizer": label, "rate": rate, "rest": rest}


def _from_trials(records: Records, trials: pd.DataFrame) -> Iterator[tuple[str, str, Rates]]:
    """Trials whose settings name the rate, on tasks of the records, at any scale."""
    wanted = trials[trials["task"].isin(set(records.frame["task"]))]
    wanted = wanted.assign(rate=[_number(settings.get(RATE)) for settings in wanted["settings"]])
    for (task, name), group in wanted[wanted["rate"] > 0].groupby(
        ["task", "optimizer"], sort=False
    ):
        values = group["value"].where(np.isfinite(group["score"]))
        alone = all(len(settings) == 1 for settings in group["settings"])
        space = _space({"search": group["space"].iloc[0]}) if "space" in group else None
        mode = "max" if float(group["sign"].iloc[0]) > 0 else "min"
        one = _rates(group["rate"], values, alone, mode, str(group["metric"].iloc[0]), space)
        yield f"{task} (tuning)", str(name), one


def _rates(
    rate: pd.Series,
    values: pd.Series,
    alone: bool,
    mode: str,
    metric: str,
    space: tuple[float, float] | None,
) -> Rates:
    bad = math.inf if mode == "min" else -math.inf
    filled = pd.Series(values.fillna(bad).to_numpy(dtype=float), index=rate.to_numpy(dtype=float))
    middle = filled.groupby(level=0).median()
    if space is not None and not (
        space[0] <= middle.index.min() and middle.index.max() <= space[1]
    ):
        space = None
    return Rates(middle, alone, mode, metric, space, len(filled))


def _space(optimizer: Mapping[str, Any]) -> tuple[float, float] | None:
    entry = (optimizer.get("search") or {}).get(RATE) or {}
    ends = _number(entry.get("low")), _number(entry.get("high"))
    return ends if 0 < ends[0] < ends[1] else None


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _table(problems: Problems) -> Table:
    rows = [
        _row(problem, name, one)
        for problem, methods in problems.items()
        for name, one in methods.items()
    ]
    caption = (
        "Final validation value by learning rate. Good share: the part of the search range (on a "
        f"log scale) in which the value is within {WITHIN:.0%} of the method's best; good region: "
        "where that holds round the best rate without a break, and how many powers of ten wide it "
        "is. Both are exact to the distance of two rates. Else fixed: whether the rate is all that "
        f"changes. {_from(problems)}"
    )
    return make_table("learning_rates", "Learning-rate sensitivity", caption, rows)


def _row(problem: str, name: str, one: Rates) -> dict[str, Cell | str]:
    seen = _sensitivity(one)
    good_share = Cell(f"{seen.share:.0%}", order=seen.share) if seen.share >= 0 else NOT_RUN
    return {
        "problem": problem,
        "optimizer": name,
        "rates": _count(len(one.by_rate)),
        "failed": _count(int((~np.isfinite(one.by_rate)).sum())),
        "best rate": Cell(number(seen.best_rate), order=seen.best_rate),
        "best value": Cell(number(seen.best), order=seen.best),
        "good share": good_share,
        "good region": f"{seen.low:.2g} to {seen.high:.2g}",
        "decades": Cell(f"{seen.decades:.2f}", order=seen.decades),
        "else fixed": "yes" if one.alone else "no",
    }


def _count(many: int) -> Cell:
    return Cell(str(many), order=many)


def _from(problems: Problems) -> str:
    many = sum(one.runs for methods in problems.values() for one in methods.values())
    return f"From {many} runs and trials."


def _sensitivity(one: Rates) -> Any:
    return rate_sensitivity(
        list(one.by_rate.index),
        list(one.by_rate),
        "max" if one.mode == "max" else "min",
        within=WITHIN,
        space=one.space,
    )


def _picture(problems: Problems, looks: Mapping[str, Look], folder: Path) -> Picture:
    """A panel of values over a strip of good regions for each problem."""
    across, down = shape_of(len(problems), WIDTH / ACROSS, ACROSS)
    width = max(WIDTH / ACROSS * across, 5.5)
    handles = [handle(look, name) for name, look in looks.items()]
    strip = STRIP * max(map(len, problems.values())) + 0.35
    with mpl.rc_context(RC):
        size = (width, down * (HEIGHT + strip) + legend_height(handles, width))
        canvas = Canvas(figsize=size, layout="constrained")
        grid = canvas.subplots(
            2 * down, across, squeeze=False, height_ratios=[HEIGHT, strip] * down
        )
        uppers, strips = grid[::2].ravel(), grid[1::2].ravel()
        for place, (problem, methods) in enumerate(problems.items()):
            _panel(uppers[place], problem, methods, looks)
            _regions(strips[place], uppers[place], methods, looks)
            strips[place].set_xlabel("learning rate" if place + across >= len(problems) else "")
        for axes in (*uppers[len(problems) :], *strips[len(problems) :]):
            axes.set_axis_off()
        legend(canvas, handles, width)
        png = save(canvas, folder, "rates")
    title = "Final value against the learning rate"
    return Picture("rates", title, _caption(problems), _alt(problems), png)


def _panel(
    axes: Axes, problem: str, methods: Mapping[str, Rates], looks: Mapping[str, Look]
) -> None:
    one = next(iter(methods.values()))
    axes.set(title=literal(folded(problem, 40)), xscale="log")
    axes.set_ylabel(literal(f"{one.metric} {'↑' if one.mode == 'max' else '↓'}"))
    finite = [value for one in methods.values() for value in one.by_rate if math.isfinite(value)]
    if min(finite) > 0 and max(finite) / min(finite) > DECADE:
        axes.set_yscale("log")
    for name, rates in methods.items():
        _plot(axes, rates, looks[name])
    plain_ticks(axes.yaxis)
    axes.tick_params(labelbottom=False)


def _plot(axes: Axes, one: Rates, look: Look) -> None:
    """The finite values, joined if nothing else changes, and crosses at failed rates."""
    good = one.by_rate[np.isfinite(one.by_rate)]
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 4.5}
    (line,) = axes.plot(
        good.index, good, lw=1.4 if one.alone else 0, alpha=1 if one.alone else 0.75, **style
    )
    if look.dashes and one.alone:
        line.set_dashes(look.dashes)
    failed = one.by_rate.index[~np.isfinite(one.by_rate)]
    if len(failed):
        edge = np.full(len(failed), 0.98 if one.mode == "min" else 0.02)
        at_edge = axes.get_xaxis_transform()
        axes.plot(failed, edge, "x", color=look.colour, markersize=5, transform=at_edge)


def _regions(
    axes: Axes, above: Axes, methods: Mapping[str, Rates], looks: Mapping[str, Look]
) -> None:
    """A bar a method, from one end of its good region to the other."""
    axes.sharex(above)
    axes.set_xscale("log")
    for place, (name, one) in enumerate(methods.items()):
        seen = _sensitivity(one)
        axes.plot(
            [seen.low, seen.high],
            [place] * 2,
            color=looks[name].colour,
            lw=2.6,
            solid_capstyle="butt",
        )
        axes.plot(
            [seen.best_rate],
            [place],
            color=looks[name].colour,
            marker=looks[name].marker,
            markersize=4.5,
        )
    axes.set(yticks=[], ylim=(len(methods) - 0.3, -0.7))
    axes.spines["left"].set_visible(False)


def _caption(problems: Problems) -> str:
    mixed = [
        name for methods in problems.values() for name, one in methods.items() if not one.alone
    ]
    parts = [
        "No band: a point is the median of the runs at one rate.",
        f"Other settings change too for {listed(list(dict.fromkeys(mixed)))}." if mixed else "",
        _from(problems),
    ]
    return " ".join(part for part in parts if part)


def _alt(problems: Problems) -> str:
    """The widest good region of each problem."""
    parts = []
    for problem, methods in problems.items():
        widths = {name: _sensitivity(one).decades for name, one in methods.items()}
        widest = max(widths, key=widths.__getitem__)
        best = number(_sensitivity(methods[widest]).best_rate)
        parts.append(
            f"{problem}: the widest good region has {widest}, {widths[widest]:.1f} decades round "
            f"{best}"
        )
    return f"Final validation value against the learning rate. {'; '.join(parts)}."


SECTION = Section("rates", "Learning rates", {PROBLEM}, 190, section)
