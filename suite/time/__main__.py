"""Seconds with the machine to oneself.

`python -m suite.time optimizer=kfac,adamw task=resnet [windows=5] [key=value]`.

For each pair the optimizer's steps are timed in windows, and the median of the windows' means is
stored under results/timing. A window is a run of its own from the first step to the last where that
fits, else whole refresh periods after the first ones, so that the spikes of refreshes are in the
mean. The optimizers of a task take turns, window by window, so that what disturbs the machine
disturbs them alike. Another pass tells where a step's seconds go.

    windows=5         how many are taken of each pair
    max_seconds=60    the time for a pair; one that needs more is left out, and that is said
    threads=1         of torch; the figures are those of runs with as many
    phases=true       whether the second pass is made

`experiment=NAME` without `optimizer=` or `task=` times those that the experiment goes over:
`experiment=quick` all pairs of `make compare`, in a quarter of an hour. All other words are
settings of the runs, as `python -m suite` takes them. Nothing else should run on the machine
meanwhile: what others used of it is measured, stored, and said.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from suite import paths
from suite.config import messages, registry, torchrun
from suite.config import overrides as choices
from suite.errors import ConfigError, require_one_of
from suite.results import timings
from suite.time import machine

if TYPE_CHECKING:
    import torch

    from suite.config.plan import Plan
    from suite.time.windows import Extent, Ongoing
    from tasks.task import Task

OWN = (
    "schedule",
    "seed",
)  # settings that a step's seconds do not depend on, and that the timing chooses


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
        words = [f"optimizer={optimizer}", f"task={task}", *own, *self.overrides]
        return shlex.join(["python", "-m", "suite.time", *words])

    def words(self, optimizer: str, task: str) -> list[str]:
        """What makes the run whose steps are timed.

        The learning rate is constant, as a warm-up would begin at zero.
        """
        threads = (
            [] if any(word.startswith("threads=") for word in self.overrides) else ["threads=1"]
        )
        return [
            f"optimizer={optimizer}",
            f"task={task}",
            "schedule=constant",
            *threads,
            *self.overrides,
        ]


@dataclass
class Contender:
    """One pair while it is timed.

    Attributes:
        plan: the run whose steps they are.
        precision: of its numbers, `auto` resolved as in a run's record.
        begin: makes a training from its first step.
        part: what a window holds, once the warm-up has told.
        means: the windows so far, seconds a step.
        others: how many cores others kept busy during each.
        why_not: why it is timed no further.
    """

    plan: Plan
    precision: str
    begin: Callable[[], Ongoing]
    part: Extent | None = None
    means: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    phases: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ""


def measure(request: Request) -> list[timings.Timing]:
    """Time all pairs, a task at a time, and store what was found.

    Raises:
        ConfigError: another timing pass is running; no pair could be timed.
    """
    folder = paths.results() / "timing"
    found = []
    with machine.alone(folder):
        for command in machine.other_runs():
            print(f"Beside this runs: {command}", file=sys.stderr)
        for task in request.tasks:
            for each in measure_task(request, task):
                timings.store(each, folder)
                found.append(each)
    if not found:
        raise ConfigError("No pair could be timed; the reasons stand above.")
    print(f"{len(found)} timing{'s' if len(found) > 1 else ''} in {folder}")
    return found


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
    found = []
    for each in contenders:
        if each.why_not:
            print(
                f"{each.plan.optimizer} on {task}: not timed: {each.why_not}",
                file=sys.stderr,
                flush=True,
            )
            continue
        found.append(_timing(each, request, task))
        print(told(found[-1]), flush=True)
    return found


def _contenders(request: Request, task: str) -> list[Contender]:
    from suite.config import device
    from suite.config.compose import compose_plan
    from suite.training.runner import build_task

    made: dict[str, Task] = {}
    contenders = []
    for optimizer in request.optimizers:
        plan = compose_plan(request.words(optimizer, task), paths.results())
        place = device.choose(plan.config["device"])
        device.set_threads(plan.config["threads"], 1)
        key = repr((plan.config["task"], plan.precision))
        try:
            made[key] = data = made.get(key) or build_task(plan, place)
        except (ValueError, FileNotFoundError, ImportError) as error:
            raise ConfigError(f"{task}: {error}") from error
        precision = plan.precision or str(data.precision).removeprefix("torch.")
        contenders.append(Contender(plan, precision, _beginner(plan, data, place)))
    return contenders


def _beginner(plan: Plan, data: Task, place: torch.device) -> Callable[[], Ongoing]:
    from suite.time.windows import Ongoing

    return lambda: Ongoing(plan, data, place)


def _attempt(contender: Contender, action: Callable[[], None]) -> None:
    """Do something for a pair that is still timed; what stops it concerns no other pair."""
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

    share = (
        SAFETY * request.max_seconds / (request.windows + 1 + request.phases)
    )  # a window's; the warm-up has one
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
    from suite.training import environment

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


def told(found: timings.Timing) -> str:
    """A timing in words."""
    low, high = (in_words(extreme(found.windows)) for extreme in (min, max))
    after = f" after the first {found.first}" if found.first else ""
    windows = f"{len(found.windows)} windows of {found.steps} steps{after}: {low} to {high}; {found.hardware}"
    lines = [
        f"{found.optimizer} on {found.task}: {in_words(found.seconds_per_step)} a step ({windows})"
    ]
    if total := sum(found.phases.values()):
        shares = ", ".join(
            f"{name} {100 * seconds / total:.0f} %" for name, seconds in found.phases.items()
        )
        lines.append(f"  {shares}")
    if found.shared:
        lines.append(
            f"  Others kept {found.others:.2g} cores busy meanwhile: marked as shared; time it "
            f"again alone"
        )
    return "\n".join(lines)


def in_words(seconds: float) -> str:
    """`12.3 ms`: three digits, and the unit that suits them."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    unit = next((unit for unit, size in units.items() if seconds >= size), "µs")
    return f"{seconds / units[unit]:.3g} {unit}"


