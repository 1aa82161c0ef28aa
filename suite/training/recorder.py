"""The record of a run while it trains: rows, trajectory, telemetry, progress."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from suite.results.directory import History, PathFile, Row, RowFile, RunRecord
from suite.training.averaged_weights import trained
from suite.training.history import Cadence, Due, Snapshot
from suite.training.measures.telemetry import LayerFile, Telemetry
from suite.training.progress import ProgressLine
from suite.training.run_context import RunContext
from suite.training.wandb_mirror import Tracker
from tasks.task import Batch


class Recorder:
    """Rows go to the history on disk and to its mirror; of several processes one records.

    A model of two parameters leaves its trajectory too, and a plan with telemetry its columns and
    its file of layers. While a recorder is entered, a line on the terminal shows the progress;
    however the training ends, all rows are on disk afterwards.

    Attributes:
        telemetry: the measurements of single steps, if the plan asks for them.
        trajectory: the file of a model of two parameters, once the files are open.
    """

    def __init__(
        self, context: RunContext, record: RunRecord, tracker: Tracker, *, shown: bool = False
    ) -> None:
        self.context = context
        self.record = record
        self.tracker = tracker
        self.cadence = Cadence.of(context.plan, context.task.eval_every)
        self.telemetry = _telemetry(context)
        self.trajectory: PathFile | None = None
        self._files: list[RowFile] = []
        self._snapshots: list[Snapshot] = []
        self._line = ProgressLine(context.plan.title, context.plan.steps, enabled=shown)

    @property
    def watches_steps(self) -> bool:
        """Whether `before_step` and `after_step` have anything to do."""
        return self.telemetry is not None or self.trajectory is not None

    def open(self, metrics: Sequence[str], *, resume: bool) -> None:
        """Name the columns; without `resume` the files are new."""
        record = self.record
        self.history = History(record.history, metrics)
        self.layers = LayerFile(record.telemetry)
        # a trajectory whose beginning is lost is not continued
        if self._is_plane() and (record.path.exists() or not resume):
            self.trajectory = PathFile(record.path)
        if self.context.world.leads:
            optional = (self.trajectory, self.telemetry and self.layers)
            self._files = [self.history, *(file for file in optional if file)]

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._line.__exit__(kind, error, trace)
        self.flush()

    def before_step(self, batch: Batch) -> None:
        """Let telemetry see where a step starts, if the step will have a row."""
        due = self.cadence.due(self.context.state.step + 1)
        if self.telemetry is not None and due is not Due.NOTHING:
            self.telemetry.begin(*batch)

    def after_step(self) -> None:
        """Let telemetry and trajectory see where a step ended."""
        if self.telemetry is not None:
            self.telemetry.end()
        self.note_point()

    def note_point(self) -> None:
        """Note where a model of two parameters is."""
        if self.trajectory is not None:
            params = trained(self.context.model)
            point = [float(value) for p in params for value in p.detach().flatten().tolist()]
            self.trajectory.note(self.context.state.step, point)

    def log(
        self,
        validation: dict[str, float] | None = None,
        test: dict[str, float] | None = None,
        *,
        flush: bool = False,
        layers: bool = False,
    ) -> None:
        """Append the row of the present step.

        With `flush` all rows so far are on disk afterwards, and the mirror shows this one. The
        mirror gets no other rows: a call to it costs as much as a small optimizer step.
        """
        if not self.context.world.leads:
            return
        further: Row = {}
        for split, metrics in (("val", validation), ("test", test)):
            if metrics:
                further.update({f"{split}/{name}": value for name, value in metrics.items()})
        if self.telemetry is not None:
            further.update(self.telemetry.row(evaluated=validation is not None))
            if layers and self.telemetry.layers:
                self.layers.note(self.context.state.step, self.telemetry.layers)
        self._snapshots.append(Snapshot.of(self.context, further))
        if flush:
            self.tracker.log(self.flush())

    def show(self) -> None:
        """Show the step, its loss and the metric on the terminal."""
        if self._line.shown:
            state, metric = self.context.state, self.context.task.metric
            report = f"loss {state.loss:.4g}  {metric} {state.value:.4g}"
            self._line.update(state.step, report)

    def flush(self) -> Row:
        """Bring the rows so far to the disk; the last of them."""
        row: Row = {}
        for snapshot in self._snapshots:
            row = snapshot.row(self.context.task.steps_per_epoch, self.context.costs)
            self.history.add(row)
        self._snapshots.clear()
        for file in self._files:
            file.flush()
        return row

    def rewind(self, step: int) -> None:
        """Drop the rows after a step."""
        for file in self._files:
            if file.path.exists():
                file.rewind(step)

    def _is_plane(self) -> bool:
        """Whether this process records a model of two parameters."""
        size = sum(parameter.numel() for parameter in trained(self.context.model))
        return size == 2 and self.context.world.leads


def _telemetry(context: RunContext) -> Telemetry | None:
    config = context.plan.config
    if not config["telemetry"] or not context.world.leads:
        return None
    return Telemetry(
        context.model,
        context.task,
        context.optimizer,
        context.plan.seed,
        products=config["telemetry_products"],
        autocast=context.plan.precision == "bf16",
        parts=config["accumulate"],
    )
