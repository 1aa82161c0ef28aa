"""Downsampling of a history to the rows that tables and figures need.

Kept as they are: the first `FIRST` rows, the last one, every row in which a metric stands (up to
`EVALUATIONS` of them; then those that crossed a level, the best, the last and evenly spread ones),
and the rows of sparse telemetry. Between them a row is kept for each stretch of steps, the one with
the stretch's median loss, so that a curve of window medians stays where it was. A history whose gap
to a known minimum is read step by step (orders of convergence) is kept whole up to `WHOLE` rows.
The numbers of rows without a metric are rounded to single precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from suite.results.run import Run, as_number

FIRST = 40  # as many as the curves show one by one
ROWS = 300  # that a history keeps, about, beside those of its metrics
EVALUATIONS = 600
WHOLE = 2000
SPARSE = 0.2  # of the rows: what is filled in less often is telemetry that is measured now and then
STEP_BY_STEP = "gap"
COUNTS = ("step", "value", "grad", "hvp", "ggnvp", "jac")

Mask = npt.NDArray[np.bool_]


def thin(run: Run, rows: int = ROWS) -> pd.DataFrame:
    """The history with about `rows` rows beside the evaluations; the module says which."""
    history = run.history
    metric = str(run.config.get("metric"))
    evaluated = _filled(
        history, (name for name in history if str(name).startswith(("val/", "test/")))
    )
    mask = evaluated.copy()
    if metric == STEP_BY_STEP and len(history) <= WHOLE:
        return history
    if evaluated.sum() > EVALUATIONS:
        mask = evaluated & (_records(run, metric) | _spread(evaluated, EVALUATIONS))
    mask |= _filled(history, _sparse(history))
    mask[:FIRST] = True
    mask[-1:] = True
    mask |= _middles(history, rows) if len(history) > rows else True
    return _rounded(history, exact=evaluated | _ends(len(history)))[mask].reset_index(drop=True)


def levels(config: dict[str, Any]) -> list[float]:
    """The values of the metric that a run's configuration calls a target."""
    shares = config.get("levels")
    values = [config.get("target"), *(shares.values() if isinstance(shares, dict) else ())]
    return [number for number in map(as_number, values) if np.isfinite(number)]


def _filled(history: pd.DataFrame, names: Iterable[Any]) -> Mask:
    """The rows in which any of the columns has a value."""
    chosen = list(names)
    return (
        history[chosen].notna().any(axis=1).to_numpy()
        if chosen
        else np.zeros(len(history), dtype=bool)
    )


def _sparse(history: pd.DataFrame) -> list[str]:
    names = [str(name) for name in history if str(name).startswith("telemetry/")]
    return [name for name in names if history[name].notna().mean() < SPARSE]


def _records(run: Run, metric: str) -> Mask:
    """The rows in which the validation metric was first at a level or better, and its best one."""
    column = run.history.get(f"val/{metric}")
    if column is None:
        return np.zeros(len(run.history), dtype=bool)
    sign = 1.0 if run.config.get("direction") == "max" else -1.0
    values = sign * column.to_numpy(dtype=float)
    mask = np.zeros(len(values), dtype=bool)
    for level in levels(run.config):
        reached = values >= sign * level
        mask[np.argmax(reached) if reached.any() else slice(0)] = True
    if np.isfinite(values).any():
        mask[np.nanargmax(values)] = True
    mask[np.flatnonzero(~np.isnan(values))[-1:]] = True
    return mask


def _spread(rows: Mask, count: int) -> Mask:
    """About `count` of the marked rows, evenly spread over them."""
    marked = np.flatnonzero(rows)
    mask = np.zeros(len(rows), dtype=bool)
    mask[marked[np.linspace(0, len(marked) - 1, count).astype(int)]] = True
    return mask


def _middles(history: pd.DataFrame, count: int) -> Mask:
    """The row with the median loss of each of `count` stretches.

    The middle row where no loss is finite.
    """
    losses = history["loss"].to_numpy(dtype=float)
    mask = np.zeros(len(losses), dtype=bool)
    for stretch in np.array_split(np.arange(len(losses)), count):
        finite = stretch[np.isfinite(losses[stretch])]
        chosen = finite[np.argsort(losses[finite], kind="stable")] if len(finite) else stretch
        mask[chosen[len(chosen) // 2]] = True
    return mask


def _ends(length: int) -> Mask:
    mask = np.zeros(length, dtype=bool)
    mask[:1] = mask[-1:] = True
    return mask


def _rounded(history: pd.DataFrame, exact: Mask) -> pd.DataFrame:
    """Single precision where it neither overflows nor vanishes.

    Counts and the rows of `exact` keep their precision.
    """
    rounded = history.copy()
    for name in history.columns.difference(list(COUNTS)):
        values = history[name].to_numpy(dtype=float)
        with np.errstate(over="ignore", under="ignore"):
            short = values.astype(np.float32).astype(np.float64)
        keep = exact | ~np.isfinite(short) | ((short == 0) & (values != 0))
        rounded[name] = np.where(keep, values, short)
    return rounded
