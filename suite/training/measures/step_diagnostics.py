"""Diagnostics of a step: its angle to the gradient, its overshoot, lengths and ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature

LAYERS = 40  # parameter tensors that telemetry.csv follows
UNRESOLVED = 100  # units of the loss's round-off: a slope below tells nothing of the curvature

Facts = dict[str, float]


def step_facts(gradient: Tensor, update: Tensor, before: float, after: float) -> Facts:
    """Compare a step d with the gradient g at its start.

    The loss of its mini-batch is f at the start and f+ after the step. `cosine` is -g'd / |g||d|.
    `overshoot` is 2 (f+ - f - g'd) / -g'd, which for a quadratic is d'Hd / -g'd: 1 where the step
    ends at the minimum along its line, 2 where the loss is back at its start. It is left out where
    the step leads uphill or the slope is lost in the round-off of f.
    """
    slope = float(gradient.double() @ update.double())
    resolution = UNRESOLVED * torch.finfo(gradient.dtype).eps * abs(before)
    facts = {
        "cosine": -cosine(gradient, update),
        "gradient_norm": norm(gradient),
        "update_norm": norm(update),
        "non_finite": float((~torch.isfinite(gradient)).sum() + (~torch.isfinite(update)).sum()),
    }
    if -slope > resolution:
        facts["overshoot"] = 2 * (after - before - slope) / -slope
    return facts


def norm(vector: Tensor) -> float:
    """The Euclidean length, summed in float64."""
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of the angle between two tensors, NaN where one of them is zero."""
    lengths = norm(one) * norm(other)
    return (
        float(one.double().flatten() @ other.double().flatten()) / lengths if lengths else math.nan
    )


def along(hessian: Curvature, vector: Tensor) -> float:
    """V'Hv / v'v, NaN for a zero vector."""
    length = norm(vector)
    if not (math.isfinite(length) and length > 0):
        return math.nan
    unit = (vector.double() / length).to(vector.dtype)
    return float(unit.double() @ hessian(unit).double())


def spread(values: Sequence[float]) -> Facts:
    """Smallest, median and largest of the finite values; nothing where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return {"min": min(finite), "median": median(finite), "max": max(finite)} if finite else {}


def largest_tensors(params: Sequence[Tensor], most: int = LAYERS) -> set[int]:
    """The places of the largest tensors, of equal ones the first."""
    order = sorted(range(len(params)), key=lambda index: (-params[index].numel(), index))
    return set(order[:most])
