"""Performance profiles over problems.

How often a method is within a factor of the fastest, and the score of that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from suite.report.drawing.canvas import Picture
from suite.report.drawing.lines import MOST_BANDS, said
from suite.report.drawing.step_functions import share_lines, unit_panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.aggregate import LABELS, aggregated
from suite.results.time_to_target import level_costs
from suite.stats import at, performance_profile, profile_score
from suite.tables.formats import listed
from suite.tables.table import Cell, Table, make_table, runs_note

TAU_MAX = 4.0
FARTHEST = 32.0  # times the fastest, which a panel shows at most
DRAWS = 1000
LEVEL = 0.95
HOW_TO_READ = (
    "A line at height 0.6 above 2 says: on 60 % of the problems the method reached the target "
    "within twice the cost of whoever was fastest there. At 1 stands how often it was the fastest "
    "itself, at the right edge how often it arrived at all; higher is better everywhere. Profiles "
    "depend on who takes part: a method that joins may change the order of others."
)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """The profiles of all methods in one unit.

    Attributes:
        shares: index tau, a column a method: the share of problems reached within tau times the
            least cost.
        low, high: the bootstrap band over seeds at the same places; None where no cell has two
            runs.
        scores: the area under each profile up to `TAU_MAX`, with its interval where there is a
            band.
        problems: those that count.
    """

    shares: pd.DataFrame
    low: pd.DataFrame | None
    high: pd.DataFrame | None
    scores: pd.DataFrame
    problems: list[str]


def section(context: Context) -> Content:
    """The profiles in steps, seconds and gradient-equivalents, and the table of their scores."""
    records, styles = context.records, context.styles
    chosen = aggregated(records, level_costs(records))
    profiles = {
        unit: found
        for unit, runs in chosen.by_unit.items()
        if (found := profile(runs, chosen.methods))
    }
    if not profiles:
        return Content(note=chosen.why_not("Performance profiles"))
    png = unit_panels(
        context.figures,
        "profiles",
        chosen.ran,
        chosen.methods,
        styles,
        lambda axes, unit: _panel(axes, profiles.get(unit), styles),
        x="times the least cost of the problem",
        y="share of problems",
    )
    caption = _caption(profiles, chosen.note, len(chosen.indices))
    drawn = Picture("profiles", "Performance profiles", caption, _alt(profiles), png)
    return Content([score_table(profiles, chosen.ran)], [drawn], HOW_TO_READ)


def profile(runs: pd.DataFrame, methods: Sequence[str]) -> Profile | None:
    """The profiles of the medians over seeds; None for fewer than two problems or methods.

    A method that did not run on a problem has not reached its target.

    Args:
        runs: a row per run: `problem`, `optimizer` and `cost`, `inf` where the target was not
            reached.
        methods: the columns, in their order.
    """
    problems = list(dict.fromkeys(runs["problem"]))
    if len(problems) < 2 or runs["optimizer"].nunique() < 2:
        return None
    grouped = runs.groupby(["problem", "optimizer"], sort=False)["cost"]
    cells = {(str(key[0]), str(key[1])): group.to_numpy(dtype=float) for key, group in grouped}
    medians = pd.DataFrame(
        [
            [_median(cells.get((problem, name), np.array([math.inf]))) for name in methods]
            for problem in problems
        ],
        index=problems,
        columns=list(methods),
    )
    shares = performance_profile(medians, not_run="fail")
    scores = profile_score(medians, TAU_MAX, not_run="fail").to_frame()
    if max(map(len, cells.values())) < 2:
        return Profile(shares, None, None, scores, problems)
    drawn = _drawn_ratios(cells, problems, methods)
    low, high = _band(drawn, shares)
    areas = (TAU_MAX - np.minimum(drawn, TAU_MAX)).mean(axis=1) / (TAU_MAX - 1)
    scores["low"], scores["high"] = np.quantile(areas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Profile(shares, low, high, scores, problems)


def score_table(profiles: Mapping[str, Profile], ran: Mapping[str, int]) -> Table:
    """The scores of all units, the best method in the first of them on top."""
    first = next(iter(profiles.values()))
    names = [
        str(name)
        for name in first.scores["score"].sort_values(ascending=False, kind="stable").index
    ]
    rows: list[dict[str, Cell | str]] = [
        {
            "optimizer": name,
            "problems run": Cell(str(ran.get(name, 0)), order=ran.get(name, 0)),
            **{LABELS[unit]: _score(one.scores, name) for unit, one in profiles.items()},
        }
        for name in names
    ]
    counts = "; ".join(
        f"{LABELS[unit]}: {len(one.problems)} problems" for unit, one in profiles.items()
    )
    caption = (
        f"The area under the performance profile from 1 to {TAU_MAX:g} times the least cost, over "
        f"{TAU_MAX - 1:g}: 1 is always the fastest, 0 never within {TAU_MAX:g} times. In brackets "
        f"the 95 % bootstrap interval over seeds. {counts}."
    )
    return make_table("profile_scores", "Scores of the performance profiles", caption, rows)


def _score(scores: pd.DataFrame, name: str) -> Cell:
    score, *interval = (float(scores[column].loc[name]) for column in scores)
    beside = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return Cell(f"{score:.2f}{beside}", order=score)


def _median(values: Array) -> float:
    ordered = np.sort(values)
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


def _drawn_ratios(
    cells: Mapping[tuple[str, str], Array],
    problems: Sequence[str],
    methods: Sequence[str],
    seed: int = 0,
) -> Array:
    """Ratios to the least cost, (draws, problems, methods), with the seeds of each cell redrawn."""
    generator = np.random.default_rng(seed)
    medians = np.full((DRAWS, len(problems), len(methods)), math.inf)
    for row, problem in enumerate(problems):
        for column, name in enumerate(methods):
            values = np.sort(cells.get((problem, name), np.array([math.inf])))
            places = np.sort(generator.integers(len(values), size=(DRAWS, len(values))), axis=1)
            middle = places[:, [(len(values) - 1) // 2, len(values) // 2]]
            medians[:, row, column] = values[middle].mean(axis=1)
    best = medians.min(axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isinf(medians), math.inf, np.where(medians == best, 1.0, medians / best))


def _band(drawn: Array, shares: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The middle 95 % of the drawn profiles at every place that is shown."""
    taus = shares.index.to_numpy(dtype=float)
    heights = np.array([(drawn <= tau * (1 + 1e-12)).mean(axis=1) for tau in taus])
    low, high = np.quantile(heights, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return tuple(
        pd.DataFrame(part, index=shares.index, columns=shares.columns) for part in (low, high)
    )  # type: ignore[return-value]


def _panel(axes: Axes, one: Profile | None, styles: Mapping[str, Look]) -> None:
    axes.set_xscale("log")
    if one is None:
        axes.set_xlim(1, TAU_MAX)
        said(axes, "fewer than two problems\nhave such costs")
        return
    taus = one.shares.index.to_numpy(dtype=float)
    right = min(max(TAU_MAX, float(taus.max()) * 1.15), FARTHEST)
    axes.set_xlim(1, right)
    grid = np.append(taus[taus < right], right)
    bands = {}
    if one.low is not None and one.high is not None:
        low, high = (at(part, grid) for part in (one.low, one.high))
        bands = {
            name: (grid, low[name].to_numpy(), high[name].to_numpy()) for name in one.shares.columns
        }
    share_lines(axes, one.shares, grid, bands, TAU_MAX, styles)


def _caption(profiles: Mapping[str, Profile], note: str, runs: int) -> str:
    banded = any(one.low is not None for one in profiles.values())
    many = len(next(iter(profiles.values())).shares.columns) > MOST_BANDS
    problems = [f"{len(one.problems)} problems in {LABELS[unit]}" for unit, one in profiles.items()]
    parts = [
        "Costs are medians over seeds, a run that never reached the target infinite. ",
        "Band: where 95 % of profiles lie when the seeds of every method on every problem are "
        "drawn anew. "
        if banded and not many
        else f"No bands, which {MOST_BANDS} methods at most can be shown with: the table has "
        f"intervals. "
        if banded
        else "One seed each: no band. ",
        f"The dotted line is where the score ends, {TAU_MAX:g} times the least cost. "
        f"{listed(problems).capitalize()}. ",
        f"{note} " if note else "",
        runs_note(runs),
    ]
    return "".join(parts)


def _alt(profiles: Mapping[str, Profile]) -> str:
    said_of = []
    for unit, one in profiles.items():
        leading = one.scores["score"].sort_values(ascending=False, kind="stable").head(3)
        words = [f"{name} ({score:.2f})" for name, score in leading.items()]
        last = float(one.shares.iloc[-1].max())
        said_of.append(
            f"best scores in {LABELS[unit]}: {listed(words)}; the highest line ends at {last:.0%}"
        )
    many = len(next(iter(profiles.values())).shares.columns)
    return f"Performance profiles of {many} methods. {'. '.join(said_of)}.".replace(
        ". best", ". Best"
    )


SECTION = Section("profiles", "Performance profiles", {OVERALL}, 60, section)
