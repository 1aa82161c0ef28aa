"""The paths of the optimizers over a plane, as their runs recorded them, and the function that they went down."""

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
class Trail:
    """One run's path: points, `(k, 2)`, after each of `steps`, the first of them the start.

    And how the run ended.
    """

    optimizer: str
    steps: Array
    points: Array
    status: str

    def until(self, step: float) -> Array:
        """The points up to a step that are finite."""
        kept: Array = self.points[(self.steps <= step) & np.isfinite(self.points).all(axis=1)]
        return kept


@dataclass(frozen=True)
class Plane:
    """A function of two parameters, and the paths that one run of each optimizer took over it.

    Attributes:
        problem: the label of the problem.
        seed: in words, which seed's runs these are.
        task: what gives the function's `values`; `domain` and `minimizers` if it knows them.
        trails: the paths, in the order of the tables.
        target: the gap that counts as solved, or None.
    """

    problem: str
    seed: str
    task: Any
    trails: list[Trail]
    target: float | None

    def values(self, points: Array) -> Array:
        """The function at every row of `points`, `(k, 2)` to `(k,)`; whatever is not finite is NaN."""
        import torch  # only a report that draws a function needs it

        found: Array = self.task.values(torch.as_tensor(points)).detach().cpu().double().numpy()
        return np.where(np.isfinite(found), found, np.nan)

    @property
    def minimizers(self) -> Array:
        """The known minimizers, `(k, 2)`."""
        known = getattr(self.task, "minimizers", None)
        return (
            np.empty((0, 2)) if known is None else np.asarray(known.detach().cpu().double().numpy())
        )


@dataclass
class Planes:
    """The planes of a report, and why the others could not be drawn."""

    drawn: list[Plane] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def planes(records: Records, allow: Sequence[str] = ()) -> Planes:
    """The planes of all problems whose runs recorded a path and whose task can tell the function's values.

    The task is built from the configuration of a run. Its class has to come from this suite or from
    the modules named in `allow`: what a record says there is not trusted.
    """
    found = Planes()
    for problem in records.problems:
        trails = {
            int(str(index)): _trail(records, int(str(index))) for index in records.of(problem).index
        }
        walked = {index: trail for index, trail in trails.items() if trail is not None}
        if not walked:
            continue
        chosen = one_seed(records.frame.loc[list(walked)])
        try:
            task = _task(records.runs[int(chosen.index[0])].config["task"], allow)
        except (
            Exception
        ) as error:  # whatever somebody else's task raises is no reason to write no report
            found.skipped.append(f"{problem} ({error})")
            continue
        if callable(getattr(task, "values", None)):
            target = chosen["target"].dropna()
            kept = [walked[int(index)] for index in chosen.index]
            found.drawn.append(
                Plane(
                    problem,
                    seed_text(chosen),
                    task,
                    kept,
                    float(target.iloc[0]) if len(target) else None,
                )
            )
    return found


def _task(node: dict[str, Any], allow: Sequence[str]) -> Any:
    try:
        return construct(node, allow=allow)
    except ConfigError as error:
        target = str(node.get("_target_"))
        raise ConfigError(
            f"if you trust {target}, add --allow {target.partition('.')[0]} to the command"
        ) from error


def _trail(records: Records, index: int) -> Trail | None:
    """The path of one run, without a last row that a kill has cut.

    None where there is none that can be read.
    """
    run = records.runs[index]
    table = run.walk
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
    return Trail(str(row["optimizer"]), numbers[:, 0], numbers[:, 1:], str(row["status"]))
