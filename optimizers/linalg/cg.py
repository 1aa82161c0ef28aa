"""Conjugate gradients with the stopping rules of second-order training."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from math import ceil, nan

import torch
from torch import Tensor

from optimizers.phases import phased

Map = Callable[[Tensor], Tensor]
StoppingRule = Callable[[list[float]], bool]


@dataclass(frozen=True)
class CGResult:
    """What conjugate gradients ended with.

    Attributes:
        x: the solution, shape (n,).
        residual: b - A x, shape (n,).
        iterations: the number of products with A, the one for a non-zero start left out.
        values: the quadratic model x'Ax/2 - b'x at the start and after each iteration.
        reason: `converged`, `progress` (the stopping rule), `curvature` (a direction with d'Ad <=
            0) or `iterations`.
        direction: that direction with d'Ad <= 0, else None.
        curvature: its d'Ad.
        path: (number, x) of the iterations that were to be kept, the last one always among them if
            any is.
    """

    x: Tensor
    residual: Tensor
    iterations: int
    values: list[float]
    reason: str
    path: list[tuple[int, Tensor]] = field(default_factory=list)
    direction: Tensor | None = None
    curvature: float = nan


@phased("inverse")
def conjugate_gradients(
    product: Map,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    max_iterations: int,
    tolerance: float = 0.0,
    stop: StoppingRule | None = None,
    preconditioner: Map | None = None,
    keep: Collection[int] = (),
) -> CGResult:
    """Minimise x'Ax/2 - b'x, which solves A x = b.

    Hestenes and Stiefel, 1952; Nocedal and Wright, Algorithm 5.3.

    Args:
        product: v -> A v for a symmetric positive definite A.
        b: the right-hand side, shape (n,).
        x0: where to start; zero by default.
        max_iterations: the largest number of products.
        tolerance: stop when |b - Ax| <= tolerance * |b|.
        stop: a rule that looks at the model's values so far, `relative_progress` for one.
        preconditioner: r -> M^-1 r.
        keep: the numbers of the iterations whose x is kept, `geometric` for one; each costs n
            floats.
    """
    condition = preconditioner or _unchanged
    x, residual = _start(product, b, x0)
    values = [_model_value(x, b, residual)]
    path: list[tuple[int, Tensor]] = []

    def result(iterations: int, reason: str) -> CGResult:
        if keep and iterations:
            _close(path, len(values) - 1, x)
        return CGResult(x, residual, iterations, values, reason, path)

    threshold = tolerance * float(b.norm())
    if float(residual.norm()) <= threshold:
        return result(0, "converged")
    conditioned = condition(residual)
    direction = conditioned.clone()
    energy = residual @ conditioned
    for iteration in range(1, max_iterations + 1):
        image = product(direction)
        curvature = direction @ image
        if not float(curvature) > 0:
            return replace(
                result(iteration, "curvature"), direction=direction, curvature=float(curvature)
            )
        alpha = energy / curvature
        x += alpha * direction
        residual -= alpha * image
        values.append(_model_value(x, b, residual))
        if iteration in keep:
            path.append((iteration, x.clone()))
        if float(residual.norm()) <= threshold:
            return result(iteration, "converged")
        if stop is not None and stop(values):
            return result(iteration, "progress")
        conditioned = condition(residual)
        previous, energy = energy, residual @ conditioned
        direction = conditioned + (energy / previous) * direction
    return result(max_iterations, "iterations")


def _unchanged(residual: Tensor) -> Tensor:
    return residual


def _start(product: Map, b: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first x and its residual; zero costs no product."""
    return (torch.zeros_like(b), b.clone()) if x0 is None else (x0.clone(), b - product(x0))


def _close(path: list[tuple[int, Tensor]], number: int, x: Tensor) -> None:
    """Put the last iteration, number `number`, at the end of the path unless it is there."""
    if not path or path[-1][0] != number:
        path.append((number, x))


def geometric(last: int, ratio: float = 1.3) -> frozenset[int]:
    """The iterations ceil(ratio^j) up to `last`.

    Few, and dense where CG moves most (Martens, 2010, section 4.6).
    """
    chosen, power = set(), 1.0
    while ceil(power) <= last:
        chosen.add(ceil(power))
        power *= ratio
    return frozenset(chosen)


def relative_progress(
    epsilon: float = 5e-4, shortest: int = 10, share: float = 0.1
) -> StoppingRule:
    """Martens' rule: stop when the last k iterations gained less than k epsilon of the value.

    k = max(shortest, share * iterations), and the value must be negative (Martens, 2010, section
    4.4).
    """

    def stop(values: list[float]) -> bool:
        done = len(values) - 1
        window = max(shortest, int(share * done))
        if done <= window or values[-1] >= 0:
            return False
        return (values[-1] - values[-1 - window]) / values[-1] < window * epsilon

    return stop


def _model_value(x: Tensor, b: Tensor, residual: Tensor) -> float:
    """x'Ax/2 - b'x = -x'(b + r)/2, free of products."""
    return float(-0.5 * (x @ (b + residual)))