# -- the command line ------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> Request:
    """The request that a command line makes."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        sys.exit(0)
    own = ("optimizer", "task", "windows", "max_seconds", "phases")
    pairs = [word.partition("=")[::2] for word in arguments]
    given = {name: value for name, value in pairs if name in own}
    overrides = [word for word in arguments if word.partition("=")[0] not in own]
    for name in (word.partition("=")[0] for word in overrides):
        if name in OWN:
            raise ConfigError(
                f"{name}= is not for this command: a step takes as long with any other"
            )
    if torchrun.world_size() > 1:
        raise ConfigError(
            "steps are timed in one process; start python -m suite.time without torchrun"
        )
    for name in choices.typed("experiment", arguments):
        require_one_of("experiment", name, registry.names("experiment"))
    pair = {}
    for group in ("optimizer", "task"):
        pair[group] = given[group].split(",") if group in given else choices.swept(group, arguments)
        if not pair[group]:
            raise ConfigError(__doc__ or "")
        for name in pair[group]:
            require_one_of(group, name, registry.names(group))
    require_one_of("phases", given.get("phases", "true"), ("true", "false"))
    phases = given.get("phases", "true") == "true"
    windows, seconds = given.get("windows", "5"), given.get("max_seconds", "60")
    if not windows.isdigit() or int(windows) < 1:
        raise ConfigError(f"windows must be a whole number from 1 on, got {windows!r}")
    return Request(
        pair["optimizer"], pair["task"], int(windows), _seconds(seconds), phases, overrides
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"max_seconds must be a number above 0, got {text!r}")
    return seconds


def main() -> None:
    """The command line."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with messages.answered(sys.argv[1:]):
        measure(parse(sys.argv[1:]))


if __name__ == "__main__":
    main()
