"""Ranks of all methods on each problem and overall, with their stability under resampling.

On a problem a method is worth its median over seeds: of the cost to reach the level, failures
infinite, or where no level is set of the final value. Seeds are redrawn together for all methods of
a problem, and for the overall ranks the problems too. With few seeds or problems a bootstrap is too
sure of itself, so that `stable` here says what would change with other seeds of these, and the
sentences on pairs come from `suite.verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from suite import stats
from suite.compare.final_values import finals
from suite.compare.intervals import LEVEL
from suite.compare.sides import UNFINISHED, UNFIT, CostTable, Side, sides
from suite.compare.verdict import FINAL, SECONDS, WORK, Verdict, judge
from suite.results import time_to_target
from suite.results.aggregate import is_illustration
from suite.results.frame import Records
from suite.stats.profile_bands import profile_areas, ratios_to_best

DRAWS = 2000
TAU_MAX = 4.0

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """The methods on one problem, best first.

    Attributes:
        by: the unit that they are ranked by, or `final`.
        scores: a row a seed, a column a method; smaller is better, `inf` is a failure, NaN a seed
            that was not run.
        medians: of the scores.
        ranks: 1 is the best; ties share the mean of their ranks.
        stability: the share of the resamples in which a method keeps its place.
        drawn: the medians in every resample, (draws, methods).
        behind: the verdict on each other method against the first.
    """

    problem: str
    by: str
    scores: pd.DataFrame
    medians: pd.Series
    ranks: pd.Series
    stability: pd.Series
    drawn: Array
    behind: tuple[Verdict, ...]


@dataclass(frozen=True)
class Overall:
    """The methods over problems, best first.

    `left_out` says which methods and problems take no part, and why.

    `table` has a row a method: rank, low, high (of the mean rank), stability, score, score_low,
    score_high, first (problems on which it is at the top, alone or not), next (P that it beats the
    next). `groups` are methods next to each other whose mean ranks keep their order in too few
    resamples to be told apart.
    """

    problems: tuple[str, ...]
    table: pd.DataFrame
    groups: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]


def rank_methods(
    cost_table: CostTable, unit: str | None = None, *, mixed: bool = False
) -> list[Ranking]:
    """The ranking on every problem that two methods ran."""
    records = cost_table.records
    by_problem = {problem: _fit(sides(records, problem)) for problem in records.problems}
    unit = unit or best_unit(cost_table, by_problem, mixed=mixed)
    return [
        _ranking(cost_table, own, unit, mixed=mixed) for own in by_problem.values() if len(own) > 1
    ]


def best_unit(
    cost_table: CostTable, by_problem: Mapping[str, Sequence[Side]], *, mixed: bool = False
) -> str:
    """Seconds where all that count were measured alone, on one machine for each problem.

    Else gradient-equivalents.
    """
    for problem, own in by_problem.items():
        if math.isnan(level := cost_table.main_value(problem)):
            continue
        costs = pd.DataFrame([one for side in own for one in cost_table.costs(side, level)])
        shared = time_to_target.roughly_timed(costs).any()
        machines = {run.hardware for side in own for run in side.runs}
        if shared or (len(machines) > 1 and not mixed):
            return WORK
    return SECONDS


def _fit(present: Mapping[str, Side]) -> list[Side]:
    """The methods that fit the problem, with the runs that have ended."""
    ended = [
        replace(side, runs=tuple(run for run in side.runs if run.status not in (UNFIT, UNFINISHED)))
        for side in present.values()
    ]
    return [side for side in ended if side.runs]


def _ranking(cost_table: CostTable, own: Sequence[Side], unit: str, *, mixed: bool) -> Ranking:
    """The ranking on one problem."""
    problem = own[0].problem
    table, by = scores(cost_table, own, unit)
    medians = table.median()
    order = list(medians.sort_values(kind="stable").index)
    table, ranks = table[order], medians[order].rank(method="average")
    drawn = _redrawn_medians(table.to_numpy(dtype=float))
    places = medians[order].rank(method="min").to_numpy()
    stability = pd.Series((rankdata(drawn, method="min", axis=1) == places).mean(axis=0), order)
    named = {side.label: side for side in own}
    behind = tuple(
        judge(cost_table, named[name], named[order[0]], mixed=mixed) for name in order[1:]
    )
    return Ranking(problem, by, table, medians[order], ranks, stability, drawn, behind)


def scores(cost_table: CostTable, own: Sequence[Side], unit: str) -> tuple[pd.DataFrame, str]:
    """What methods are ranked by on a problem, a row a seed, and which quantity it is."""
    level = cost_table.main_value(own[0].problem)
    by = FINAL if math.isnan(level) else unit
    table = {}
    for side in own:
        if by == FINAL:
            values = finals(side) * (-1.0 if side.direction == "max" else 1.0)
            values = np.where(np.isnan(values), math.inf, values)
        else:
            values = np.array([float(one[unit]) for one in cost_table.costs(side, level)])
        table[side.label] = pd.Series(values, index=[run.seed for run in side.runs])
    return pd.DataFrame(table), by


def overall(records: Records, ranked: Sequence[Ranking]) -> Overall | None:
    """Ranks over the problems that count, by the mean rank.

    None where fewer than two methods share a problem.
    """
    counted = [one for one in ranked if not is_illustration(records, one.problem)]
    apart = [f"{one.problem}: a test function" for one in ranked if one not in counted]
    counted, methods, dropped = _complete(counted)
    if not counted or len(methods) < 2:
        return None
    points = np.array([_ranks(one.medians[methods].to_numpy()[None]) for one in counted])[:, 0]
    order = np.argsort(points.mean(axis=0), kind="stable")
    methods, points = [methods[index] for index in order], points[:, order]
    drawn = _resampled(counted, methods)
    means = drawn.mean(axis=1)
    places = (
        rankdata(means, method="min", axis=1) == rankdata(points.mean(axis=0), method="min")
    ).mean(axis=0)
    low, high = stats.intervals_of(means, LEVEL)
    table = pd.DataFrame(
        {"rank": points.mean(axis=0), "low": low, "high": high, "stability": places}, index=methods
    )
    table["first"] = (points == points.min(axis=1, keepdims=True)).sum(axis=0)
    table = table.join(_profile_scores(counted, methods))
    beats = [_chance(counted, a, b) for a, b in pairwise(methods)]
    table["next"] = [*beats, math.nan]
    return Overall(
        tuple(one.problem for one in counted), table, _groups(means, methods), (*apart, *dropped)
    )


def _groups(means: Array, methods: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The longest rows of methods whose first is not ahead of the last in 97.5 % of resamples."""
    groups: list[tuple[int, int]] = []
    for first in range(len(methods)):
        ahead = (means[:, first:] > means[:, first : first + 1]).mean(axis=0) >= (1 + LEVEL) / 2
        last = first + int(np.flatnonzero(~ahead).max(initial=0))
        if last > first and all(last > other for _, other in groups):
            groups.append((first, last))
    return tuple(tuple(methods[first : last + 1]) for first, last in groups)


