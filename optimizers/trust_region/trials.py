"""Helpers of the methods that accept a model's step only if the loss agrees with the model."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.damping import reduction_ratio
from optimizers.linalg.flat import unflatten
from optimizers.objective import Objective

CURVATURES = ("hessian", "ggn")


def expansion(objective: Objective, curvature: str) -> Curvature:
    """Loss, gradient and products with the Hessian or the generalised Gauss-Newton matrix."""
    return objective.hessian() if curvature == "hessian" else objective.ggn()


def finite(curvature: Curvature) -> bool:
    """Whether loss and gradient are finite."""
    return bool(torch.isfinite(curvature.loss + curvature.gradient.norm()))


def agreement(before: float, after: float, change: float, step: Tensor) -> float:
    """The ratio (before - after) / -change, 1 if rounding hides it, NaN if not finite."""
    return reduction_ratio(before, after, -change, torch.finfo(step.dtype).eps)


def trial_numbers(trial: int, ratio: float) -> dict[str, float]:
    """The number of trials and the ratio of the latest, for telemetry; the first is number 0."""
    return {"trials": trial + 1.0, **({"reduction_ratio": ratio} if isfinite(ratio) else {})}


def vanishes(step: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether rounding hides the step in every parameter."""
    largest = max(float(parameter.abs().max()) for parameter in params if parameter.numel())
    if float(step.abs().max()) > torch.finfo(step.dtype).eps * largest:
        return False
    parts = unflatten(step, params)
    return all(
        torch.equal(parameter + part, parameter)
        for parameter, part in zip(params, parts, strict=True)
    )
