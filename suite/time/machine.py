"""Isolated timing: a lock against a second timing pass, and a watch over other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from suite.errors import ConfigError

BUSY = 0.1  # cores at work for others, from which on seconds are doubted


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system releases it however the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        if not _locked(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"another timing pass (process {holder}) is running in this results folder, and "
                f"two of them would "
                "time each other; wait for it"
            )
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # a system without it: nothing is promised there
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class Watch:
    """Measures how many cores other processes keep busy.

    It reads the kernel's accounts: all cores' busy time, less this process's own. Ticks are 10 ms,
    so that an interval below a tenth of a second tells nothing.
    """

    def __init__(self) -> None:
        self._began = _accounts()

    def cores(self) -> float | None:
        """How many cores others kept busy since the watch began, on average.

        None where the system does not tell.
        """
        now, began = _accounts(), self._began
        if now is None or began is None or now[0] - began[0] < 0.1:
            return None
        elapsed, busy, own = (after - before for after, before in zip(now, began, strict=True))
        return max(0.0, (busy - own) / elapsed)


def _accounts() -> tuple[float, float, float] | None:
    """Seconds: of the clock, of all cores at work, of this process at work."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    user, nice, system, _idle, _waiting, *interrupts = (int(field) / tick for field in fields[:8])
    own = os.times()
    return perf_counter(), user + nice + system + sum(interrupts), own.user + own.system


def other_runs(proc: Path = Path("/proc")) -> list[str]:
    """The other commands of the suite on this machine, as far as the system tells."""
    commands = []
    for path in proc.glob("[0-9]*/cmdline"):
        if int(path.parent.name) == os.getpid():
            continue
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or belongs to somebody else
            continue
        if not Path(words[0]).name.startswith("python"):  # its parent, such as `timeout`
            continue
        modules = [word for flag, word in pairwise(words) if flag == "-m"]
        if any(module == "suite" or module.startswith("suite.") for module in modules):
            commands.append(" ".join(words).strip())
    return sorted(commands)
