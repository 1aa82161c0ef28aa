"""The place of this process in a run of several, as torchrun gives it; without importing torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

from suite.errors import ConfigError

SWEEPS = frozenset({"-m", "--multirun"})


def world_size() -> int:
    """How many processes share this run."""
    launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def rank() -> int:
    """This process's number among those of the run, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_size() -> int:
    """How many of the processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def local_rank() -> int:
    """This process's number among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def complain(problem: object) -> None:
    """Print a mistake once, not once for every process."""
    if rank() == 0:
        print(problem, file=sys.stderr)


def leave(code: int) -> NoReturn:
    """End the process; after a failure at once, as torch's own end would wait for lost ranks."""
    if code and world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def one_voice() -> Iterator[None]:
    """Let only one of several processes print."""
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def refuse_sweep(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a sweep by several processes: each would start all of its runs."""
    if world_size() > 1 and SWEEPS & set(arguments):
        raise ConfigError(
            f"torchrun started {world_size()} processes for one run, and -m asks for a sweep. Take "
            "either: torchrun for each run by itself, or `python -m suite -m ... "
            "hydra/launcher=joblib` for runs side by side."
        )
