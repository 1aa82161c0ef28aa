"""Tuning: studies with equal numbers of trials, which can be resumed, shared and resampled."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.tune.trials_frame import load_trials, unequal

__all__ = ["load_trials", "unequal"]


def __getattr__(name: str) -> Any:
    """The frame's functions on demand: --help need not wait for pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from suite.tune import trials_frame

    return getattr(trials_frame, name)
