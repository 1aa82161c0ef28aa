"""The history of a run: at which steps it has a row, and the row of a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

from suite.config.plan import Plan
from suite.results.directory import COUNTED, Row
from suite.training.run_context import RunContext

LOGGED_ROWS = 200
# steps that are logged one by one, where second-order methods do most of their work
FIRST_ROWS = 100


class Due(Enum):
    """What follows a step."""

    NOTHING = auto()
    ROW = auto()
    EVALUATION = auto()
    END = auto()


@dataclass(frozen=True)
class Cadence:
    """The steps of a run with a row and with an evaluation.

    Attributes:
        steps: the length of the run.
        eval_every: steps between two evaluations.
        log_every: steps between two rows.
        first: steps at the beginning with a row each.
    """

    steps: int
    eval_every: int
    log_every: int
    first: int = 0

    @classmethod
    def of(cls, plan: Plan, eval_every: int) -> Self:
        """The cadence that a plan asks for."""
        steps, log_every = plan.steps, plan.config["log_every"]
        if log_every:
            return cls(steps, eval_every, log_every)
        return cls(steps, eval_every, max(1, steps // LOGGED_ROWS), FIRST_ROWS)

    def due(self, step: int) -> Due:
        """What follows a step that used up no budget."""
        if step % self.eval_every == 0 or step == self.steps:
            return Due.END if step == self.steps else Due.EVALUATION
        return Due.ROW if step <= self.first or step % self.log_every == 0 else Due.NOTHING


def row_of(
    context: RunContext,
    validation: dict[str, float] | None = None,
    test: dict[str, float] | None = None,
) -> Row:
    """The columns of the present step, telemetry left out."""
    state, counts = context.state, context.objective.counts
    row: Row = {
        "step": state.step,
        "epoch": round(state.step / context.task.steps_per_epoch, 4),
        "seconds": round(state.seconds, 6),
        "loss": state.loss if state.step else "",
        "lr": context.optimizer.param_groups[0].get("lr", ""),
        **{name: counts[name] for name in COUNTED},
        "grad_equivalents": round(context.grad_equivalents(), 3),
    }
    for split, metrics in (("val", validation), ("test", test)):
        row.update({f"{split}/{name}": value for name, value in (metrics or {}).items()})
    return row
