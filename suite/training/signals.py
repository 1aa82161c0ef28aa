"""Ctrl-C and termination as a note for the work in hand, not an exception in the middle of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted(asked: Callable[[], bool], note: Callable[[], None]) -> Iterator[None]:
    """Call `note` when an end is asked for; a Ctrl-C while `asked()` holds does not wait.

    Signals reach the main thread only; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        if asked() and number == signal.SIGINT:
            raise KeyboardInterrupt
        note()

    previous = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