def _complete(ranked: list[Ranking]) -> tuple[list[Ranking], list[str], list[str]]:
    """Problems and methods with no gap between them.

    Again and again, whatever lacks most is left out.
    """
    names = list(dict.fromkeys(str(name) for one in ranked for name in one.scores))
    ran = pd.DataFrame(
        [[name in one.scores for name in names] for one in ranked],
        [one.problem for one in ranked],
        names,
    )
    dropped: list[str] = []
    while ran.size and not ran.to_numpy().all():
        by_method, by_problem = ran.mean(axis=0), ran.mean(axis=1)
        if by_method.min() <= by_problem.min():
            worst = str(by_method.idxmin())
            dropped.append(f"{worst}: has runs on {int(ran[worst].sum())} of {len(ran)} problems")
            ran = ran.drop(columns=worst)
        else:
            worst = str(by_problem.idxmin())
            dropped.append(
                f"{worst}: {int(ran.loc[worst].to_numpy().sum())} of {ran.shape[1]} methods ran it"
            )
            ran = ran.drop(index=worst)
    return [one for one in ranked if one.problem in ran.index], list(map(str, ran.columns)), dropped


def _columns(ranking: Ranking, methods: Sequence[str]) -> Array:
    """The resampled medians of the methods, in their order."""
    places = ranking.scores.columns.get_indexer(pd.Index(methods))
    return np.asarray(ranking.drawn[:, places])


def _resampled(ranked: Sequence[Ranking], methods: Sequence[str]) -> Array:
    """Ranks of the methods with seeds and problems redrawn, (draws, problems, methods)."""
    ranks = np.array([_ranks(_columns(one, methods)) for one in ranked])
    return _of_redrawn_problems(ranks)


def _profile_scores(ranked: Sequence[Ranking], methods: Sequence[str]) -> pd.DataFrame:
    """The score of each method's performance profile on problems with a level, and its interval."""
    timed = [one for one in ranked if one.by != FINAL]
    if not timed:
        return pd.DataFrame(
            math.nan, index=list(methods), columns=["score", "score_low", "score_high"]
        )
    times = pd.DataFrame([one.medians[list(methods)] for one in timed])
    drawn = np.array([_columns(one, methods) for one in timed])
    areas = _of_redrawn_problems(profile_areas(ratios_to_best(drawn), TAU_MAX)).mean(axis=1)
    low, high = stats.intervals_of(areas, LEVEL)
    score = stats.profile_score(times.reset_index(drop=True), TAU_MAX)
    return pd.DataFrame({"score": score, "score_low": low, "score_high": high}, index=list(methods))


def _of_redrawn_problems(values: Array) -> Array:
    """Values of redrawn problems, (draws, problems, methods), from (problems, draws, methods)."""
    (problems,) = stats.redrawn([np.arange(len(values))], DRAWS, seed=1)
    return np.asarray(values[problems, np.arange(DRAWS)[:, None]])


def _chance(ranked: Sequence[Ranking], a: str, b: str) -> float:
    """P(A beats B), the mean over problems."""
    pairs = [(one.scores[a].dropna(), one.scores[b].dropna()) for one in ranked]
    return float(
        np.mean([stats.probability_of_improvement(list(x), list(y), "min") for x, y in pairs])
    )


def _redrawn_medians(table: Array) -> Array:
    """Medians over redrawn seeds, (draws, methods).

    Seeds are redrawn together for all methods; where a method lacks one, for each method alone. A
    method without any value has NaN.
    """
    if not np.isnan(table).any():
        (drawn,) = stats.redrawn([table], DRAWS)
        return np.asarray(np.median(drawn, axis=1))
    columns = stats.redrawn((column[~np.isnan(column)] for column in table.T), DRAWS)
    medians = [
        np.median(drawn, axis=1) if drawn.size else np.full(DRAWS, math.nan) for drawn in columns
    ]
    return np.array(medians).T


def _ranks(values: Array) -> Array:
    return np.asarray(rankdata(values, method="average", axis=1))
