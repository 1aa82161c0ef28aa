"""Trajectories of two parameters as their runs recorded them, and the functions beneath."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from suite.config.instantiate import construct
from suite.errors import ConfigError
from suite.results.frame import Records, one_seed, seed_text

COLUMNS = ["step", "x", "y"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """One run's trajectory.

    Attributes:
        optimizer: its label.
        steps: after which the points were recorded, the first of them the start.
        points: `(k, 2)`.
        status: how the run ended.
    """

    optimizer: str
    steps: Array
    points: Array
    status: str

    def until(self, step: float) -> Array:
        """The points up to a step that are finite."""
        shown: Array = self.points[(self.steps <= step) & np.isfinite(self.points).all(axis=1)]
        return shown


@dataclass(frozen=True)
class Landscape:
    """A function of two parameters, and the trajectory of one run of each optimizer over it.

    Attributes:
        problem: the label of the problem.
        seed: in words, which seed's runs these are.
        task: an object with the function `values`, and with `domain` and `minimizers` if known.
        trajectories: in the order of the tables.
        target: the gap that counts as solved, or None.
    """

    problem: str
    seed: str
    task: Any
    trajectories: list[Trajectory]
    target: float | None

    def values(self, points: Array) -> Array:
        """The function at every row of `points`, `(k, 2)` to `(k,)`; NaN where it is not finite."""
        import torch  # only a report that draws a function needs it

        heights: Array = self.task.values(torch.as_tensor(points)).detach().cpu().double().numpy()
        return np.where(np.isfinite(heights), heights, np.nan)

    @property
    def minimizers(self) -> Array:
        """The known minimizers, `(k, 2)`."""
        known = getattr(self.task, "minimizers", None)
        return (
            np.empty((0, 2)) if known is None else np.asarray(known.detach().cpu().double().numpy())
        )


@dataclass
class Landscapes:
    """The landscapes of a report, and why the others could not be drawn."""

    drawn: list[Landscape] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def landscapes(records: Records, allow: Sequence[str] = ()) -> Landscapes:
    """The landscapes of all problems with a trajectory and a task that knows the function's values.

    The task is built from the configuration of a run, which is not trusted: the class has to come
    from this suite or from a module in `allow`.
    """
    result = Landscapes()
    for problem in records.problems:
        trajectories = _trajectories(records, problem)
        if not trajectories:
            continue
        chosen = one_seed(records.frame.loc[list(trajectories)])
        # whatever somebody else's task raises is no reason to write no report
        try:
            task = _task(records.runs[int(chosen.index[0])].config["task"], allow)
        except Exception as error:
            result.skipped.append(f"{problem} ({error})")
            continue
        if callable(getattr(task, "values", None)):
            target = chosen["target"].dropna()
            goal = float(target.iloc[0]) if len(target) else None
            shown = [trajectories[int(index)] for index in chosen.index]
            result.drawn.append(Landscape(problem, seed_text(chosen), task, shown, goal))
    return result


def _trajectories(records: Records, problem: str) -> dict[int, Trajectory]:
    """The trajectories of a problem's runs, by the index of the run."""
    indices = [int(str(index)) for index in records.of(problem).index]
    every = {index: _trajectory(records, index) for index in indices}
    return {index: one for index, one in every.items() if one is not None}


def _task(node: dict[str, Any], allow: Sequence[str]) -> Any:
    try:
        return construct(node, allow=allow)
    except ConfigError as error:
        target = str(node.get("_target_"))
        raise ConfigError(
            f"if you trust {target}, add --allow {target.partition('.')[0]} to the command"
        ) from error


def _trajectory(records: Records, index: int) -> Trajectory | None:
    """The trajectory of one run, without a last row that a kill has cut.

    None where no file can be read.
    """
    run = records.runs[index]
    table = run.trajectory
    if table is None:
        try:
            table = pd.read_csv(run.path / "path.csv", dtype=float, index_col=False)[COLUMNS]
        except (OSError, ValueError, KeyError, pd.errors.ParserError):
            return None
        table = table if run.summary else table.iloc[:-1]
    table = table.dropna(subset=["step"])
    if not len(table):
        return None
    row = records.frame.loc[index]
    numbers = table.to_numpy(dtype=float)
    return Trajectory(str(row["optimizer"]), numbers[:, 0], numbers[:, 1:], str(row["status"]))
