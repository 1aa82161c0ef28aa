"""Evaluations of a run: the metrics at the evaluation weights, and what they say of the target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from suite.training.averaged_weights import evaluation_weights
from suite.training.optimizer import averages
from suite.training.run_context import RunContext
from suite.training.seeds import stream

Metrics = dict[str, float]


class Evaluator:
    """Computes the metrics of a run's model in one process, for all processes."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    def evaluate(self, split: str) -> Metrics:
        """The metrics at the evaluation weights."""
        context = self.context
        with self.evaluation_weights(timed=split == "val"):
            metrics = context.task.evaluate(context.model, split) if context.world.leads else {}
        self._require_unison()
        return context.ranks.broadcast_object(metrics)

    @contextmanager
    def evaluation_weights(self, timed: bool = False) -> Iterator[None]:
        """Set the model to the weights that the optimizer is evaluated at.

        The switch is part of the method: with `timed` its seconds are on the run's clock, and its
        forward passes are counted. That is so once for each evaluation; a final test and a final
        checkpoint use what the evaluation has computed.
        """
        context = self.context
        optimizer, ranks = context.optimizer, context.ranks
        if not averages(optimizer) or not context.state.step:
            yield  # before the first step all weights are the same
            return
        seed = stream(context.plan.seed, "statistics")
        with evaluation_weights(
            context.model,
            optimizer,
            context.task,
            seed,
            context.clock,
            renews=context.world.leads,
        ) as switch:
            yield
        if timed:
            (seconds,) = ranks.all_reduce_max((switch.seconds,))
            context.state.seconds += seconds
            context.objective.counts["value"] += switch.passes

    def judge(self, metrics: Metrics) -> None:
        """Note the last and the best value of the metric, and when it reached the target first."""
        context, state = self.context, self.context.state
        sign = 1.0 if context.task.direction == "max" else -1.0
        state.judge(metrics[context.task.metric], sign)
        target = context.plan.config["target"]
        if target is not None and not state.target and sign * state.value >= sign * target:
            state.target = {
                "step": state.step,
                "seconds": state.seconds,
                "grad_equivalents": context.grad_equivalents(),
            }

    def _require_unison(self) -> None:
        """Every process takes the same steps: a difference of one bit is a fault that grows."""
        context = self.context
        if context.ranks.size == 1:
            return
        sums = torch.stack(
            [p.detach().double().sum().cpu() for p in context.model.parameters()]
        ).nan_to_num()
        most, least = context.ranks.all_reduce_max((float(sums.sum()), -float(sums.sum())))
        if most != -least:
            raise RuntimeError(
                f"the ranks' parameters have come apart by step {context.state.step}: "
                f"{context.plan.optimizer} does something that differs between processes; run it "
                "in one process"
            )
