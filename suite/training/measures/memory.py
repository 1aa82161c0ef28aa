"""What an optimizer costs in memory: the bytes of its state, and the high-water mark of a step."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.profiler import profile, record_function

LONGEST = 5.0  # seconds that are profiled: a minute leaves gigabytes of events
MARK = "suite: the measured step"
Step = Callable[[], object]


class Stateful(Protocol):
    """What keeps its tensors in a state dictionary."""

    def state_dict(self) -> dict[str, Any]:
        """The state, in nested dictionaries and lists."""
        ...


def state_bytes(optimizer: Stateful) -> int:
    """The bytes of all tensors in the optimizer's state, each storage counted once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in _tensors(optimizer.state_dict())
    }
    return sum(storages.values())


class TooLongError(Exception):
    """A step made its next oracle call after its time was over."""


class Limited(Counter[str]):
    """Oracle calls, refused once some seconds have passed since this was made."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = perf_counter() + seconds

    def __setitem__(self, key: str, value: int) -> None:
        if perf_counter() > self._end:
            raise TooLongError
        super().__setitem__(key, value)


def peak_bytes(prepare: Callable[[], Step], resident: int, device: torch.device) -> int:
    """The most bytes that tensors occupied during a step, `resident` of them before all this.

    On CUDA it is the allocator's figure; on the CPU the running sum of the profiler's allocation
    events, which is exact and repeatable. The profiler knows only blocks it saw allocated, so what
    the step may free is allocated in `prepare`, which gives the step.
    """
    if device.type == "cuda":
        step = prepare()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    # torch.profiler's own profile would spend seconds on its table of operators
    with _no_collection(), profile(profile_memory=True) as profiler:
        step = prepare()
        with record_function(MARK):
            step()
    trace: Any = profiler.kineto_results
    events = trace.events()
    began: int = next(event.start_ns() for event in events if event.name() == MARK)
    changes: list[tuple[int, int]] = [
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    ]
    level = peak = sum(size for time, size in changes if time < began)
    for time, size in sorted(changes, key=itemgetter(0)):
        if time >= began:
            level += size
            peak = max(peak, level)
    return resident + peak


@contextmanager
def frozen_garbage_collection() -> Iterator[None]:
    """Spare the garbage collector the objects so far: a pass over them costs twenty small steps."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from freeing objects of earlier runs during a measurement."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
