"""What an optimizer costs in memory: the bytes of its state, and the high-water mark of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


class Stateful(Protocol):
    """What keeps its tensors in a state dictionary."""

    def state_dict(self) -> dict[str, Any]:
        """The state, in nested dictionaries and lists."""
        ...


def state_bytes(optimizer: Stateful) -> int:
    """The bytes of all tensors in the optimizer's state, each storage counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(optimizer.state_dict())}
    return sum(storages.values())


def peak_bytes(step: Callable[[], object], resident: int, device: torch.device) -> int:
    """The most bytes that tensors occupied during a step, `resident` of them before it.

    On CUDA it is the allocator's figure; on the CPU the running sum of the profiler's allocation events, which is exact
    and repeatable.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    trace: Any = profiler.profiler
    events = [event for event in trace.kineto_results.events() if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return resident + peak


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
