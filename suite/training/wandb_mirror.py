"""The mirror of a run in Weights & Biases: offline by default, and never able to fail a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

PERIOD = 2.0  # seconds


class Tracker:
    """Sends rows and the summary to W&B.

    The first failure is printed and ends the mirroring, not the run.
    """

    def __init__(
        self, mode: str, directory: Path, run_id: str, config: Mapping[str, Any], **labels: Any
    ) -> None:
        self._run: Any = None
        self._pending: list[dict[str, Any]] = []
        self._sent = monotonic()
        if mode != "disabled":
            self._guard(lambda: self._start(mode, directory, run_id, config, labels))

    def _start(
        self,
        mode: Any,
        directory: Path,
        run_id: str,
        config: Mapping[str, Any],
        labels: dict[str, Any],
    ) -> None:
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(name, str(directory / "wandb"))
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        # What it would collect about machine and packages stands in environment.json, and costs a
        # run's time to gather.
        settings = wandb.Settings(
            console="off",
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
        )
        self._run = wandb.init(
            dir=directory,
            id=run_id,
            mode=mode,
            resume="allow" if mode == "online" else None,
            config=dict(config),
            settings=settings,
            reinit="finish_previous",
            **labels,
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, row: Mapping[str, Any]) -> None:
        """Take one row of the history, its empty cells left out.

        Rows are sent together, as one alone takes longer.
        """
        if self._run is not None:
            self._pending.append({key: value for key, value in row.items() if value != ""})
            if monotonic() - self._sent > PERIOD:
                self.flush()

    def flush(self) -> None:
        """Send the rows taken so far."""
        pending, self._pending = self._pending, []
        for row in pending:
            if self._run is not None:
                self._guard(partial(self._run.log, row))
        self._sent = monotonic()

    def finish(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """Send what is left and the summary, and close the run."""
        self.flush()
        if self._run is not None:
            self._guard(
                lambda: (
                    self._run.summary.update(dict(summary)),
                    self._run.finish(exit_code=exit_code),
                )
            )

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._run = None
            print(
                f"W&B is left out of this run ({type(error).__name__}: {error}); the local record "
                f"goes on.",
                file=sys.stderr,
            )
