"""The device a run trains on: its choice, its clock, its threads, its precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter

import torch

from suite.errors import ConfigError

Clock = Callable[[], float]
PRECISIONS = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


def choose(name: str) -> torch.device:
    """`auto` is CUDA where there is one; else `cpu`, `cuda` or `cuda:1`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device={name}: torch {torch.__version__} sees no CUDA device here; use device=cpu or "
            "auto"
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name} is not a device; use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device={name} has no clock and no memory figures here; use auto, cpu or cuda"
        )
    return device


def clock(device: torch.device) -> Clock:
    """A clock that waits for the device before it is read."""
    if device.type != "cuda":
        return perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return synchronised


def set_threads(wanted: str | int, workers: int) -> int:
    """Give torch its threads.

    `auto` is the machine's cores shared out among the workers of a parallel sweep.
    """
    if wanted != "auto" and (not isinstance(wanted, int) or wanted < 1):
        raise ConfigError(f"threads must be auto or a whole number from 1 on, got {wanted!r}")
    threads = max(1, cores() // workers) if wanted == "auto" else int(wanted)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
