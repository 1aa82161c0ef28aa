"""What the methods share that try a model's step and keep it only where the loss agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.errors import Unsupported
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.damping import reduction_ratio
from optimizers.linalg.flat import unflatten
from optimizers.objective import Objective

CURVATURES = ("hessian", "ggn")


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError naming the hyperparameter and its value unless it is one of the words."""
    if value not in choices:
        raise ValueError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")


def require_dense(name: str, size: int, limit: int, instead: str) -> None:
    """Raise Unsupported if a matrix of that size is more than the limit allows.

    `instead` says what to do about it.
    """
    if size > limit:
        gigabytes = 8 * size**2 / 2**30
        raise Unsupported(
            f"{name} builds the dense matrix: {size:,} parameters need {gigabytes:,.1f} GiB for each of three, the "
            f"limit is max_parameters={limit:,}; {instead}"
        )


def expansion(objective: Objective, curvature: str) -> Curvature:
    """Loss, gradient and products with the Hessian or the generalised Gauss-Newton matrix."""
    return objective.hessian() if curvature == "hessian" else objective.ggn()


def finite(curvature: Curvature) -> bool:
    """Whether loss and gradient are finite."""
    return bool(torch.isfinite(curvature.loss + curvature.gradient.norm()))


def agreement(before: float, after: float, change: float, step: Tensor) -> float:
    """rho = (before - after) / -change: 1 where round-off hides the reduction, NaN where a loss is not finite."""
    return reduction_ratio(before, after, -change, torch.finfo(step.dtype).eps)


def vanishes(step: Tensor, params: Sequence[Tensor]) -> bool:
    """Whether a step changes no parameter: it is lost in their round-off."""
    largest = max(float(parameter.abs().max()) for parameter in params if parameter.numel())
    if float(step.abs().max()) > torch.finfo(step.dtype).eps * largest:
        return False
    parts = unflatten(step, params)
    return all(torch.equal(parameter + part, parameter) for parameter, part in zip(params, parts, strict=True))
