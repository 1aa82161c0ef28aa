"""Studies read back: a frame with a row a trial, from the journals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = (
    "study",
    "task",
    "optimizer",
    "number",
    "status",
    "value",
    "score",
    "sign",
    "metric",
    "settings",
    "seconds",
    "grad_equivalents",
    "sampler",
    "pruner",
    "seeds",
    "space",
    "path",
)


def load_trials(results: Path) -> pd.DataFrame:
    """A row for each trial that has ended, study by study, in the order of their numbers.

    A journal that cannot be read is left out and named in `frame.attrs["damaged"]`, pairs of a path
    and a reason.

    Args:
        results: the folder of all results, the one that holds `tune/`.

    Returns:
        The columns are: study; task, optimizer; number, 0 for the default setting; status, the word
        of the run, or `pruned`; value, the final validation metric, NaN for a failure; score,
        larger is better and -inf is a failure; sign, 1 or -1; metric; settings, a mapping; seconds
        and grad_equivalents, spent by the trial; sampler and pruner, without which trials are not
        exchangeable; seeds, how many the value is a mean over; space, the search space; path, the
        first run's directory.
    """
    damaged: list[tuple[str, str]] = []
    rows = list(_of_journals(results, damaged))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["damaged"] = damaged
    return frame


def unequal(trials: pd.DataFrame) -> list[str]:
    """A sentence for each task on which optimizers were tuned with different numbers of trials."""
    sentences = []
    for task, of in trials.groupby("task", sort=False):
        counts = (
            of.groupby(["optimizer", "study"], sort=False)
            .size()
            .groupby("optimizer", sort=False)
            .max()
        )
        if counts.min() < counts.max():
            words = ", ".join(f"{optimizer} {count}" for optimizer, count in counts.items())
            sentences.append(f"The optimizers were not tuned equally on {task}; trials: {words}.")
    return sentences


def _of_journals(results: Path, damaged: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    paths = sorted((results / "tune" / "studies").glob("*.journal"))
    if not paths:
        return
    from suite.tune import journal_file  # which brings in Optuna

    for path in paths:
        try:
            about, trials = journal_file.read(path)
            rows = [
                _row(path.stem, about, trial.number, trial.settings, trial.to_dict(), results)
                for trial in trials
            ]
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            damaged.append(
                (path.relative_to(results).as_posix(), f"{type(error).__name__}: {error}")
            )
            continue
        yield from rows


def _row(
    study: str,
    about: Mapping[str, Any],
    number: int,
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
    at: Path,
) -> dict[str, Any]:
    value = record["value"]
    runs: Sequence[str] = record["runs"]
    own = {
        name: record[name]
        for name in ("status", "sign", "metric", "seconds", "grad_equivalents", "runs")
    }
    return {
        "study": study,
        **{name: about[name] for name in ("task", "optimizer", "sampler", "pruner", "space")},
        **own,
        "number": number,
        "value": math.nan if value is None else float(value),
        "score": float(record["score"]),
        "settings": dict(settings),
        "seeds": len(about["seeds"]),
        "path": str(at / runs[0]) if runs else "",
    }
