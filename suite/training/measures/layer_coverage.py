"""Which rule of an optimizer updates which parameter, for optimizers that have several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rules(optimizer: object) -> dict[str, str]:
    """The rule for each named parameter, by the optimizer's `layer_coverage()` if it has one."""
    report = getattr(optimizer, "layer_coverage", None)
    return dict(report()) if callable(report) else {}


def shares(rule_of: dict[str, str], named: Iterable[tuple[str, Tensor]]) -> dict[str, float]:
    """The share of the parameters' numbers that each rule updates, the largest first."""
    sizes = {name: parameter.numel() for name, parameter in named if name in rule_of}
    share_of: dict[str, float] = {}
    for name, size in sizes.items():
        share_of[rule_of[name]] = share_of.get(rule_of[name], 0.0) + size / sum(sizes.values())
    largest_first = sorted(share_of.items(), key=lambda item: -item[1])
    return {rule: round(share, 6) for rule, share in largest_first}


def in_words(share_of: dict[str, float]) -> str:
    """A line for the terminal."""
    parts = [f"{100 * share:.4g} % of the parameters by {rule}" for rule, share in share_of.items()]
    return f"updated: {', '.join(parts)}"
