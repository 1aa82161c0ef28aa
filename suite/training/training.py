"""The loop of a run, the same for every optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from optimizers import Objective
from suite.results.status import Status
from suite.training.checkpoint import Checkpoint
from suite.training.evaluation import Evaluator
from suite.training.history import Due
from suite.training.measures.memory import frozen_garbage_collection
from suite.training.recorder import Recorder
from suite.training.run_context import RunContext
from tasks.task import Batch

# takes the step and the metric at each evaluation; a reason to stop, or None
Watch = Callable[[int, float], str | None]


class Steps:
    """The steps of a run, but for the optimizer's part of them.

    Attributes:
        batch: the mini-batch of the present step.
    """

    def __init__(self, context: RunContext) -> None:
        self._state = context.state
        self._schedule = context.schedule
        self._objective = context.objective
        self._batches = context.minibatches.since(context.state.step)
        self.batch: Batch

    def before(self) -> Objective:
        """The loss of the next mini-batch."""
        self.batch = batch = next(self._batches)
        return self._objective.on(*batch)

    def after(self, loss: float, seconds: float) -> bool:
        """Count the step and move the schedule; whether the loss is of a believable size."""
        if self._schedule is not None:
            self._schedule.step()
        return self._state.advance(loss, seconds)


class Training:
    """The loop: steps, and after each of them what is due.

    Args:
        context: the run.
        evaluator: computes the metrics.
        checkpoint: keeps what a continuation needs.
        recorder: keeps the history.
        watch: may end the run at an evaluation; the run can be continued like one that was
            interrupted.

    Attributes:
        stop_reason: the words of `watch`, where it has ended the run.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        evaluator: Evaluator,
        checkpoint: Checkpoint,
        recorder: Recorder,
        watch: Watch | None = None,
    ) -> None:
        config = context.plan.config
        self.context = context
        self.evaluator = evaluator
        self.checkpoint = checkpoint
        self.recorder = recorder
        self.watch = watch
        self.stop_reason = ""
        self._state = context.state
        self._max_seconds = config["max_seconds"] or math.inf
        self._max_grad_equivalents = config["max_grad_equivalents"]
        self._has_budget = self._max_grad_equivalents is not None or config["max_seconds"]
        self._watches_steps = False
        self._is_shared = context.ranks.size > 1

    def run(self, *, resume: bool) -> Status:
        """Train to the end; only the optimizer's own step is on the clock."""
        clock, optimizer = self.context.clock, self.context.optimizer
        with self.recorder:
            status = self._begin(resume=resume)
            with frozen_garbage_collection():
                while status is None:
                    objective = self._before()
                    start = clock()
                    loss = optimizer.step(objective)
                    seconds = clock() - start
                    status = self._after(loss, seconds)
        return status

    def _begin(self, *, resume: bool) -> Status | None:
        """Log the untrained model, or go on from the checkpoint; the status if no step is left."""
        recorder, untrained = self.recorder, self.evaluator.evaluate("val")
        recorder.open(list(untrained), resume=resume)
        if resume:
            self.checkpoint.restore()
            recorder.rewind(self._state.step)
        else:
            self.evaluator.judge(untrained)
            recorder.note_point()
            recorder.log(untrained, flush=True)
        self._steps = Steps(self.context)
        self._watches_steps = recorder.watches_steps
        self._next_due = recorder.cadence.next_due(self._state.step)
        return Status.DONE if self._state.step >= self.context.plan.steps else None

    def _before(self) -> Objective:
        """The objective of the next step."""
        objective = self._steps.before()
        if self._watches_steps:
            self.recorder.before_step(self._steps.batch)
        return objective

    def _after(self, loss: Tensor | float, seconds: float) -> Status | None:
        """Count the step and do what is due; the status if the run ends here."""
        world, asked = self.context.world, 0.0
        if self._is_shared:
            # the slowest rank's time, and whether any of them is asked to end
            seconds, asked = world.ranks.all_reduce_max((seconds, world.asked))
        sound = self._steps.after(float(loss), seconds)
        if self._watches_steps:
            self.recorder.after_step()
        if not sound:
            self.recorder.log(flush=True)
            return Status.DIVERGED
        if self._has_budget or self._state.step >= self._next_due:
            status = self._do(self._due())
            if status is not None:
                return status
        if asked or (world.asked and not self._is_shared):
            self.recorder.flush()
            self.checkpoint.save()
            return Status.INTERRUPTED
        return None

    def _due(self) -> Due:
        """What follows the step that has been taken."""
        most = self._max_grad_equivalents
        spent = self._state.seconds > self._max_seconds or (
            most is not None and self.context.grad_equivalents() > most
        )
        return Due.END if spent else self.recorder.cadence.due(self._state.step)

    def _do(self, due: Due) -> Status | None:
        """Log, or evaluate as well; the status if the run ends here."""
        if due is Due.NOTHING:
            return None
        self._next_due = self.recorder.cadence.next_due(self._state.step)
        status = None
        if due is Due.ROW:
            self.recorder.log()
        else:
            status = self._evaluate(last=due is Due.END)
        self.recorder.show()
        return status

    def _evaluate(self, *, last: bool) -> Status | None:
        """Evaluate, log, checkpoint; the status if the run ends here.

        The test split is looked at once, at the end.
        """
        evaluator, checkpoint = self.evaluator, self.checkpoint
        metrics = evaluator.evaluate("val")
        if not math.isfinite(metrics[self.context.task.metric]):
            self.recorder.log(flush=True)
            return Status.DIVERGED
        evaluator.judge(metrics)
        status = self._ending(last=last)
        tested = evaluator.evaluate("test") if status is not None else {}
        self.recorder.log(metrics, tested, flush=True, layers=True)
        if status is not None:
            with evaluator.evaluation_weights():
                checkpoint.save()
        elif self._is_stopped():
            checkpoint.save()
            return Status.INTERRUPTED
        elif self.context.ranks.broadcast_object(checkpoint.is_due()):
            checkpoint.save()
        return status

    def _ending(self, *, last: bool) -> Status | None:
        """The status of a run that ends with an evaluation."""
        plan = self.context.plan
        if plan.config["stop_at_target"] and self._state.target:
            return Status.TARGET
        if not last:
            return None
        return Status.DONE if self._state.step == plan.steps else Status.TIMEOUT

    def _is_stopped(self) -> bool:
        """Whether the watch ends the run."""
        if self.watch is not None:
            leads, state = self.context.world.leads, self._state
            reason = (self.watch(state.step, state.value) or "") if leads else ""
            self.stop_reason = self.context.ranks.broadcast_object(reason)
        return bool(self.stop_reason)
