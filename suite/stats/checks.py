"""Checks of the input of statistics; each message says what to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
MODES = ("min", "max")


def require_mode(mode: str) -> None:
    """Raise ValueError for a direction that is neither `min` nor `max`."""
    if mode not in MODES:
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")


def require_level(level: float) -> None:
    """Raise ValueError for a confidence level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}: 0.95 for a 95 % interval")


def require_draws(draws: int) -> None:
    """Raise ValueError where nothing would be drawn."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")


def sample(values: Iterable[float], name: str = "values") -> Array:
    """The values as a float64 vector without NaN, at least one; infinities stay."""
    array = numbers(values)
    if not array.size:
        raise ValueError(f"{name} is empty: give a value for each run")
    if np.isnan(array).any():
        raise ValueError(
            f"{name} holds NaN: leave out what was not run, and give a failure as an infinite cost"
        )
    return array


def numbers(values: Iterable[float]) -> Array:
    """Whatever holds numbers, as a float64 vector."""
    return np.asarray(
        values if isinstance(values, np.ndarray | pd.Series) else list(values), dtype=np.float64
    ).ravel()


def costs(values: Iterable[float], name: str = "costs") -> Array:
    """Positive costs as a vector; `inf` stands for a failure."""
    array = sample(values, name)
    if (array <= 0).any():
        raise ValueError(
            f"{name} must be positive, got {array.min():g}: a ratio of costs has no meaning at zero"
        )
    return array


def times_frame(times: Any, name: str = "times", *, solvers: int = 1) -> pd.DataFrame:
    """A frame of times as float64, without the problems that nobody ran.

    `inf` and NaN stay in the others.

    Raises:
        ValueError: no row, too few or repeated columns, a negative time, or nothing run at all.
    """
    if not isinstance(times, pd.DataFrame):
        raise ValueError(f"{name} must be a pandas DataFrame: a row a problem, a column a solver")
    if times.empty:
        raise ValueError(
            f"{name} is empty: it needs a row for each problem and a column for each solver"
        )
    if times.shape[1] < solvers:
        raise ValueError(f"{name} needs at least {solvers} solvers (columns), got {times.shape[1]}")
    if not times.columns.is_unique:
        repeated = sorted(set(times.columns[times.columns.duplicated()].astype(str)))
        raise ValueError(f"{name} names a solver twice: {', '.join(repeated)}")
    frame = times.astype(np.float64).dropna(how="all")
    if frame.empty:
        raise ValueError(f"{name} holds nothing but NaN (not run)")
    if (frame < 0).to_numpy().any():
        raise ValueError(
            f"{name} must not be negative; give `inf` for a target that was not reached"
        )
    return frame
