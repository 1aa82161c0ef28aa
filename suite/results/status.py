"""The statuses that a run can end with."""

from enum import StrEnum


class Status(StrEnum):
    """How a run ended; every one of them is a result and stays in every denominator."""

    DONE = "done"
    TARGET = "target"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    OOM = "oom"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether the same run, asked for again, is skipped: it would end the same way."""
        return self in {
            Status.DONE,
            Status.TARGET,
            Status.DIVERGED,
            Status.TIMEOUT,
            Status.UNSUPPORTED,
        }

    @property
    def exit_code(self) -> int:
        """What a single run's process ends with."""
        return {Status.UNSUPPORTED: 2, Status.OOM: 1, Status.ERROR: 1, Status.INTERRUPTED: 130}.get(
            self, 0
        )
