"""The processes that carry out trials side by side.

Each claims its own, as one of another machine would.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any

from suite.errors import ConfigError, FatalConfigError
from suite.tune import claims
from suite.tune.journal import Journal
from suite.tune.study import Request, Study, studies
from suite.tune.worker import Worker, asked_to_end

NOTICE = 2.0  # seconds for workers to end by themselves
LONGEST = 10_000  # characters of a message, which a pipe holds though nobody reads yet
GRACE = 60.0  # seconds for workers that are asked to end to save where they are


def carry_out_all(request: Request, of: Sequence[Study]) -> None:
    """All that is missing of the studies, by as many processes as the request asks for.

    Raises:
        FatalConfigError: what is wrong is wrong for every trial.
        KeyboardInterrupt: the command was asked to end.
        BrokenProcessPool: workers were killed, and trials are missing.
    """
    me = claims.myself()
    missing = sum(study.trials - len(Journal(study, me).recorded()) for study in of)
    jobs = min(request.jobs, missing)
    if jobs <= 1:
        Worker(of).work()
        return
    context = multiprocessing.get_context("spawn")
    said: Any = context.SimpleQueue()
    workers = [
        context.Process(target=_worker, args=(request, said, os.getpid())) for _ in range(jobs)
    ]
    with asked_to_end():
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            _end(workers)
            raise
    if not said.empty():
        raise FatalConfigError(said.get())
    _judge(workers, of)


def _worker(request: Request, said: Any, parent: int) -> None:
    """What a worker does; it composes the studies anew, as plans do not travel."""
    try:
        Worker(studies(request), parent).work()
    except ConfigError as error:
        said.put(str(error)[:LONGEST])
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _judge(workers: Sequence[BaseProcess], of: Sequence[Study]) -> None:
    """Say which workers were lost; it is a failure only where trials are missing because of it."""
    lost = [worker for worker in workers if worker.exitcode != 0]
    if not lost:
        return
    me = claims.myself()
    missing = not all(Journal(study, me).complete for study in of)
    print(
        f"{len(lost)} of {len(workers)} workers ended early (exit codes "
        f"{[worker.exitcode for worker in lost]})"
    )
    if missing:
        raise BrokenProcessPool


def _end(workers: Sequence[BaseProcess]) -> None:
    """Ask the workers to end, which saves the runs they are at, and wait for them."""
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.join(
            NOTICE
        )  # Ctrl-C reaches them, too; what was sent to this process alone does not
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(max(0.1, until - time.monotonic()))
