"""Checks of constructor arguments, whose messages name the parameter and the value."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def require_positive(**values: float) -> None:
    """Raise ValueError for the first value that is not above zero, naming it."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def require_at_least(least: float, **values: float) -> None:
    """Raise ValueError for the first value below `least`, naming it."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_choice(choices: Collection[str], **values: str) -> None:
    """Raise ValueError for the first value that is not one of `choices`, naming it."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def positive_widths(name: str, values: Sequence[int], count: int | None = None) -> tuple[int, ...]:
    """A list from a YAML as a tuple of positive layer widths, at least one or `count`."""
    widths = tuple(int(value) for value in values)
    wanted = "at least one number" if count is None else f"{count} numbers"
    if not widths or min(widths) < 1 or len(widths) != (count or len(widths)):
        raise ValueError(f"{name} must be a list of {wanted} above 0, got {list(values)}")
    return widths
