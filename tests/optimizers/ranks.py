"""Two processes that share a mini-batch, waited for while they make progress."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from optimizers.distributed import ProcessGroup

SIZE = 2
STALLED = 600.0  # seconds without progress: a busy machine slows the ranks, a deadlock stops them
LONGEST = 3600.0  # seconds for the whole run
Progress = Callable[[], None]
Work = Callable[[ProcessGroup, Progress], Any]


def results_of_ranks(work: Work, folder: Path) -> list[Any]:
    """The results of `work` in both processes, by rank.

    `work` takes the process group and a function to be called after each finished part.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_run_rank, args=(work, rank, folder)) for rank in range(SIZE)
    ]
    for process in processes:
        process.start()
    try:
        _wait(processes, folder)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    assert [process.exitcode for process in processes] == [0] * SIZE
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(SIZE)]


def _wait(processes: list[SpawnProcess], folder: Path) -> None:
    """Wait until all have ended, one has failed, or none makes progress any more."""
    begin = changed = time.monotonic()
    parts = 0
    while running := [process for process in processes if process.is_alive()]:
        if any(process.exitcode for process in processes):
            return
        now = time.monotonic()
        finished = sum(len(path.read_text()) for path in folder.glob("*.progress"))
        if finished > parts:
            parts, changed = finished, now
        assert now - changed < STALLED, f"the ranks stalled after {parts} parts"
        assert now - begin < LONGEST, f"the ranks finished {parts} parts only"
        wait([process.sentinel for process in running], timeout=1.0)


def _run_rank(work: Work, rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=SIZE,
        timeout=timedelta(seconds=STALLED),
    )

    def progress() -> None:
        with (folder / f"{rank}.progress").open("a") as file:
            file.write(".")

    torch.save(work(ProcessGroup(), progress), folder / f"{rank}.pt")
    dist.destroy_process_group()
