"""The points of the break-even plane: steps and seconds of a step against the baseline's."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from suite.compare.baseline import baseline_labels
from suite.results.frame import Records
from suite.results.time_to_target import SHARED, common_level, level_costs, step_seconds
from suite.stats import Ratio, median_with_failures, ratio_interval


@dataclass(frozen=True)
class Point:
    """A method on a problem, against the baseline.

    Attributes:
        problem: its label.
        steps: the ratio of the steps to the level, with its interval; `inf` where half of the
            method's runs did not reach it, 0 where half of the baseline's did not.
        cost: the ratio of the seconds of a step, with its interval.
        shared: whether any of the seconds come from runs that shared the machine.
    """

    problem: str
    steps: Ratio
    cost: Ratio
    shared: bool

    @property
    def is_finite(self) -> bool:
        """Whether both sides reached the level, so that the point has a place between the edges."""
        return 0 < self.steps.ratio < math.inf


@dataclass(frozen=True)
class Plane:
    """All that the picture shows.

    Attributes:
        against: the baselines.
        points: of each method.
        levels: the level of each problem on which the methods are compared.
        left_out: why a problem has no points.
        runs: how many runs are behind the points.
    """

    against: list[str]
    points: dict[str, list[Point]]
    levels: dict[str, str]
    left_out: dict[str, str]
    runs: int

    @property
    def every(self) -> list[Point]:
        """The points of all methods."""
        return [point for points in self.points.values() for point in points]


@dataclass(frozen=True)
class Placed:
    """One problem in the plane: its level and points, or why it has none."""

    points: dict[str, Point]
    level: str = ""
    runs: int = 0
    left_out: str = ""


def plane(records: Records) -> Plane:
    """The points of every method on every problem where the baseline ran on the same hardware."""
    reached = level_costs(records)
    against = baseline_labels(records)
    seconds = step_seconds(records)
    placed = {
        problem: _placed(
            problem,
            against.get(problem),
            reached[reached["problem"] == problem],
            seconds[seconds["problem"] == problem],
            records.optimizers,
        )
        for problem in records.problems
    }
    compared = {problem: one for problem, one in placed.items() if one.points}
    used = {against[problem] for problem in compared}
    return Plane(
        [name for name in records.optimizers if name in used],
        _by_optimizer(compared.values(), records.optimizers),
        {problem: one.level for problem, one in compared.items()},
        {problem: one.left_out for problem, one in placed.items() if one.left_out},
        sum(one.runs for one in compared.values()),
    )


def _by_optimizer(placed: Collection[Placed], names: Sequence[str]) -> dict[str, list[Point]]:
    """The points of each method that has any."""
    points = {name: [one.points[name] for one in placed if name in one.points] for name in names}
    return {name: own for name, own in points.items() if own}


def _placed(
    problem: str,
    baseline: str | None,
    reached: pd.DataFrame,
    seconds: pd.DataFrame,
    names: Sequence[str],
) -> Placed:
    """The points of one problem.

    Args:
        problem: its label.
        baseline: whom the methods are compared with; None where no candidate was run.
        reached: the problem's costs to its levels.
        seconds: the problem's seconds of a step.
        names: the methods, in their order.
    """
    if reached.empty or baseline is None:
        return Placed({}, left_out="no target" if reached.empty else "no baseline was run")
    level = common_level(reached, baseline)
    steps = reached[reached["level"] == level]
    own_steps, own_seconds = _by_method(steps), _by_method(seconds)
    none = steps.iloc[:0].set_index("seed"), seconds.iloc[:0].set_index("seed")
    cells = {name: (own_steps.get(name, none[0]), own_seconds.get(name, none[1])) for name in names}
    theirs = cells[baseline]
    points = {
        name: point
        for name, cell in cells.items()
        if name != baseline and (point := _point(problem, *cell, *theirs)) is not None
    }
    if points:
        runs = sum(len(cells[name][0]) for name in (*points, baseline))
        return Placed(points, str(level), runs)
    nobody = np.isinf(theirs[0]["steps"]).all()
    return Placed({}, left_out="nobody reached a level" if nobody else "nobody to compare")


def _by_method(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        str(name): rows.set_index("seed") for name, rows in table.groupby("optimizer", sort=False)
    }


def _point(
    problem: str,
    steps: pd.DataFrame,
    seconds: pd.DataFrame,
    their_steps: pd.DataFrame,
    their_seconds: pd.DataFrame,
) -> Point | None:
    """A method's place; None where nobody reached the level, or no hardware is common to both."""
    places = set(seconds["hardware"]) & set(their_seconds["hardware"])
    reached = np.isfinite([*steps["steps"], *their_steps["steps"]]).any()
    if not len(steps) or len(places) != 1 or not reached:
        return None
    own, other = (table[table["hardware"].isin(places)] for table in (seconds, their_seconds))
    shared = bool((own["source"] == SHARED).any() or (other["source"] == SHARED).any())
    ratio = _ratio(steps["steps"], their_steps["steps"])
    if math.isnan(ratio.ratio):
        return None
    return Point(problem, ratio, _ratio(own["seconds"], other["seconds"]), shared)


def _ratio(own: pd.Series, theirs: pd.Series) -> Ratio:
    """The ratio of typical costs, paired by seed where both have the same ones.

    Where runs failed it is that of the medians, failures as `inf`; a start at the level costs one
    step.
    """
    paired = len(own) == len(theirs) and set(own.index) == set(theirs.index) and own.index.is_unique
    ordered = (own.sort_index(), theirs.sort_index()) if paired else (own, theirs)
    a, b = (
        np.maximum(side.to_numpy(dtype=float), 1.0 if side.name == "steps" else 0.0)
        for side in ordered
    )
    interval = ratio_interval(a, b, paired=paired)
    if np.isfinite(a).all() and np.isfinite(b).all():
        return interval
    middles = [median_with_failures(side[np.isfinite(side)].tolist(), len(side)) for side in (a, b)]
    return interval._replace(
        ratio=middles[0] / middles[1] if math.isfinite(min(middles)) else math.nan
    )
