"""How far a performance profile can be trusted: bands and intervals from the spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from suite.stats.bootstrap import DRAWS, LEVEL, interval_of
from suite.stats.checks import Array, require_draws, require_level
from suite.stats.profiles import at, performance_profile, profile_score

COLUMNS = ("problem", "solver", "time")
Cells = dict[tuple[Any, Any], Array]


def profile_band(
    runs: pd.DataFrame,
    *,
    taus: Sequence[float] | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """The performance profile of the medians over seeds, with its stratified bootstrap band.

    Runs are redrawn within each (problem, solver), the medians and the profile made anew; the band
    holds the middle `level` of the redrawn shares at each tau. The problems stay: the band says
    what other seeds would have shown on these problems, not what other problems would. Pointwise,
    and with 3 to 5 seeds too narrow, as every percentile bootstrap.

    Args:
        runs: a row a run, columns `problem`, `solver`, `time` (`inf` = not reached).
        taus: where; the steps of the profile where they are not named.

    Returns:
        Index `tau`; columns (solver, `share`), (solver, `low`), (solver, `high`), the bounds NaN if
        no cell of that solver has two runs. Cost: draws x problems x solvers x taus comparisons.

    Source: Agarwal et al. (2021), section 4.1 for the strata; Dolan and More (2002) for the
    profile.
    """
    cells = _cells(runs)
    centre = performance_profile(_medians(cells))
    grid = np.asarray(centre.index if taus is None else list(taus), dtype=float)
    ratios = _redrawn_ratios(cells, centre, level, draws, seed)
    known = np.maximum((~np.isnan(ratios)).sum(axis=1), 1)
    shares = np.stack(
        [(ratios <= tau).sum(axis=1) / known for tau in grid]
    )  # (taus, draws, solvers)
    columns: dict[tuple[Any, str], Any] = {}
    for place, name in enumerate(centre.columns):
        columns[name, "share"] = at(centre, grid)[name].to_numpy()
        bounds = [
            interval_of(row, level) if _repeated(cells, name) else (math.nan,) * 2
            for row in shares[:, :, place]
        ]
        columns[name, "low"], columns[name, "high"] = zip(*bounds, strict=True)
    return pd.DataFrame(columns, index=pd.Index(grid, name="tau"))


def score_interval(
    runs: pd.DataFrame,
    tau_max: float = 4.0,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """The score of each solver's profile (`profile_score` of the medians) with its stratified bootstrap interval.

    Args:
        runs: as for `profile_band`.

    Returns:
        A row a solver, columns `score`, `low`, `high`; NaN bounds if no cell of that solver has two
        runs.
    """
    cells = _cells(runs)
    scores = profile_score(_medians(cells), tau_max)
    ratios = _redrawn_ratios(cells, _medians(cells), level, draws, seed)
    known = np.maximum((~np.isnan(ratios)).sum(axis=1), 1)
    drawn = np.nansum(np.maximum(tau_max - ratios, 0), axis=1) / (tau_max - 1) / known
    bounds = [
        interval_of(drawn[:, place], level) if _repeated(cells, name) else (math.nan, math.nan)
        for place, name in enumerate(scores.index)
    ]
    low, high = zip(*bounds, strict=True)
    return pd.DataFrame({"score": scores, "low": low, "high": high})


def _cells(runs: pd.DataFrame) -> Cells:
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
    return {key: part.to_numpy(dtype=float) for key, part in groups}  # type: ignore[misc]


def _medians(cells: Cells) -> pd.DataFrame:
    problems, solvers = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    table = pd.DataFrame(math.nan, index=problems, columns=solvers)
    for (problem, solver), values in cells.items():
        table.loc[problem, solver] = np.median(values)
    return table


def _redrawn_ratios(cells: Cells, like: pd.DataFrame, level: float, draws: int, seed: int) -> Array:
    """Performance ratios of redrawn medians, (draws, problems, solvers)."""
    require_level(level)
    require_draws(draws)
    generator = np.random.default_rng(seed)
    problems = list(dict.fromkeys(problem for problem, _ in cells))
    times = np.full((draws, len(problems), len(like.columns)), math.nan)
    for (problem, solver), values in cells.items():
        chosen = values[generator.integers(values.size, size=(draws, values.size))]
        times[:, problems.index(problem), like.columns.get_loc(solver)] = np.median(chosen, axis=1)
    best = np.nanmin(times, axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(times == best, 1.0, times / best)
    return np.where(np.isinf(times), math.inf, ratios)


def _repeated(cells: Cells, solver: Any) -> bool:
    return any(values.size > 1 for (_, name), values in cells.items() if name == solver)
