"""Performance profiles over problems: how often a method is within a factor of the fastest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from suite.report.drawing.canvas import Picture
from suite.report.drawing.lines import MOST_BANDS, empty_note
from suite.report.drawing.step_functions import share_lines, unit_panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.aggregate import LABELS, aggregated
from suite.results.time_to_target import level_costs
from suite.stats import at, profile_band, score_interval
from suite.tables.formats import listed
from suite.tables.table import Cell, Table, make_table, runs_note

TAU_MAX = 4.0
FARTHEST = 32.0  # times the fastest, which a panel shows at most
DRAWS = 1000
HOW_TO_READ = (
    "A line at height 0.6 above 2 says: on 60 % of the problems the method reached the target "
    "within twice the cost of whoever was fastest there. At 1 stands how often it was the fastest "
    "itself, at the right edge how often it reached the target at all; higher is better "
    "everywhere. Profiles depend on who takes part: a method that joins may change the order of "
    "others."
)


@dataclass(frozen=True)
class Profile:
    """The profiles of all methods in one unit.

    Attributes:
        shares: index tau, a column a method: the share of problems reached within tau times the
            least cost.
        low, high: the bootstrap band over seeds at the same places, NaN for a method none of whose
            cells has two runs; None where no cell has.
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
        unit: one for unit, runs in chosen.by_unit.items() if (one := profile(runs, chosen.methods))
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
    timed = runs.rename(columns={"optimizer": "solver", "cost": "time"})
    places = {
        "problem": {name: place for place, name in enumerate(problems)},
        "solver": {name: place for place, name in enumerate(methods)},
    }
    # draws follow the order of the rows: the same runs give the same band, however they were read
    timed = timed.sort_values(
        ["problem", "solver", "time"],
        key=lambda names: names.map(places[names.name]) if names.name in places else names,
    )
    band = profile_band(timed, not_run="fail", draws=DRAWS)
    scores = score_interval(timed, TAU_MAX, not_run="fail", draws=DRAWS).loc[list(methods)]
    shares, low, high = (
        pd.DataFrame({name: band[name, part] for name in methods})
        for part in ("share", "low", "high")
    )
    if timed.groupby(["problem", "solver"]).size().max() < 2:
        return Profile(shares, None, None, scores[["score"]], problems)
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
    known = interval and not math.isnan(interval[0])
    beside = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if known else ""
    return Cell(f"{score:.2f}{beside}", order=score)


def _panel(axes: Axes, one: Profile | None, styles: Mapping[str, Look]) -> None:
    axes.set_xscale("log")
    if one is None:
        axes.set_xlim(1, TAU_MAX)
        empty_note(axes, "fewer than two problems\nhave such costs")
        return
    taus = one.shares.index.to_numpy(dtype=float)
    right = min(max(TAU_MAX, float(taus.max()) * 1.15), FARTHEST)
    axes.set_xlim(1, right)
    grid = np.append(taus[taus < right], right)
    bands = {}
    if one.low is not None and one.high is not None:
        low, high = (at(part, grid) for part in (one.low, one.high))
        bands = {
            name: (grid, low[name].to_numpy(), high[name].to_numpy())
            for name in one.shares.columns
            if one.low[name].notna().all()
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
    parts = []
    for unit, one in profiles.items():
        leading = one.scores["score"].sort_values(ascending=False, kind="stable").head(3)
        words = [f"{name} ({score:.2f})" for name, score in leading.items()]
        last = float(one.shares.iloc[-1].max())
        parts.append(
            f"best scores in {LABELS[unit]}: {listed(words)}; the highest line ends at {last:.0%}"
        )
    many = len(next(iter(profiles.values())).shares.columns)
    return f"Performance profiles of {many} methods. {'. '.join(parts)}.".replace(
        ". best", ". Best"
    )


SECTION = Section("profiles", "Performance profiles", {OVERALL}, 60, section)
