"""Isolated timing: the seconds of a step while nothing else runs on the machine.

    python -m suite.time optimizer=kfac,adamw task=resnet [windows=5] [key=value ...]

For each pair the optimizer's steps are timed in windows, and the median of the windows' means is
stored under results/timing. A window is a run of its own from the first step to the last where that
fits, else whole refresh periods after the first ones, so that the spikes of refreshes are in the
mean. The optimizers of a task take turns, window by window, so that a disturbance of the machine
disturbs them alike. A second pass measures the phases of a step.

    windows=5         the number of windows of each pair
    max_seconds=60    the time for a pair; a pair that needs more is left out, with a message
    threads=1         the threads of torch; the timing holds for runs with as many
    phases=true       whether the second pass is made

`experiment=NAME` without `optimizer=` or `task=` times those that the experiment goes over:
`experiment=quick` all pairs of `make compare`, in a quarter of an hour. All other words are
settings of the runs, as `python -m suite` takes them. The cores that other processes use meanwhile
are measured, stored and printed.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from suite import paths
from suite.config import messages, overrides, registry, torchrun, words
from suite.errors import ConfigError, require_one_of
from suite.results import timings
from suite.time import machine

if TYPE_CHECKING:
    import torch

    from suite.config.plan import Plan
    from suite.time.windows import Extent, TimedRun
    from tasks.task import Task

CHOSEN = ("schedule", "seed")  # by the timing: a step's seconds do not depend on them


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        optimizers, tasks: the pairs are their product.
        windows: how many for each pair.
        max_seconds: the time for a pair.
        phases: whether to find out where the seconds go.
        overrides: further settings, as typed.
    """

    optimizers: Sequence[str]
    tasks: Sequence[str]
    windows: int = 5
    max_seconds: float = 60.0
    phases: bool = True
    overrides: Sequence[str] = ()

    def command(self, optimizer: str, task: str) -> str:
        """What repeats this for one pair."""
        own = [f"windows={self.windows}", f"max_seconds={self.max_seconds:g}"]
        own += [] if self.phases else ["phases=false"]
        pair = [f"optimizer={optimizer}", f"task={task}"]
        return shlex.join(["python", "-m", "suite.time", *pair, *own, *self.overrides])

    def plan(self, optimizer: str, task: str) -> Plan:
        """The run whose steps are timed.

        The learning rate is constant, as a warm-up would begin at zero.

        Raises:
            ConfigError: a name or a value that does not exist.
        """
        from suite.config.compose import compose_plan

        pair = [f"optimizer={optimizer}", f"task={task}", "schedule=constant"]
        threads = [] if overrides.typed("threads", self.overrides) else ["threads=1"]
        return compose_plan([*pair, *threads, *self.overrides], paths.results())


@dataclass
class Contender:
    """One pair while it is timed.

    Attributes:
        plan: the run whose steps are timed.
        precision: of its numbers, `auto` resolved as in a run's record.
        begin: makes a training from its first step.
        part: the steps of a window, known after the warm-up.
        means: the windows so far, seconds a step.
        others: the number of cores that other processes used during each window.
        phases: the seconds of each phase of a step.
        why_not: the reason to time the pair no further.
    """

    plan: Plan
    precision: str
    begin: Callable[[], TimedRun]
    part: Extent | None = None
    means: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    phases: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ""


def measure(request: Request) -> list[timings.Timing]:
    """Time all pairs, a task at a time, and store the timings.

    Raises:
        ConfigError: another timing pass is running; no pair could be timed.
    """
    folder = paths.results() / "timing"
    results = []
    with machine.alone(folder):
        for command in machine.other_runs():
            print(f"Beside this runs: {command}", file=sys.stderr)
        for task in request.tasks:
            for each in measure_task(request, task):
                timings.store(each, folder)
                results.append(each)
    if not results:
        raise ConfigError("No pair could be timed; the reasons stand above.")
    print(f"{len(results)} timing{'s' if len(results) > 1 else ''} in {folder}")
    return results


def measure_task(request: Request, task: str) -> list[timings.Timing]:
    """Time the optimizers of one task, taking turns."""
    contenders = _contenders(request, task)
    for each in contenders:
        _attempt(each, partial(_prepare, each, request))
    for turn in range(request.windows):
        order = contenders[turn % len(contenders) :] + contenders[: turn % len(contenders)]
        for each in order:
            _attempt(each, partial(_take_window, each, request))
    for each in contenders if request.phases else ():
        _attempt(each, partial(_find_phases, each))
    return list(_reported(contenders, request, task))


def _reported(
    contenders: Sequence[Contender], request: Request, task: str
) -> Iterator[timings.Timing]:
    """The timings, each with a line for the user; a line alone for a pair without a timing."""
    for each in contenders:
        if each.why_not:
            message = f"{each.plan.optimizer} on {task}: not timed: {each.why_not}"
            print(message, file=sys.stderr, flush=True)
            continue
        timing = _timing(each, request, task)
        print(describe(timing), flush=True)
        yield timing


