"""The record of a run on disk: its directory, its history, its summary, its checkpoint."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from suite.files import to_json, write_atomically
from suite.results.status import Status

COUNTED = ("value", "grad", "hvp", "ggnvp", "jac")
EVERY_POINT = 2000  # points of a path that are all kept
PATH_COLUMNS = ("step", "x", "y")
COLUMNS = ("step", "epoch", "seconds", "loss", "lr", *COUNTED, "grad_equivalents")
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text in a fifth of the time

Row = dict[str, Any]


class RunRecord:
    """The directory `results/runs/<task>/<optimizer>/<run_id>/` and its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "config.yaml"
        self.history = directory / "history.csv"
        self.path = directory / "path.csv"
        self.telemetry = directory / "telemetry.csv"
        self.summary = directory / "summary.json"
        self.environment = directory / "environment.json"
        self.checkpoint = directory / "checkpoint.pt"

    def status(self) -> Status | None:
        """How the run ended, or None while it has not."""
        try:
            return Status(json.loads(self.summary.read_text())["status"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def resumable(self) -> bool:
        """Whether an earlier process left something to go on from."""
        return self.checkpoint.exists() and self.history.exists()

    def read_summary(self) -> dict[str, Any]:
        """The summary as it was written."""
        content: dict[str, Any] = json.loads(self.summary.read_text())
        return content

    def begin(
        self, config: Mapping[str, Any], environment: Mapping[str, Any], *, resume: bool
    ) -> None:
        """Write what is known before the first step.

        A run that does not resume starts from nothing.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.summary.unlink(missing_ok=True)
        if not resume:
            self.history.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            self.telemetry.unlink(missing_ok=True)
            self.checkpoint.unlink(missing_ok=True)
        write_atomically(
            self.config, yaml.dump(dict(config), Dumper=DUMPER, sort_keys=False, allow_unicode=True)
        )
        self.describe_environment(environment)

    def join_experiment(self, name: str | None) -> None:
        """Record that a finished run belongs to the experiment that asked for it again."""
        config = yaml.safe_load(self.config.read_text())
        if name is not None and config.get("experiment") != name:
            write_atomically(
                self.config, yaml.safe_dump({**config, "experiment": name}, sort_keys=False)
            )

    def describe_environment(self, environment: Mapping[str, Any]) -> None:
        """Replace what is said of the machine."""
        write_atomically(self.environment, to_json(environment))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, the sign that the run has ended."""
        write_atomically(self.summary, to_json(summary))


class RowFile:
    """The rows of a CSV file.

    Kept in memory between two flushes, never rewritten but when a run resumes.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = columns
        self._pending: list[Row] = []

    def add(self, row: Row) -> None:
        """Append a row; it reaches the disk at the next flush."""
        self._pending.append(row)

    def flush(self) -> None:
        """Append the pending rows to the file, with the header if it is new."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            self._write(file, self._pending, header=new)
        self._pending.clear()

    def rewind(self, step: float) -> None:
        """Drop the rows after a step, those a checkpoint does not know of.

        A kill may have left the last one half.
        """
        with self.path.open(newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if None not in row.values() and int(row["step"]) <= step
            ]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            self._write(file, rows, header=True)
        os.replace(temporary, self.path)

    def _write(self, file: Any, rows: Iterable[Row], *, header: bool) -> None:
        writer = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)


class History(RowFile):
    """history.csv: a row for each logged step.

    Columns of telemetry are added when they are first met.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        super().__init__(
            path, [*COLUMNS, *(f"{split}/{name}" for split in ("val", "test") for name in metrics)]
        )
        self._known = set(self.columns)
        self._widened = False

    def add(self, row: Row) -> None:
        """Note a row; new telemetry widens the header."""
        self._widen(row)
        super().add(row)

    def flush(self) -> None:
        """Write the pending rows, and all earlier rows again where the header was widened."""
        if self._widened and self.path.exists():
            super().rewind(math.inf)  # the rows so far, under the new header
        self._widened = False
        super().flush()

    def rewind(self, step: float) -> None:
        """Drop the rows after a step, under the header that the file has."""
        with self.path.open(newline="") as file:
            self._widen(next(csv.reader(file), []))
        self._widened = False
        super().rewind(step)

    def _widen(self, names: Iterable[str]) -> None:
        if self._known.issuperset(names):
            return
        new = [n for n in names if n.startswith("telemetry/") and n not in self._known]
        if new:
            self.columns = [*self.columns, *new]
            self._known.update(new)
            self._widened = True


class PathFile(RowFile):
    """path.csv: where a model of two parameters stood before the first step and after each step.

    From step EVERY_POINT on only every second point is kept, from twice that on every fourth, and
    so on, which is still more than a logarithmic axis can show; the point of the latest step is
    written at every flush.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, PATH_COLUMNS)
        self._latest: Row | None = None

    def note(self, step: int, point: Sequence[float]) -> None:
        """The point after a step; it reaches the disk at the next flush."""
        self._latest = dict(zip(PATH_COLUMNS, (step, *point), strict=True))
        if step % _stride(step) == 0:
            self._keep_latest()

    def flush(self) -> None:
        """Write the pending points, the latest one among them."""
        self._keep_latest()
        super().flush()

    def _keep_latest(self) -> None:
        if self._latest is not None:
            self.add(self._latest)
            self._latest = None


def _stride(step: int) -> int:
    """1 up to EVERY_POINT, and twice as much each time the step has doubled."""
    return 1 << (max(0, step - 1) // EVERY_POINT).bit_length()
