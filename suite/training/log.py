"""A run's rows, on their way to the disk and to the mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from suite.results.directory import History, PathFile, Row
from suite.training.measures.telemetry import LayerFile
from suite.training.wandb_mirror import Tracker


class Log:
    """Rows go to the local history and to its mirror alike.

    The path, where there is one, is flushed with them.
    """

    def __init__(
        self,
        history: History,
        tracker: Tracker,
        path: PathFile | None,
        layers: LayerFile | None = None,
        *,
        kept: bool = True,
    ) -> None:
        self.kept = kept
        self.history = history
        self.tracker = tracker
        self.path = path
        self.layers = layers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """However training ends, what was logged is on disk."""
        self.flush()

    def write(
        self,
        row: Row,
        *,
        flush: bool = False,
        layers: Mapping[tuple[str, str], float] | None = None,
    ) -> None:
        """Append a row; with `flush` all rows so far are on disk afterwards, and the mirror shows this one.

        The mirror gets no other rows: a call to it costs as much as a small optimizer step.
        """
        if not self.kept:
            return
        self.history.add(row)
        if self.layers is not None and layers:
            self.layers.note(row["step"], layers)
        if flush:
            self.flush()
            self.tracker.log(row)

    def flush(self) -> None:
        """Bring the rows so far to the disk."""
        if not self.kept:
            return
        for file in (self.history, self.path, self.layers):
            if file is not None:
                file.flush()

    def rewind(self, step: int) -> None:
        """Drop what was logged after a step."""
        if not self.kept:
            return
        for file in (self.history, self.path, self.layers):
            if file is not None and file.path.exists():
                file.rewind(step)
