"""Regression of gradients on points coordinate by coordinate, for lists of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.online.moments import Averages, Tensors, average_products, begin, follow, smallest

EDGE = 1 + 1e-6  # a variance raised to the floor equals it but for rounding


def prepare(
    averages: Averages,
    point: Tensor,
    gradient: Tensor,
    variance: float,
    at_start: bool,
    signed: bool,
) -> None:
    """Create the averages of a tensor, once."""
    if "momentum" in averages:
        return
    begin(averages, point, gradient, at_start)
    averages["variance"] = torch.full_like(point, variance, requires_grad=False)
    if signed:
        averages["covariance"] = torch.zeros_like(point, requires_grad=False)
    else:
        averages["gradient_variance"] = averages["variance"].clone(
            memory_format=torch.preserve_format
        )


def curvatures(
    averages: Sequence[Averages],
    deviations: Tensors,
    gradient_deviations: Tensors,
    beta: float,
    floor: float,
    least: float,
) -> tuple[Tensors, bool]:
    """Update the moments with deviations from the old means; return the curvatures.

    A curvature is |cov(g, theta)| / var(theta), or the root of var(g) / var(theta) without stored
    covariances, and at least `least`. The curvatures overwrite the gradients' deviations. The
    second result says whether a variance had to be raised to `floor`.
    """
    variances = average_products(averages, "variance", deviations, deviations, beta)
    degenerate = smallest(variances) <= floor * EDGE
    if degenerate:
        torch._foreach_clamp_min_(variances, floor)
    signed = "covariance" in averages[0]
    if signed:
        moments = average_products(averages, "covariance", gradient_deviations, deviations, beta)
    else:
        moments = average_products(
            averages, "gradient_variance", gradient_deviations, gradient_deviations, beta
        )
        torch._foreach_clamp_min_(moments, floor)
    for moment, variance, out in zip(moments, variances, gradient_deviations, strict=True):
        torch.div(moment, variance, out=out)
    (torch._foreach_abs_ if signed else torch._foreach_sqrt_)(gradient_deviations)
    torch._foreach_clamp_min_(gradient_deviations, least)
    return gradient_deviations, degenerate


def move(
    points: Tensors, averages: Sequence[Averages], gradients: Tensors, group: dict[str, Any]
) -> bool:
    """Apply theta -= lr m / max(div |h|, cut); return whether a variance was at its floor."""
    beta, div = group["beta"], group["div"]
    deviations, gradient_deviations = follow(averages, points, gradients, beta, group["gamma"])
    curvature, degenerate = curvatures(
        averages, deviations, gradient_deviations, beta, group["floor"], group["cut"] / div
    )
    torch._foreach_addcdiv_(
        points, [one["momentum"] for one in averages], curvature, value=-group["lr"] / div
    )
    return degenerate


def shares(averages: Iterable[Averages], group: dict[str, Any]) -> dict[str, float]:
    """The shares of coordinates with a variance at its floor, a negative or a cut curvature."""
    counts = dict.fromkeys(("degenerate_share", "negative_share", "cut_share"), 0.0)
    total = 0
    for one in averages:
        variance, signed = one["variance"], one.get("covariance")
        curvature = (
            (one["gradient_variance"] / variance).sqrt() if signed is None else signed / variance
        )
        counts["degenerate_share"] += float((variance <= group["floor"] * EDGE).sum())
        counts["negative_share"] += float((curvature < 0).sum())
        counts["cut_share"] += float((group["div"] * curvature.abs() <= group["cut"]).sum())
        total += variance.numel()
    return {name: count / total for name, count in counts.items()} if total else {}
