"""Distributions over problems: performance profiles, their score, data profiles, ECDFs.

In all of them `inf` (not reached) stays in the denominator and never counts as solved; NaN (not
run) is left out of that solver's denominator only, unless `not_run` says otherwise; a problem that
nobody solved counts against everyone who ran it; one that nobody ran is dropped. Cost: a sort of
problems x solvers numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from suite.stats.algoperf import with_held_out
from suite.stats.checks import Array, times_frame

NOT_RUN = ("leave_out", "fail", "complete")
SCALES = ("linear", "log")


def performance_ratios(times: pd.DataFrame, *, not_run: str = "leave_out") -> pd.DataFrame:
    """r_ps = t_ps / min_s t_ps: how many times longer than the fastest.

    `inf` means not solved, NaN not run.

    A time of zero (the start was at the target) has the ratio 1, every other time beside it `inf`.
    """
    frame = _with_rule(times_frame(times), not_run)
    best = frame.min(axis=1)
    ratios = frame.div(best, axis=0).mask(frame.eq(best, axis=0), 1.0)
    return ratios.mask(np.isinf(frame), math.inf)


def performance_profile(times: pd.DataFrame, *, not_run: str = "leave_out") -> pd.DataFrame:
    """rho_s(tau) = share of problems with t_ps <= tau min_s t_ps.

    Solved within tau times the best time.

    A right-continuous step function, given at its steps: read the value at any tau with `at`.
    rho_s(1) is the share of problems on which s is the fastest (ties count for all that tie), the
    last row the share that it solves at all. The profile depends on who takes part: adding a solver
    can turn the order of two others (Gould and Scott 2016); hence `pairwise_profiles` and
    `leave_one_out_profiles`.

    Args:
        times: a row a problem, a column a solver; `inf` = not reached, NaN = not run.
        not_run: `leave_out`: a NaN leaves that problem out of that solver's denominator (shares of
            different solvers are then over different problems); `fail`: it counts as not solved, as
            AlgoPerf has it; `complete`: only problems that all ran.

    Returns:
        Index `tau`, ascending from 1: every ratio at which some share changes. A column a solver,
        NaN for one that ran nothing.

    Source: Dolan and More (2002), eq. 2.1; their unsolved ratio r_M is infinity here.
    """
    return _steps(performance_ratios(times, not_run=not_run), 1.0, "tau")


def profile_score(
    times: pd.DataFrame,
    tau_max: float = 4.0,
    *,
    scale: str = "linear",
    points: int | None = None,
    not_run: str = "leave_out",
    held_out: pd.DataFrame | None = None,
    base_of: Mapping[Any, Any] | None = None,
) -> pd.Series:
    """Area under the performance profile up to tau_max, over tau_max - 1.

    1 = always the fastest, 0 = never near.

    B_s = 1 / (tau_max - 1) int_1^tau_max rho_s(tau) dtau, exact: each problem gives (tau_max - r)+
    / (tau_max - 1).

    Args:
        times: a row a problem, a column a solver.
        tau_max: slower than this many times the best is worth nothing, as if not solved.
        scale: `linear`, or `log` for the area over log tau, over log tau_max, which weighs equal
            factors equally.
        points: None for the exact area; a number for the trapezoid rule on so many equidistant
            points, which is how AlgoPerf's published scores are made (100). It may differ by (0.5 /
            points) per step.
        not_run: as in `performance_profile`; AlgoPerf's rule is `fail`.
        held_out: times on held-out variants: AlgoPerf's rules for them come first, see
            `with_held_out`.
        base_of: the base problem of each row of `held_out`; both or neither.

    Returns:
        A score for each solver, NaN for one that ran nothing.

    Source: Dahl et al. (2023), section 4.5 and AlgoPerf's documentation, "Benchmark score using
    performance profiles".
    """
    if not 1 < tau_max < math.inf:
        raise ValueError(f"tau_max must be a finite number above 1, got {tau_max}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if (held_out is None) != (base_of is None):
        raise ValueError(
            "held_out and base_of go together: the times on the variants, and the base problem of "
            "each"
        )
    if held_out is not None and base_of is not None:
        times = with_held_out(times, held_out, base_of)
    ratios = performance_ratios(times, not_run=not_run)
    if points is not None:
        return _on_grid(_steps(ratios, 1.0, "tau"), tau_max, scale, points).rename("score")
    inside = ratios.clip(upper=tau_max)
    worth = (
        (tau_max - inside) / (tau_max - 1)
        if scale == "linear"
        else 1 - np.log(inside) / math.log(tau_max)
    )
    return worth.mean().rename("score")


def data_profile(
    costs: pd.DataFrame, dimensions: Mapping[Any, float] | Sequence[float]
) -> pd.DataFrame:
    """d_s(alpha) = share of problems with t_ps <= alpha (n_p + 1).

    Solved within alpha simplex gradients.

    Unlike a performance profile it does not depend on the other solvers, and says what a budget
    buys. With gradients at hand, `dimensions` of 0 make alpha the cost itself.

    Args:
        costs: evaluations until each problem was solved, a column a solver; `inf` = not reached,
            NaN = not run.
        dimensions: the number n_p of variables of each problem, in the order of the rows or by
            their names.

    Source: More and Wild (2009), eq. 2.8.
    """
    frame = times_frame(costs, "costs")
    if isinstance(dimensions, Mapping):
        sizes = pd.Series([dimensions.get(name, math.nan) for name in costs.index], dtype=float)
    elif len(dimensions) != len(costs):
        raise ValueError(
            f"dimensions needs a number for each of the {len(costs)} problems, got "
            f"{len(dimensions)}"
        )
    else:
        sizes = pd.Series(list(dimensions), dtype=float)
    if sizes.isna().any() or (sizes < 0).any():
        raise ValueError("dimensions needs the number of variables, not negative, of every problem")
    ran = costs.notna().any(axis=1).to_numpy()
    return _steps(frame.div(sizes.to_numpy()[ran] + 1, axis=0), 0.0, "simplex gradients")


def ecdf(costs: pd.DataFrame) -> pd.DataFrame:
    """The share of (problem, target) pairs reached within a cost: COCO's runtime distribution.

    Args:
        costs: a row a pair of problem and target (or a simulated run of one), a column a solver;
            `inf` = not reached. Divide by the dimension, or by the cost of a gradient, before
            problems of different size are mixed.

    Returns:
        Index `cost`, from 0 through every cost at which a share changes; a column a solver.

    Source: Hansen et al. (2021), COCO, runtime distributions.
    """
    return _steps(times_frame(costs, "costs"), 0.0, "cost")


def at(profile: pd.DataFrame, points: Sequence[float] | Array) -> pd.DataFrame:
    """The values of a step function, as these functions give it, at the points asked for.

    They are 0 left of the first step.
    """
    grid = np.asarray(points, dtype=float)
    places = np.searchsorted(profile.index.to_numpy(dtype=float), grid, side="right") - 1
    values = np.where(places[:, None] >= 0, profile.to_numpy()[np.maximum(places, 0)], 0.0)
    return pd.DataFrame(
        values, index=pd.Index(grid, name=profile.index.name), columns=profile.columns
    )


def pairwise_profiles(times: pd.DataFrame) -> dict[tuple[Any, Any], pd.DataFrame]:
    """The profile of every two solvers alone, on the problems that both ran.

    A pair without one is left out.
    """
    frame = times_frame(times, solvers=2)
    pairs = {(a, b): frame[[a, b]].dropna() for a, b in combinations(frame.columns, 2)}
    return {pair: performance_profile(both) for pair, both in pairs.items() if len(both)}


def pairwise_scores(times: pd.DataFrame, tau_max: float = 4.0) -> pd.DataFrame:
    """The score of the row's solver in the profile of it and the column's alone.

    NaN where no problem is shared.
    """
    frame = times_frame(times, solvers=2)
    table = pd.DataFrame(math.nan, index=frame.columns, columns=frame.columns)
    for a, b in combinations(frame.columns, 2):
        if len(both := frame[[a, b]].dropna()):
            table.loc[a, b], table.loc[b, a] = profile_score(both, tau_max)
    return table


def leave_one_out_profiles(times: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """For each solver, the profile of all others as if it had not taken part."""
    frame = times_frame(times, solvers=2)
    return {name: performance_profile(frame.drop(columns=name)) for name in frame.columns}


def leave_one_out_scores(times: pd.DataFrame, tau_max: float = 4.0) -> pd.DataFrame:
    """Scores with every solver (row `all`) and with each one left out (its row)."""
    frame = times_frame(times, solvers=2)
    rows = {"all": profile_score(frame, tau_max)}
    rows |= {name: profile_score(frame.drop(columns=name), tau_max) for name in frame.columns}
    return pd.DataFrame(rows).T.reindex(columns=frame.columns)


def _with_rule(frame: pd.DataFrame, not_run: str) -> pd.DataFrame:
    if not_run not in NOT_RUN:
        raise ValueError(f"not_run must be one of {', '.join(NOT_RUN)}, got {not_run!r}")
    if not_run == "fail":
        return frame.fillna(math.inf)
    if not_run == "complete" and (frame := frame.dropna()).empty:
        raise ValueError("no problem was run by every solver; use not_run='leave_out' or 'fail'")
    return frame


def _steps(values: pd.DataFrame, first: float, name: str) -> pd.DataFrame:
    """Right-continuous shares of values <= x, at `first` and at every finite value."""
    flat = values.to_numpy()
    points = np.unique(np.append(flat[np.isfinite(flat)], first))
    shares = np.full((points.size, values.shape[1]), math.nan)
    for place, column in enumerate(flat.T):
        known = np.sort(column[~np.isnan(column)])
        if known.size:
            shares[:, place] = np.searchsorted(known, points, side="right") / known.size
    return pd.DataFrame(shares, index=pd.Index(points, name=name), columns=values.columns)


def _on_grid(profile: pd.DataFrame, tau_max: float, scale: str, points: int) -> pd.Series:
    """The trapezoid rule on equidistant points of tau, or of log tau."""
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    grid = (
        np.linspace(1, tau_max, points) if scale == "linear" else np.geomspace(1, tau_max, points)
    )
    axis = grid if scale == "linear" else np.log(grid)
    area = np.trapezoid(at(profile, grid).to_numpy(), x=axis, axis=0) / (axis[-1] - axis[0])
    return pd.Series(area, index=profile.columns)
