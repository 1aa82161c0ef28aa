"""Runs with telemetry as a figure needs them: their lines, and the panels that have data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from suite.report.drawing.style import Look
from suite.report.sections.progress.telemetry_panels import (
    FAILURES,
    LIMITS,
    LOSS,
    PANELS,
    PREFIX,
    Panel,
    generic,
)
from suite.results.frame import Records, one_seed
from suite.results.labels import Settings
from suite.results.learning_curves import curve, window

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A quantity of one run along its steps, thinned like every curve.

    `low` and `high` where it is a band.
    """

    steps: Array
    heights: Array
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True)
class Watched:
    """A run with telemetry: its row, history and settings, and its look."""

    name: str
    run: pd.DataFrame
    history: pd.DataFrame
    settings: Settings
    look: Look

    @property
    def diverged(self) -> bool:
        """Whether the run diverged."""
        return str(self.run["status"].iloc[0]) == "diverged"

    def line(self, column: str) -> Line:
        """The finite values of a column, thinned to about a hundred points."""
        index = int(self.run.index[0])
        one = curve(self.run, {index: self.history}, column, window([self.history]))
        points = one.strands[0].points if one.strands else one.middle
        return Line(points["step"].to_numpy(dtype=float), points["value"].to_numpy(dtype=float))


def watched_runs(records: Records, problem: str, looks: Mapping[str, Look]) -> list[Watched]:
    """One run of each optimizer that has any column of telemetry."""
    runs = records.of(problem)
    having = [index for index in runs.index if columns_of(records.histories[index])]
    if not having:
        return []
    chosen = one_seed(runs.loc[having])
    return [
        Watched(
            str(name),
            chosen.loc[[index]],
            records.histories[int(str(index))],
            records.optimizer_settings[problem, str(name)],
            looks[str(name)],
        )
        for index, name in chosen["optimizer"].items()
    ]


def panels_with_data(watched: Sequence[Watched]) -> list[Panel]:
    """The loss, then those panels for which some run has a finite value."""
    drawn = {column for panel in (*PANELS, FAILURES) for column in panel.columns}
    others = generic({name for one in watched for name in columns_of(one.history)} - drawn)
    shown = [panel for panel in (*PANELS, *others) if any(shows(one, panel) for one in watched)]
    failures = [FAILURES] if any(len(failure_steps(one.history)) for one in watched) else []
    return [LOSS, *shown, *failures]


def failure_steps(history: pd.DataFrame) -> Array:
    """The steps at which failures had grown since the row before."""
    column = PREFIX + FAILURES.columns[0]
    if column not in history:
        return np.empty(0)
    known = history[["step", column]].dropna()
    grown = known[column].diff().fillna(known[column]) > 0
    return known["step"][grown].to_numpy(dtype=float)


def stability_limit(settings: Settings) -> float | None:
    """Lr times the largest eigenvalue above which torch.optim.SGD diverges on a quadratic.

    None for other methods.

    2 for gradient descent, 2 (1 + m) with momentum m and no dampening, 2 (1 + m) / (1 + 2 m) in
    Nesterov's form (Cohen et al., 2021, "Gradient descent on neural networks typically occurs at
    the edge of stability", appendix B).
    """
    if settings.get("_target_") != "torch.optim.SGD" or float(settings.get("dampening", 0)):
        return None
    momentum = float(settings.get("momentum", 0))
    return 2 * (1 + momentum) / (1 + 2 * momentum if settings.get("nesterov") == "true" else 1)


def columns_of(history: pd.DataFrame) -> list[str]:
    """The columns of telemetry that have a value, without their prefix."""
    names = [str(name) for name in history.columns if str(name).startswith(PREFIX)]
    return [name.removeprefix(PREFIX) for name in names if bool(np.isfinite(history[name]).any())]


def shows(one: Watched, panel: Panel) -> bool:
    """Whether a run has anything to draw in a panel."""
    if panel is LIMITS and stability_limit(one.settings) is None:
        return False
    names = [PREFIX + column for column in panel.columns]
    return any(name in one.history and bool(np.isfinite(one.history[name]).any()) for name in names)
