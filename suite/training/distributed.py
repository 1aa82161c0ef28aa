"""The processes of one run, which `torchrun --nproc-per-node 2 -m suite ...` starts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import monotonic
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from optimizers.distributed import SINGLE_PROCESS, ProcessGroup, RankLostError, SingleProcess
from suite.config import torchrun
from suite.training.signals import noted

GRACE = 10.0  # seconds that a rank which is asked to end goes on waiting for the others


class World:
    """One process of a run, and its ways to the others.

    Attributes:
        ranks: the processes, as an objective takes them.
        leads: whether this is the process that evaluates, decides, records and prints.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._asked_at: float | None = None
        self.ranks: SingleProcess = (
            SINGLE_PROCESS if store is None else ProcessGroup(glance=self._glance)
        )
        self.leads = self.ranks.rank == 0

    @property
    def asked(self) -> bool:
        """Whether the process has been asked to end."""
        return self._asked_at is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the step is finished first, with all ranks.

        Torchrun sends a signal more than once.
        """
        self.ask()

    def ask(self) -> None:
        """Ask this process to end."""
        self._asked_at = self._asked_at or monotonic()

    def tell_failure(self, message: str) -> None:
        """Tell the others why this process is about to end."""
        if self._store is not None:
            with suppress(RuntimeError):  # the process that holds the store may have ended, too
                self._store.set(f"failure/{self.ranks.rank}", message)

    def explain(self, error: Exception) -> str:
        """The error in words; for a rank that was lost, with the reason that it left."""
        if not isinstance(error, RankLostError) or self._store is None:
            return f"{type(error).__name__}: {error}"
        try:
            keys = {
                rank: f"failure/{rank}"
                for rank in range(self.ranks.size)
                if rank != self.ranks.rank
            }
            left = [
                f"rank {r}: {self._store.get(key).decode()}"
                for r, key in keys.items()
                if self._store.check([key])
            ]
        except RuntimeError:
            left = []
        return "; ".join([str(error), *left])

    def _glance(self) -> None:
        """End the wait of a collective where this process is asked to end and the others hang."""
        if self._asked_at is not None and monotonic() - self._asked_at > GRACE:
            raise RankLostError(
                f"asked to end, and another rank has not answered for {GRACE:.0f} s"
            )


@contextmanager
def joined(size: int, place: torch.device, timeout: float) -> Iterator[World]:
    """Join the processes of a run of this size; a run of one process has nothing to join.

    Numbers on the CPU travel by gloo, those on GPUs by NCCL; where processes share a GPU, which
    NCCL refuses, by gloo.
    """
    if size == 1:
        yield World()
        return
    store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    # a prefix of its own for each attempt that torchrun makes
    store = PrefixStore(f"suite/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    own_gpus = (
        place.type == "cuda"
        and torchrun.local_size() <= torch.cuda.device_count()
        and dist.is_nccl_available()
    )
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if own_gpus else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    world = World(store)
    try:
        with _noting(world):
            yield world
    finally:
        if not world.ranks.lost:
            dist.destroy_process_group()


@contextmanager
def interruptible(world: World) -> Iterator[None]:
    """Let a step finish when Ctrl-C or a termination is asked for; the second Ctrl-C does not wait.

    Several processes listen for both while they are joined.
    """
    if world.ranks.size > 1:
        yield
        return
    with noted(lambda: world.asked, world.ask):
        yield


def place_of(place: torch.device) -> torch.device:
    """The GPU of this process, one of the machine's in turn; the CPU is shared."""
    if place.type != "cuda" or place.index is not None or torchrun.world_size() == 1:
        return place
    return torch.device("cuda", torchrun.local_rank() % torch.cuda.device_count())


@contextmanager
def _noting(world: World) -> Iterator[None]:
    """Note a termination, so that it does not cut the record and the last message short.

    torchrun sends one when a rank has died.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, world.note) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous[signal.SIGINT])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the process is about to end by itself
