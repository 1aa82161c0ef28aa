"""What a run, or a set of runs, has to spend until a target is reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from suite.stats.checks import Array, Flags, require_draws, require_mode, sample


def time_to_target(
    history: pd.DataFrame,
    target: float,
    mode: str,
    *,
    metric: str | None = None,
    unit: str = "seconds",
) -> float:
    """The cost of a run until its metric was first at the target or better.

    `inf` where it never was.

    T = min {t_i : m_i <= target} for `mode="min"`, m_i >= target for `mode="max"`, over the logged
    rows i. A NaN never is at the target. The metric is known only where it was evaluated: T is late
    by less than a distance of evaluations.

    Args:
        history: a row per logged step, with `unit` and the metric among its columns.
        target: the value that counts.
        mode: `min` where smaller is better, else `max`.
        metric: its column; the only one under `val/` where it is not named.
        unit: the column of what was spent: `step`, `seconds` or `grad_equivalents`.

    Raises:
        ValueError: another mode, a target that is NaN, or a column that is not there.
    """
    require_mode(mode)
    if math.isnan(target):
        raise ValueError("the target is NaN; set one, e.g. with python -m suite.target")
    metric = metric or _only_metric(history)
    for column in (metric, unit):
        if column not in history:
            raise ValueError(
                f"the history has no column {column!r}; it has "
                f"{', '.join(map(str, history)) or 'none'}"
            )
    values = history[metric]
    reached = history.loc[values >= target if mode == "max" else values <= target, unit]
    return float(reached.iloc[0]) if len(reached) else math.inf


def _only_metric(history: pd.DataFrame) -> str:
    """The one column of validation that a history has."""
    columns = [str(name) for name in history if str(name).startswith("val/")]
    if len(columns) != 1:
        raise ValueError(
            f"name the metric's column; there are {', '.join(columns) or 'none under val/'}"
        )
    return columns[0]


def median_with_failures(reached: Sequence[float], total: int) -> float:
    """Median over all `total` runs; a run that never reached the target counts as infinite."""
    ordered = sorted(reached) + [math.inf] * (total - len(reached))
    return (ordered[(total - 1) // 2] + ordered[total // 2]) / 2


def expected_running_time(spent: Iterable[float], reached: Iterable[bool]) -> float:
    """ERT: what independent restarts would spend on average until the target is reached.

    ERT = (cost of all runs) / (number of successes); `inf` without a success. It is the mean of the
    process that restarts after every failure, m_s + m_f (1 - p) / p, with the means m of successful
    and failed runs and the chance p of a success as they were seen. It grows with the budget given
    to runs that fail: compare equal budgets only.

    Args:
        spent: the cost of each run: up to the target where it was reached, else all of it.
        reached: whether it was.

    Raises:
        ValueError: no run, a cost that is negative or infinite, or unequal lengths.

    Source: Auger and Hansen (2005), Performance evaluation of an advanced local search evolutionary
    algorithm, eq. 2; Hansen et al. (2021), COCO, where it is called the average runtime.
    """
    cost, success = _runs(spent, reached)
    return float(cost.sum() / success.sum()) if success.any() else math.inf


def simulated_restarts(
    spent: Iterable[float], reached: Iterable[bool], *, draws: int = 1000, seed: int = 0
) -> Array:
    """Costs of simulated runs, each of them stored runs drawn until one is a success.

    Their mean tends to `expected_running_time`; COCO's ECDF shows their distribution, so that a
    curve may go on beyond the budget of a single run. All are `inf` without a success. Cost: draws
    / (share of successes) draws.

    Source: Hansen et al. (2021), COCO, simulated restarts; unlike there every run is drawn at
    random, the first too.
    """
    cost, success = _runs(spent, reached)
    require_draws(draws)
    if not success.any():
        return np.full(draws, math.inf)
    generator = np.random.default_rng(seed)
    total, going = np.zeros(draws), np.arange(draws)
    while going.size:
        drawn = generator.integers(cost.size, size=going.size)
        total[going] += cost[drawn]
        going = going[~success[drawn]]
    return total


def _runs(spent: Iterable[float], reached: Iterable[bool]) -> tuple[Array, Flags]:
    cost, success = sample(spent, "spent"), np.asarray(list(reached), dtype=bool).ravel()
    if cost.size != success.size:
        raise ValueError(
            f"spent and reached need one entry a run, got {cost.size} and {success.size}"
        )
    if not np.isfinite(cost).all() or (cost < 0).any():
        raise ValueError(
            "spent must be finite and not negative: a failed run spent its whole budget, not "
            "infinity"
        )
    return cost, success