def _contenders(request: Request, task: str) -> list[Contender]:
    from suite.config import device
    from suite.training.runner import build_task

    built: dict[str, Task] = {}
    contenders = []
    for optimizer in request.optimizers:
        plan = request.plan(optimizer, task)
        place = device.choose(plan.config["device"])
        device.set_threads(plan.config["threads"], 1)
        key = repr((plan.config["task"], plan.precision))
        try:
            built[key] = data = built.get(key) or build_task(plan, place)
        except (ValueError, FileNotFoundError, ImportError) as error:
            raise ConfigError(f"{task}: {error}") from error
        precision = plan.precision or str(data.precision).removeprefix("torch.")
        contenders.append(Contender(plan, precision, _beginner(plan, data, place)))
    return contenders


def _beginner(plan: Plan, data: Task, place: torch.device) -> Callable[[], TimedRun]:
    from suite.time.windows import TimedRun

    return lambda: TimedRun(plan, data, place)


def _attempt(contender: Contender, action: Callable[[], None]) -> None:
    """Run an action for a pair that is still timed; its failure concerns no other pair."""
    from optimizers import UnsupportedError
    from suite.time.windows import NotTimedError

    if contender.why_not:
        return
    try:
        action()
    except ConfigError:
        raise
    except (NotTimedError, UnsupportedError) as error:
        contender.why_not = str(error)
    except Exception as error:
        contender.why_not = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _prepare(each: Contender, request: Request) -> None:
    from suite.time.windows import SAFETY, extent, period_of, warm_up

    windows = request.windows + 1 + request.phases  # the warm-up takes the time of one
    share = SAFETY * request.max_seconds / windows
    step = warm_up(each.begin, period_of(each.plan.config["optimizer"]), share)
    each.part = extent(step, each.plan, share)


def _take_window(each: Contender, request: Request) -> None:
    from suite.time.windows import window

    assert each.part is not None
    watch = machine.Watch()
    each.means.append(window(each.begin, each.part, request.max_seconds))
    cores = watch.cores()
    each.others += [] if cores is None else [cores]


def _find_phases(each: Contender) -> None:
    from suite.time.windows import phases

    assert each.part is not None
    each.phases = phases(each.begin, each.part)


def _timing(each: Contender, request: Request, task: str) -> timings.Timing:
    import torch

    from suite.config import device
    from suite.results.frame import hardware
    from suite.time.windows import period_of
    from suite.training.measures import environment

    assert each.part is not None
    plan, place = each.plan, device.choose(each.plan.config["device"])
    others = median(each.others) if each.others else None
    return timings.Timing(
        key=timings.speed_key({**plan.config, "precision": each.precision, "device": place.type}),
        task=plan.task,
        optimizer=plan.optimizer,
        hardware=hardware(place.type, environment.describe(place, torch.get_num_threads())),
        seconds_per_step=median(each.means),
        windows=tuple(each.means),
        phases=each.phases,
        command=request.command(plan.optimizer, task),
        steps=each.part.steps * each.part.repeats,
        first=each.part.first,
        period=period_of(plan.config["optimizer"]),
        others=None if others is None else round(others, 3),
        shared=others is not None and others > machine.BUSY,
    )


def describe(timing: timings.Timing) -> str:
    """A timing in words."""
    low, high = (in_words(extreme(timing.windows)) for extreme in (min, max))
    after = f" after the first {timing.first}" if timing.first else ""
    count = f"{len(timing.windows)} windows of {timing.steps} steps{after}"
    step = in_words(timing.seconds_per_step)
    lines = [
        f"{timing.optimizer} on {timing.task}: {step} a step "
        f"({count}: {low} to {high}; {timing.hardware})"
    ]
    if total := sum(timing.phases.values()):
        shares = (f"{name} {100 * part / total:.0f} %" for name, part in timing.phases.items())
        lines.append(f"  {', '.join(shares)}")
    if timing.shared:
        lines.append(
            f"  Others kept {timing.others:.2g} cores busy meanwhile: marked as shared; time it "
            f"again alone"
        )
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    """`12.3 ms`: three digits, and the unit that suits them."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit = next((unit for unit, size in units.items() if seconds >= size), "µs")
    return f"{seconds / units[unit]:.3g} {unit}"


# -- the command line ------------------------------------------------------------------------------


OWN: Mapping[str, words.Reader] = {
    "optimizer": words.names,
    "task": words.names,
    "windows": words.positive_int,
    "max_seconds": words.positive_number,
    "phases": words.truth,
}


def parse(arguments: Sequence[str]) -> Request:
    """The request that a command line makes.

    Raises:
        ConfigError: an unknown name, a value of the wrong kind, or several processes.
    """
    own, settings = words.read(
        arguments, OWN, dict.fromkeys(CHOSEN, "a step takes as long with any other")
    )
    if torchrun.world_size() > 1:
        raise ConfigError(
            "steps are timed in one process; start python -m suite.time without torchrun"
        )
    for name in overrides.typed("experiment", arguments):
        require_one_of("experiment", name, registry.names("experiment"))
    optimizers = own.pop("optimizer", overrides.swept("optimizer", arguments))
    tasks = own.pop("task", overrides.swept("task", arguments))
    if not (optimizers and tasks):
        raise words.lacking(__doc__, optimizer=optimizers, task=tasks)
    return Request(optimizers, tasks, **own, overrides=settings)


def main() -> None:
    """The command line."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    words.answer_help(sys.argv[1:], __doc__)
    with messages.answered(sys.argv[1:]):
        measure(parse(sys.argv[1:]))


if __name__ == "__main__":
    main()
