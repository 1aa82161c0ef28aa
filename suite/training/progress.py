"""One line on the terminal with a run's progress; nothing where there is no terminal."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PERIOD = 0.2


class ProgressLine:
    """A progress bar with the run's name, loss and metric.

    Attributes:
        shown: whether there is a terminal to show it on.
    """

    def __init__(self, title: str, total: int, *, enabled: bool) -> None:
        self.shown = enabled and sys.stderr.isatty()
        self._updated = 0.0
        self._progress = _bar() if self.shown else None
        if self._progress is not None:
            self._task = self._progress.add_task(title, total=total, report="")

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, step: int, report: str) -> None:
        """Show the steps done and a few words, a few times a second.

        The display costs as much as a small step.
        """
        if self._progress is None:
            return
        now = monotonic()
        if now - self._updated > PERIOD:
            self._updated = now
            self._progress.update(self._task, completed=step, report=report)


def _bar() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[report]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
