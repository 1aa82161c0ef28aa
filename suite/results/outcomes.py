"""Outcomes as words; unfinished runs count in every denominator."""

from __future__ import annotations

import pandas as pd

from suite.results.run import FINISHED, VALUED
from suite.tables.formats import NOT_RUN

NO_VALUE = "no value"


def end_values(runs: pd.DataFrame, column: str) -> list[float]:
    """The values of the runs that came to the end of their budget and have one."""
    return [float(value) for value in runs.loc[runs["status"].isin(VALUED), column].dropna()]


def complete(runs: pd.DataFrame, column: str) -> bool:
    """Whether every run came to its end with a value, so that a mean leaves nothing out."""
    return len(runs) > 0 and len(end_values(runs, column)) == len(runs)


def failure_words(runs: pd.DataFrame, column: str) -> str:
    """`diverged 2/3 · timeout 1/3`; plain `unsupported` where nothing else happened.

    Empty without failures.
    """
    if len(runs) == 0:
        return NOT_RUN
    words = runs["status"].mask(runs["status"].isin(FINISHED) & runs[column].isna(), NO_VALUE)
    counts = words[~words.isin(FINISHED)].value_counts(sort=False)
    if list(counts.index) == ["unsupported"] and counts.iloc[0] == len(runs):
        return "unsupported"
    return " · ".join(f"{word} {many}/{len(runs)}" for word, many in counts.items())
