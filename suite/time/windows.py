"""Seconds of optimizer steps in windows: what is timed, and for how long."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from optimizers.phases import OTHER, Stopwatch
from suite.config.plan import Plan
from suite.training.measures.memory import frozen_garbage_collection
from suite.training.run_context import build_context
from suite.training.seeds import stream
from suite.training.training import Steps
from suite.training.warm_up import start_streams
from tasks.task import Task

SHORTEST = 0.2  # seconds of a window: shorter ones are noise
SAFETY = 0.8  # of the time allowed is planned for
PERIODIC = re.compile(r"(^|_)(period|frequency|freq|every|interval)$")
BEGINNING = ("start", "warmup", "warmup_steps")  # steps at which a method changes how it works


class NotTimedError(Exception):
    """Why a pair has no timing, in words."""


@dataclass(frozen=True)
class Extent:
    """How much of a run a window is.

    Attributes:
        first: steps that are taken, and not timed, before the window.
        steps: steps that are timed.
        repeats: how often the window does this, each time with a new model.
    """

    first: int
    steps: int
    repeats: int = 1


def period_of(node: Mapping[str, Any]) -> int:
    """The number of steps after which an optimizer's refreshes repeat.

    The least common multiple of its periods.
    """
    own = [value for name, value in node.items() if PERIODIC.search(name) and _count(value)]
    inner = [period_of(value) for value in node.values() if isinstance(value, Mapping)]
    return math.lcm(1, *own, *inner)


def beginning_of(node: Mapping[str, Any]) -> int:
    """The number of first steps in which an optimizer does not work yet as it does later."""
    own: list[int] = [value for name, value in node.items() if name in BEGINNING and _count(value)]
    inner = [beginning_of(value) for value in node.values() if isinstance(value, Mapping)]
    return max([0, *own, *inner])


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def extent(step: float, plan: Plan, budget: float) -> Extent:
    """What a window of `budget` seconds holds, at about `step` seconds a step.

    The whole run where it fits, as often as `SHORTEST` asks for: then the mean is that of the run,
    with its first steps, its refreshes, and all that changes on its way. Else whole periods after
    the first ones.

    Raises:
        NotTimedError: not even one period fits.
    """
    node = plan.config["optimizer"]
    period, fitting = period_of(node), int(budget / step) if step > 0 else plan.steps
    if fitting >= plan.steps:
        return Extent(
            0, plan.steps, max(1, math.ceil(SHORTEST / (step * plan.steps))) if step > 0 else 1
        )
    first = max(period, beginning_of(node))
    whole = (fitting - first) // period * period
    if whole < 1:
        needed = (first + period) * step
        raise NotTimedError(
            f"a window has to hold {period} step{'s' if period > 1 else ''}, a whole period, after "
            f"the first {first}: "
            f"about {needed:.3g} s, and one has {budget:.3g} s. Give it more: "
            f"max_seconds=..."
        )
    return Extent(first, whole)


class TimedRun:
    """The optimizer's steps of a run, with no evaluation and no record."""

    def __init__(self, plan: Plan, task: Task, place: torch.device) -> None:
        self.context = build_context(plan, task, place)
        start_streams(self.context)
        torch.manual_seed(stream(plan.seed, "dropout"))
        self._steps = Steps(self.context)

    def step(self, watch: Stopwatch | None = None) -> float:
        """Take a step, on the clock that runs have; its seconds.

        Raises:
            NotTimedError: its loss is not finite, or too large to come back.
        """
        context = self.context
        objective = self._steps.before()
        with watch or nullcontext():
            start = context.clock()
            loss = context.optimizer.step(objective)
            seconds = context.clock() - start
        value = float(loss)
        if not self._steps.after(value, seconds):
            raise NotTimedError(
                f"it diverged at step {context.state.step} (loss {value:.3g}), and steps of such a "
                "run say nothing"
            )
        return seconds


def warm_up(begin: Callable[[], TimedRun], period: int, budget: float) -> float:
    """Untimed steps of a training of its own: a period of them, three at least.

    About how long one takes.

    Raises:
        NotTimedError: they take longer than all that is allowed, or diverge.
    """
    run = begin()
    seconds: list[float] = []
    while len(seconds) < max(3, period) and sum(seconds) < budget:
        seconds.append(run.step())
    spent = sum(seconds)
    if spent >= budget and len(seconds) < 3:
        raise NotTimedError(
            f"{len(seconds)} of its steps took {spent:.3g} s, and it has {budget:.3g} s. "
            f"max_seconds=..."
        )
    later = seconds[1:] or seconds
    return sum(later) / len(later)


def window(begin: Callable[[], TimedRun], part: Extent, limit: float = math.inf) -> float:
    """The mean seconds of a window's steps.

    Raises:
        NotTimedError: they take more than `limit` seconds together, or diverge.
    """
    total = untimed = 0.0
    gc.collect()
    with frozen_garbage_collection():
        for _ in range(part.repeats):
            run = begin()
            for number in range(part.first + part.steps):
                seconds = run.step()
                if number < part.first:
                    untimed += seconds
                else:
                    total += seconds
                if untimed + total > limit:
                    raise NotTimedError(
                        f"its steps became slower: {number + 1} of a window's "
                        f"{part.first + part.steps} took more than "
                        f"the {limit:g} s for all windows. max_seconds=..."
                    )
    return total / (part.repeats * part.steps)


def phases(begin: Callable[[], TimedRun], part: Extent) -> dict[str, float]:
    """Seconds per step by phase, the largest first and `other` last; their sum is the step's."""
    run = begin()
    watch = Stopwatch(run.context.clock)
    gc.collect()
    with frozen_garbage_collection():
        for _ in range(part.first):
            run.step()
        for _ in range(part.steps):
            run.step(watch)
    mean = {name: seconds / part.steps for name, seconds in watch.seconds.items()}
    return dict(sorted(mean.items(), key=lambda item: (item[0] == OTHER, -item[1])))
