"""The history of a run: at which steps it has a row, and the row of a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, Self

from suite.config.plan import Plan
from suite.results.directory import COUNTED, Row
from suite.training.measures.oracle_costs import Costs, grad_equivalents
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

    def next_due(self, step: int) -> int:
        """The first step after this one with anything due."""
        if step < self.first:
            return step + 1
        periods = self.eval_every, self.log_every
        return min(self.steps, *(step - step % period + period for period in periods))


class Snapshot(NamedTuple):
    """The values of a step, from which its row is built when it is written.

    A row built in the midst of training costs four times as much, as it finds a cold cache.
    """

    step: int
    seconds: float
    loss: float
    lr: Any
    counts: dict[str, int]
    further: Row

    @classmethod
    def of(cls, context: RunContext, further: Row) -> Self:
        """The present values of a run, with further columns."""
        state, group = context.state, context.optimizer.param_groups[0]
        counts, lr = dict(context.objective.counts), group.get("lr", "")
        return cls(state.step, state.seconds, state.loss, lr, counts, further)

    def row(self, steps_per_epoch: float, costs: Costs) -> Row:
        """The columns of the history."""
        return {
            "step": self.step,
            "epoch": round(self.step / steps_per_epoch, 4),
            "seconds": round(self.seconds, 6),
            "loss": self.loss if self.step else "",
            "lr": self.lr,
            **{name: self.counts.get(name, 0) for name in COUNTED},
            "grad_equivalents": round(grad_equivalents(self.counts, costs), 3),
            **self.further,
        }
