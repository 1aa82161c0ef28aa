"""The regression of every coordinate by itself, for lists of tensors at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.online.moments import Kept, Tensors, average_products, begin, follow, smallest

EDGE = 1 + 1e-6  # what was raised to the floor equals it but for rounding


def prepare(
    kept: Kept, point: Tensor, gradient: Tensor, variance: float, at_start: bool, signed: bool
) -> None:
    """Make what a tensor keeps, once."""
    if "momentum" in kept:
        return
    begin(kept, point, gradient, at_start)
    kept["variance"] = torch.full_like(point, variance, requires_grad=False)
    if signed:
        kept["covariance"] = torch.zeros_like(point, requires_grad=False)
    else:
        kept["gradient_variance"] = kept["variance"].clone(memory_format=torch.preserve_format)


def curvatures(
    kept: Sequence[Kept],
    apart: Tensors,
    gradients_apart: Tensors,
    beta: float,
    floor: float,
    least: float,
) -> tuple[Tensors, bool]:
    """|cov(g, theta)| / var(theta), or the root of var(g) / var(theta) where no covariance is kept; `least` at least.

    Takes the deviations from the old means into the moments; the result takes the place of the
    gradients'. Variances are raised to `floor`, and whether one had to be is the second result.
    """
    variances = average_products(kept, "variance", apart, apart, beta)
    degenerate = smallest(variances) <= floor * EDGE
    if degenerate:
        torch._foreach_clamp_min_(variances, floor)
    signed = "covariance" in kept[0]
    if signed:
        moments = average_products(kept, "covariance", gradients_apart, apart, beta)
    else:
        moments = average_products(
            kept, "gradient_variance", gradients_apart, gradients_apart, beta
        )
        torch._foreach_clamp_min_(moments, floor)
    for moment, variance, out in zip(moments, variances, gradients_apart, strict=True):
        torch.div(moment, variance, out=out)
    (torch._foreach_abs_ if signed else torch._foreach_sqrt_)(gradients_apart)
    torch._foreach_clamp_min_(gradients_apart, least)
    return gradients_apart, degenerate


def move(points: Tensors, kept: Sequence[Kept], gradients: Tensors, group: dict[str, Any]) -> bool:
    """Theta -= lr m / max(div |h|, cut); whether a variance was at its floor."""
    beta, div = group["beta"], group["div"]
    apart, gradients_apart = follow(kept, points, gradients, beta, group["gamma"])
    found, degenerate = curvatures(
        kept, apart, gradients_apart, beta, group["floor"], group["cut"] / div
    )
    torch._foreach_addcdiv_(
        points, [one["momentum"] for one in kept], found, value=-group["lr"] / div
    )
    return degenerate


def shares(kept: Iterable[Kept], group: dict[str, Any]) -> dict[str, float]:
    """Of all coordinates.

    Those with a variance at its floor, a negative curvature, a curvature below the cut.
    """
    counts = dict.fromkeys(("degenerate_share", "negative_share", "cut_share"), 0.0)
    total = 0
    for one in kept:
        variance, signed = one["variance"], one.get("covariance")
        curvature = (
            (one["gradient_variance"] / variance).sqrt() if signed is None else signed / variance
        )
        counts["degenerate_share"] += float((variance <= group["floor"] * EDGE).sum())
        counts["negative_share"] += float((curvature < 0).sum())
        counts["cut_share"] += float((group["div"] * curvature.abs() <= group["cut"]).sum())
        total += variance.numel()
    return {name: count / total for name, count in counts.items()} if total else {}
