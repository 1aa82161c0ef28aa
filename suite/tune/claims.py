"""The owner of a trial, and whether its process still runs; a trial of a killed one is free.

A process on this machine is identified by its number and the moment it started. One on another
machine counts as ended when the file that it touches every `BEAT` seconds has not been touched for
`STALE` seconds, by the clock of the file server, so that the machines' own clocks need not agree.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

BEAT = 10.0
STALE = 180.0


@dataclass(frozen=True)
class Owner:
    """A process: its machine (or container), its number, its start, and a unique name."""

    host: str
    process: int
    started: str
    name: str

    def to_dict(self) -> dict[str, Any]:
        """The owner as a trial records it."""
        return asdict(self)


def myself() -> Owner:
    """This process."""
    number = os.getpid()
    name = f"{socket.gethostname()}-{number}-{uuid4().hex[:8]}"
    return Owner(_machine(), number, _started(number), name)


@contextmanager
def present(owner: Owner, folder: Path, beat: float = BEAT) -> Iterator[None]:
    """Touch the owner's file as long as the context lasts, and remove it in the end."""
    file, over = folder / owner.name, threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    file.touch()

    def touch_again() -> None:
        while not over.wait(beat):
            with suppress(OSError):  # a file system that is absent for a while
                file.touch()

    thread = threading.Thread(target=touch_again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            file.unlink(missing_ok=True)


def gone(owner: Mapping[str, Any] | None, folder: Path, me: Owner, stale: float = STALE) -> bool:
    """Whether no process runs the trial any more; without an owner it was given back."""
    if not owner:
        return True
    if owner["name"] == me.name:
        return False
    if owner["host"] == me.host:
        return _started(int(owner["process"])) != str(owner["started"])
    return _silent(folder / str(owner["name"]), folder / me.name, stale)


def _silent(file: Path, mine: Path, stale: float) -> bool:
    """Whether a file is absent, or older by so much than mine, which is touched now."""
    try:
        mine.touch()
        return mine.stat().st_mtime - file.stat().st_mtime > stale
    except FileNotFoundError:
        return True


def _machine() -> str:
    """The machine since its start, and the container: process numbers are unique within it."""
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    known = len(facts) == 3
    return "/".join(facts) if known else f"{facts[0]}/{uuid4().hex}"  # shared with no process


def _started(process: int) -> str:
    """The start of a process in ticks of the machine; empty for one that has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
