"""AlgoPerf's rules: the median over studies of the fastest trial, and held-out variants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from suite.stats.checks import sample, times_frame

WITHIN = 4.0


def study_time(studies: Iterable[Iterable[float]]) -> float:
    """The time that counts on a workload: the median over studies of the fastest trial of each.

    `inf` = not reached.

    Source: AlgoPerf's documentation, "External tuning ruleset"; a study is 5 trials there, of 5
    studies (3 later).
    """
    fastest = [float(sample(trials, "a study's trials").min()) for trials in studies]
    if not fastest:
        raise ValueError("studies is empty: give the times of each study's trials")
    return _median(fastest)


def with_held_out(
    times: pd.DataFrame,
    held_out: pd.DataFrame,
    base_of: Mapping[Any, Any],
    *,
    within: float = WITHIN,
) -> pd.DataFrame:
    """Times on the base problems after AlgoPerf's rules for held-out variants.

    A time that does not meet them is `inf`.

    For a finite time a solver has to (1) reach the target on the base problem, (2) in at most
    `within` times the best time on it, (3) reach the target on its held-out variant, (4) in at most
    `within` times the best time on that, where only solvers that reached the base problem's target
    are looked at. A base problem without a variant needs 1 and 2.

    Args:
        times: a row a base problem, a column a solver; `inf` = not reached; NaN, not run, counts as
            that here.
        held_out: a row a variant, the same columns.
        base_of: the base problem of each variant.
        within: how many times the best time counts as solved.

    Raises:
        ValueError: a variant without a base problem, or other solvers.

    Source: AlgoPerf's documentation, "Using held-out workloads in scoring". The code of its first
    competition (2024) applied rule 4 without its second half; today's applies it as here.
    """
    base, variants = times_frame(times), times_frame(held_out, "held_out")
    _require_fit(base, variants, base_of)
    base, variants = base.fillna(math.inf), variants.reindex(columns=base.columns).fillna(math.inf)
    for name in variants.index:
        variants.loc[name] = variants.loc[name].mask(np.isinf(base.loc[base_of[name]]), math.inf)
    base, variants = _near_the_best(base, within), _near_the_best(variants, within)
    for name in variants.index:
        base.loc[base_of[name]] = base.loc[base_of[name]].mask(
            np.isinf(variants.loc[name]), math.inf
        )
    return base


def _near_the_best(times: pd.DataFrame, within: float) -> pd.DataFrame:
    return times.mask(times.gt(within * times.min(axis=1), axis=0), math.inf)


def _require_fit(base: pd.DataFrame, variants: pd.DataFrame, base_of: Mapping[Any, Any]) -> None:
    lost = [str(name) for name in variants.index if base_of.get(name) not in base.index]
    if lost:
        raise ValueError(f"base_of names no problem of times for {', '.join(lost)}")
    missing = [str(name) for name in base.columns if name not in variants]
    if missing:
        raise ValueError(f"held_out has no column for {', '.join(missing)}")


def _median(values: Sequence[float]) -> float:
    """The median, where the middle of a finite and an infinite value is infinite."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
