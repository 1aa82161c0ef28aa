"""Numbers as text: four significant digits, spreads with the decimals of the mean, bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from suite.stats import mean_std

NOT_RUN = "—"
NEVER = "∞"
DIGITS = 4


def number(value: float) -> str:
    """Four significant digits: `0.9123`, `87.52`, `1.234e-20`."""
    return _with(value, _decimals(value))


def mean_text(values: Sequence[float]) -> str:
    """`mean ± std (n)`; a single value has no spread to show."""
    mean, std = mean_std(values)
    if math.isnan(std):
        return f"{number(mean)} (1)"
    decimals = _decimals(mean or std)
    spread = f"{std:.1e}" if decimals is None and std else _with(std, decimals)
    return f"{_with(mean, decimals)} ± {spread} ({len(values)})"


def count_text(value: float) -> str:
    """A number of steps or oracle calls.

    A whole number has no decimals, another one has one, and `∞` means never.
    """
    if math.isinf(value):
        return NEVER
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def ratio_text(value: float) -> str:
    """A ratio: two decimals, or an exponent where that is all there is to say."""
    return f"{value:.2f}" if 0.01 <= value < 1e4 else f"{value:.1e}"


def bytes_text(value: float) -> str:
    """A size in the largest binary unit that keeps it above one."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _decimals(value: float) -> int | None:
    """Decimals that show four significant digits, or None where only an exponent can."""
    if value == 0:
        return 0
    if not math.isfinite(value) or not 1e-3 <= abs(value) < 1e5:
        return None
    return max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))


def _with(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0"
    return f"{value:.{DIGITS - 1}e}" if decimals is None else f"{value:.{decimals}f}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a, b and c`; the rest as a number where there are many."""
    shown = (
        list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
    )
    return (
        shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""
    )
