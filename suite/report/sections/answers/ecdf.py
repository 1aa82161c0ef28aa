"""The ECDF of costs over problems, levels and seeds, as COCO draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from suite.compare.baseline import baseline_labels
from suite.report.drawing.canvas import Picture
from suite.report.drawing.lines import MOST_BANDS, empty_note
from suite.report.drawing.step_functions import share_lines, unit_panels
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, Content, Context, Section
from suite.results.aggregate import LABELS, Aggregated, aggregated
from suite.results.frame import Records
from suite.results.time_to_target import SHARED, level_costs, total_costs
from suite.stats import at, ecdf, intervals_of, redrawn
from suite.tables.formats import listed
from suite.tables.table import runs_note

DRAWS = 1000
PLACES = 160  # at which a band is computed
HOW_TO_READ = (
    "Every problem has levels of its metric, shares of what the baseline improves, and every seed "
    "has to reach each of them. A line at height 0.7 above 0.5 says: 70 % of all these (problem, "
    "level, seed) were reached with half of what the baseline spends on a whole run. Further left "
    "and higher is better; where a line ends stands what was reached at all, since a run that "
    "stops is not taken up again."
)

Array = npt.NDArray[np.float64]
KEYS = ["problem", "level", "seed"]


@dataclass(frozen=True)
class Reach:
    """The curves of all methods in one unit.

    A right-continuous share, and its band at `grid` where there is one.
    """

    shares: pd.DataFrame
    grid: Array
    bands: dict[str, tuple[Array, Array]]
    problems: list[str]


def section(context: Context) -> Content:
    """The ECDF in steps, seconds and gradient-equivalents."""
    records, styles = context.records, context.styles
    reached = level_costs(records)
    chosen = aggregated(records, reached)
    relative, left_out = relative_costs(records, reached, chosen)
    curves = {
        unit: one
        for unit, rows in relative.items()
        if (one := reach(rows, chosen.methods)) is not None
    }
    if not curves:
        return Content()
    levels = relative["steps"].groupby("problem")["level"].nunique()
    count = len(relative["steps"].drop_duplicates(["problem", "optimizer", "seed"]))
    caption = _caption(curves, levels, f"{chosen.note} {left_out}".strip(), count)
    png = unit_panels(
        context.figures,
        "ecdf",
        chosen.ran,
        chosen.methods,
        styles,
        lambda axes, unit: _panel(axes, curves.get(unit), styles),
        x="of the baseline's whole run",
        y="share of problems x levels x seeds",
    )
    drawn = Picture("ecdf", "Levels reached over all problems", caption, _alt(curves), png)
    return Content([], [drawn], HOW_TO_READ)


def relative_costs(
    records: Records, reached: pd.DataFrame, chosen: Aggregated
) -> tuple[dict[str, pd.DataFrame], str]:
    """For each unit a row per run and level: its cost over what the baseline spends on a whole run.

    Two levels with the same value, such as the target and 100 %, count once.
    """
    against = baseline_labels(records)
    whole = total_costs(records).groupby(["problem", "optimizer"])[list(LABELS)].median()
    tables: dict[str, pd.DataFrame] = {}
    unclocked: list[str] = []
    for unit, rows in chosen.by_unit.items():
        compared = [problem for problem in dict.fromkeys(rows["problem"]) if problem in against]
        own = reached[reached["problem"].isin(compared)].drop_duplicates(
            ["problem", "optimizer", "seed", "value"]
        )
        # every level of every run counts here, and so does the baseline's whole run
        if unit == "seconds":
            unclocked = list(dict.fromkeys(own.loc[own["source"] == SHARED, "problem"]))
            own = own[~own["problem"].isin(unclocked)]
        lengths = {one: float(whole.loc[(one, against[one]), unit]) for one in compared}
        scale = own["problem"].map(lengths).astype(float)
        tables[unit] = own[[*KEYS, "optimizer"]].assign(cost=own[unit] / scale)[scale > 0]
    problems = dict.fromkeys(chosen.by_unit["steps"]["problem"])
    return tables, _left_out([name for name in problems if name not in against], unclocked)


def _left_out(bare: list[str], unclocked: list[str]) -> str:
    """Which problems do not count, and why."""
    notes = [f"Left out: {listed(bare)} (no baseline was run)."] if bare else []
    if unclocked:
        notes.append(
            f"Left out of the seconds, too: {listed(unclocked)} (not every run has a clock)."
        )
    return " ".join(notes)


def reach(rows: pd.DataFrame, methods: list[str]) -> Reach | None:
    """The curves of one unit.

    A method that did not run on a problem has reached none of its levels.
    """
    if rows.empty:
        return None
    table = rows.pivot_table(index=KEYS, columns="optimizer", values="cost", sort=False).reindex(
        columns=methods
    )
    ran = table.notna().groupby(level="problem").transform("any")
    costs = table.mask(table.isna() & ~ran, math.inf)
    finite = rows.loc[np.isfinite(rows["cost"]) & (rows["cost"] > 0), "cost"]
    grid = np.geomspace(finite.min(), finite.max(), PLACES) if len(finite) else np.ones(1)
    bands = {
        name: one for name in methods if (one := _band(costs[name].dropna(), grid)) is not None
    }
    return Reach(ecdf(costs), grid, bands, list(dict.fromkeys(rows["problem"])))


def _band(costs: pd.Series, grid: Array) -> tuple[Array, Array] | None:
    """The middle 95 % of curves with the seeds of every problem redrawn.

    None where no problem has two.
    """
    problems, seeds = (costs.index.get_level_values(name) for name in ("problem", "seed"))
    runs = pd.DataFrame({"problem": problems, "seed": seeds})
    codes = runs.groupby(["problem", "seed"], sort=False).ngroup().to_numpy()
    # a row a run: how many levels it has reached by then
    counts = np.zeros((codes.max(initial=-1) + 1, len(grid)))
    np.add.at(counts, codes, costs.to_numpy(dtype=float)[:, None] <= grid * (1 + 1e-12))
    codes_of = (
        runs.assign(code=codes).drop_duplicates("code").groupby("problem", sort=False)["code"]
    )
    cells = [counts[members.to_numpy()] for _, members in codes_of]
    if not any(len(cell) > 1 and cell.any() for cell in cells):
        return None
    drawn = sum(cell.sum(axis=1) for cell in redrawn(cells, DRAWS)) / len(costs)
    return intervals_of(drawn)


def _panel(axes: Axes, one: Reach | None, styles: Mapping[str, Look]) -> None:
    places = np.empty(0) if one is None else one.shares.index.to_numpy(dtype=float)
    places = places[places > 0]
    if one is None or not len(places):
        empty_note(axes, "no run reached any level" if one is not None else "no such costs compare")
        return
    axes.set_xscale("log")
    left, right = places.min() / 1.3, max(places.max() * 1.2, 1.2)
    axes.set_xlim(left, right)
    grid = np.concatenate([[left], places, [right]])
    bands = {
        name: (np.append(one.grid, right), np.append(low, low[-1]), np.append(high, high[-1]))
        for name, (low, high) in one.bands.items()
    }
    share_lines(axes, one.shares, grid, bands, 1, styles)


def _caption(curves: Mapping[str, Reach], levels: pd.Series, note: str, runs: int) -> str:
    many_methods = len(next(iter(curves.values())).shares.columns) > MOST_BANDS
    banded = any(one.bands for one in curves.values())
    few, many = int(levels.min()), int(levels.max())
    counts = f"{few}" if few == many else f"{few} to {many}"
    parts = [
        f"{len(levels)} problem{'s' if len(levels) != 1 else ''} with {counts} "
        f"level{'s' if many != 1 else ''} each.",
        "Band: where 95 % of curves lie when the seeds of every problem are drawn anew."
        if banded and not many_methods
        else f"No bands, which {MOST_BANDS} methods at most can be shown with."
        if banded
        else "One seed each, or nothing reached: no band.",
        "The dotted line is the length of the baseline's whole run.",
        note,
        runs_note(runs),
    ]
    return " ".join(part for part in parts if part)


def _alt(curves: Mapping[str, Reach]) -> str:
    parts = []
    for unit, one in curves.items():
        budget = at(one.shares, [1.0]).iloc[0].sort_values(ascending=False, kind="stable").head(3)
        words = listed([f"{name} {share:.0%}" for name, share in budget.items()])
        parts.append(f"{LABELS[unit]}: {words}")
    return (
        "Share of levels reached against cost. Most at the baseline's whole cost, in "
        f"{'; in '.join(parts)}."
    )


SECTION = Section("ecdf", "Levels reached", {OVERALL}, 70, section)
