"""How far a performance profile can be trusted: bands and intervals from the spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from suite.stats.bootstrap import DRAWS, LEVEL, interval_of, intervals_of, redrawn
from suite.stats.checks import Array, require_level
from suite.stats.profiles import at, performance_profile, profile_score

COLUMNS = ("problem", "solver", "time")
ROUNDING = 1e-12
Cells = dict[tuple[Any, Any], Array]


def profile_band(
    runs: pd.DataFrame,
    *,
    taus: Sequence[float] | None = None,
    not_run: str = "leave_out",
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """The performance profile of the medians over seeds, with its stratified bootstrap band.

    Runs are redrawn within each (problem, solver), the medians and the profile recomputed; the band
    holds the middle `level` of the redrawn shares at each tau. The problems stay: the band says
    what other seeds would have shown on these problems, not what other problems would. Pointwise,
    and with 3 to 5 seeds too narrow, as every percentile bootstrap.

    Args:
        runs: a row a run, columns `problem`, `solver`, `time` (`inf` = not reached).
        taus: where; the steps of the profile where they are not named.
        not_run: `leave_out`, or `fail` where a pair without runs counts as not reached.
        level: the share of samples whose interval should hold the truth.
        draws: the number of resamples.
        seed: of the draws.

    Returns:
        Index `tau`; columns (solver, `share`), (solver, `low`), (solver, `high`), the bounds NaN if
        no cell of that solver has two runs. Cost: draws x problems x solvers x taus comparisons.

    Source: Agarwal et al. (2021), section 4.1 for the strata; Dolan and More (2002) for the
    profile.
    """
    require_level(level)
    cells = _cells(runs, not_run)
    centre = performance_profile(_medians(cells), not_run=not_run)
    grid = np.asarray(centre.index if taus is None else list(taus), dtype=float)
    ratios = _redrawn_ratios(cells, centre, draws, seed)
    known = np.maximum((~np.isnan(ratios)).sum(axis=1), 1)
    # (draws, taus, solvers); the same ratio of redrawn costs may differ in its last digit
    shares = np.stack([(ratios <= tau * (1 + ROUNDING)).sum(axis=1) / known for tau in grid], 1)
    columns: dict[tuple[Any, str], Any] = {}
    for place, name in enumerate(centre.columns):
        columns[name, "share"] = at(centre, grid)[name].to_numpy()
        columns[name, "low"], columns[name, "high"] = (
            intervals_of(shares[:, :, place], level) if _repeated(cells, name) else (math.nan,) * 2
        )
    return pd.DataFrame(columns, index=pd.Index(grid, name="tau"))


def score_interval(
    runs: pd.DataFrame,
    tau_max: float = 4.0,
    *,
    not_run: str = "leave_out",
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """The score of each solver's profile of medians, with its stratified bootstrap interval.

    Args:
        runs: as for `profile_band`.
        tau_max: as for `profile_score`.
        not_run: as for `profile_band`.
        level: the share of samples whose interval should hold the truth.
        draws: the number of resamples.
        seed: of the draws.

    Returns:
        A row a solver, columns `score`, `low`, `high`; NaN bounds if no cell of that solver has two
        runs.
    """
    require_level(level)
    cells = _cells(runs, not_run)
    scores = profile_score(_medians(cells), tau_max, not_run=not_run)
    drawn = np.nanmean(profile_areas(_redrawn_ratios(cells, scores, draws, seed), tau_max), axis=1)
    bounds = [
        interval_of(drawn[:, place], level) if _repeated(cells, name) else (math.nan, math.nan)
        for place, name in enumerate(scores.index)
    ]
    low, high = zip(*bounds, strict=True)
    return pd.DataFrame({"score": scores, "low": low, "high": high})


def ratios_to_best(times: Array) -> Array:
    """Performance ratios along the last axis: 1 for the least time, also of zero; `inf` stays."""
    best = np.nanmin(times, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(times == best, 1.0, times / best)
    return np.where(np.isinf(times), math.inf, ratios)


def profile_areas(ratios: Array, tau_max: float) -> Array:
    """What each problem adds to a profile's score: 1 at the ratio 1, 0 from `tau_max` on."""
    return np.maximum(tau_max - ratios, 0) / (tau_max - 1)


def _cells(runs: pd.DataFrame, not_run: str) -> Cells:
    """The times of each (problem, solver)."""
    missing = [name for name in COLUMNS if name not in runs]
    if missing or runs.empty:
        raise ValueError(
            f"runs needs a row a run and the columns {', '.join(COLUMNS)}; missing: "
            f"{missing or 'rows'}"
        )
    known = runs.dropna(subset=["time"])
    if (known["time"] < 0).any():
        raise ValueError("times must not be negative; give `inf` for a target that was not reached")
    groups = known.groupby(["problem", "solver"], sort=False)["time"]
    cells: Cells = {key: part.to_numpy(dtype=float) for key, part in groups}  # type: ignore[misc]
    if not_run == "fail":
        for key in product(known["problem"].unique(), known["solver"].unique()):
            cells.setdefault(key, np.array([math.inf]))
    return cells


def _medians(cells: Cells) -> pd.DataFrame:
    problems, solvers = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    table = pd.DataFrame(math.nan, index=problems, columns=solvers)
    for (problem, solver), values in cells.items():
        table.loc[problem, solver] = np.median(values)
    return table


def _redrawn_ratios(cells: Cells, like: pd.DataFrame | pd.Series, draws: int, seed: int) -> Array:
    """Performance ratios of redrawn medians, (draws, problems, solvers in the order of `like`)."""
    problems = list(dict.fromkeys(problem for problem, _ in cells))
    solvers = list(like.columns if isinstance(like, pd.DataFrame) else like.index)
    times = np.full((draws, len(problems), len(solvers)), math.nan)
    for (problem, solver), chosen in zip(cells, redrawn(cells.values(), draws, seed), strict=True):
        times[:, problems.index(problem), solvers.index(solver)] = np.median(chosen, axis=1)
    return ratios_to_best(times)


def _repeated(cells: Cells, solver: Any) -> bool:
    return any(values.size > 1 for (_, name), values in cells.items() if name == solver)
