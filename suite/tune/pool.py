"""Processes that run trials side by side; each claims its own, as one of another machine would."""

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
from suite.tune.worker import Worker, termination_interrupts

NOTICE = 2.0  # seconds for workers to end by themselves
LONGEST = 10_000  # characters of a message, which a pipe holds before it is read
GRACE = 60.0  # seconds for interrupted workers to save their runs


def run_missing(request: Request, of: Sequence[Study]) -> None:
    """Run the missing trials of the studies, in as many processes as the request asks for.

    Raises:
        FatalConfigError: the mistake concerns every trial.
        KeyboardInterrupt: the command was interrupted.
        BrokenProcessPool: workers were killed, and trials are missing.
    """
    me = claims.myself()
    missing = sum(study.trials - len(Journal(study, me).recorded()) for study in of)
    jobs = min(request.jobs, missing)
    if jobs <= 1:
        Worker(of).work()
        return
    context = multiprocessing.get_context("spawn")
    messages: Any = context.SimpleQueue()
    arguments = (request, messages, os.getpid())
    workers = [context.Process(target=_worker, args=arguments) for _ in range(jobs)]
    with termination_interrupts():
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            _end(workers)
            raise
    if not messages.empty():
        raise FatalConfigError(messages.get())
    _judge(workers, of)


def _worker(request: Request, messages: Any, parent: int) -> None:
    """The work of one process; it composes the studies again, as plans are not pickled."""
    try:
        Worker(studies(request), parent).work()
    except ConfigError as error:
        messages.put(str(error)[:LONGEST])
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _judge(workers: Sequence[BaseProcess], of: Sequence[Study]) -> None:
    """Name the workers that were lost; a failure only where trials are missing."""
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
    """Interrupt the workers, which save their runs, and wait for them."""
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.join(NOTICE)  # Ctrl-C reaches them too; a signal to this process alone does not
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(max(0.1, until - time.monotonic()))
