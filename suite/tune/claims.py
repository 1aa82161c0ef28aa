"""Who carries out a trial, and whether they are still there.

What lets another take over the trial of a killed process.

A process on this machine is looked up by its number and the moment it started; one on another
machine is believed gone when the file that it touches every `BEAT` seconds has not been touched for
`STALE` seconds, by the clock of whoever keeps the files, so that the machines' own clocks need not
agree.
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
    """A process: its machine (or container), its number there, when it started, and a name that is its alone."""

    host: str
    process: int
    started: str
    name: str

    def to_dict(self) -> dict[str, Any]:
        """What a trial keeps of its owner."""
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

    def go_on() -> None:
        while not over.wait(beat):
            with suppress(OSError):  # a file system that is away for a while
                file.touch()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            file.unlink(missing_ok=True)


def gone(owner: Mapping[str, Any] | None, folder: Path, me: Owner, stale: float = STALE) -> bool:
    """Whether nobody carries the trial out any more. No owner at all is one who gave it back."""
    if not owner:
        return True
    if owner["name"] == me.name:
        return False
    if owner["host"] == me.host:
        return _started(int(owner["process"])) != str(owner["started"])
    return _silent(folder / str(owner["name"]), folder / me.name, stale)


def _silent(file: Path, mine: Path, stale: float) -> bool:
    """Whether a file is absent or was touched that much earlier than mine, which is touched now."""
    try:
        mine.touch()
        return mine.stat().st_mtime - file.stat().st_mtime > stale
    except FileNotFoundError:
        return True


def _machine() -> str:
    """The machine since it was started, and the container.

    Process numbers mean something within it only.
    """
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return (
        "/".join(facts) if len(facts) == 3 else f"{facts[0]}/{uuid4().hex}"
    )  # unknown: nobody else is on it


def _started(process: int) -> str:
    """When a process started, in ticks of the machine; empty for one that has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
