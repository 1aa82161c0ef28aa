"""The phases of a step: marks in the methods, and a stopwatch that adds up their seconds.

    with phase("inverse"):
        ...
    @phased("line search")
    def search(...): ...

A mark costs a call and a comparison (about 0.2 microseconds) while no stopwatch runs. A stopwatch
splits what it spans: an inner phase stops the clock of the outer one, so that no second counts
twice, and what no phase claims is `other`. Forward and backward passes are the one exception:
within another phase they belong to it, since the trial points of a line search are its cost, and
the passes behind a curvature that of the curvature.

    forward      the loss of the step's own mini-batch
    backward     its gradient
    curvature    products with it, Jacobians, statistics of layers, pairs and windows of gradients
    inverse      decompositions, roots, and solving with it, products left out
    precondition applying what is kept to a gradient
    line search  trials of a step: its length, its trust region, its damping
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Literal, ParamSpec, Self, TypeVar, get_args

Phase = Literal["forward", "backward", "curvature", "inverse", "precondition", "line search"]
PHASES: tuple[Phase, ...] = get_args(Phase)
PASSES = frozenset({"forward", "backward"})
OTHER = "other"

P = ParamSpec("P")
R = TypeVar("R")


class _Unmeasured:
    """The mark while no stopwatch runs."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *failure: object) -> None:
        pass


class _Claim:
    """The seconds inside the `with` belong to a phase."""

    __slots__ = ("name", "watch")

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self.watch = watch
        self.name = name

    def __enter__(self) -> None:
        self.watch.lap()
        self.watch.open.append(self.name)

    def __exit__(self, *failure: object) -> None:
        self.watch.lap()
        self.watch.open.pop()


class Stopwatch:
    """Adds up the seconds of each phase while it is entered, for one step or many.

    One at a time; it sees the marks of the entering thread.

    Args:
        clock: seconds; for a GPU a clock that waits for it. Then every edge of a phase does, and a
            step takes longer than it would unwatched.

    Attributes:
        seconds: by phase, and `other`; their sum is all the time that the watch was entered.

    Raises:
        RuntimeError: it is entered while one is.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self.open: list[str] = []
        self._clock = clock
        self._since = 0.0

    def __enter__(self) -> Self:
        global _watch
        if _watch is not None:
            raise RuntimeError(
                "a stopwatch is running already; phases are measured by one at a time"
            )
        _watch = self
        self.open = [OTHER]
        self._since = self._clock()
        return self

    def __exit__(self, *failure: object) -> None:
        global _watch
        self.lap()
        self.open = []
        _watch = None

    def claim(self, name: str) -> AbstractContextManager[None]:
        """The mark of a phase; one that changes nothing for a pass within another phase."""
        return _UNMEASURED if name in PASSES and len(self.open) > 1 else _Claim(self, name)

    def lap(self) -> None:
        """Give the seconds since the last lap to the phase that is open."""
        now = self._clock()
        name = self.open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


_UNMEASURED = _Unmeasured()
_watch: Stopwatch | None = None


def phase(name: Phase) -> AbstractContextManager[None]:
    """Say what the seconds inside the `with` are spent on."""
    return _UNMEASURED if _watch is None else _watch.claim(name)


def phased(name: Phase) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Say what the seconds of a function are spent on."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def marked(*args: P.args, **kwargs: P.kwargs) -> R:
            if _watch is None:
                return function(*args, **kwargs)
            with _watch.claim(name):
                return function(*args, **kwargs)

        return marked

    return mark
