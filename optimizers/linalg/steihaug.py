"""Conjugate gradients inside a trust region, with a memory of the path for smaller radii."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from optimizers.linalg.curvature import Product
from optimizers.linalg.secular import ModelStep
from optimizers.linalg.trust_region import boundary_crossings
from optimizers.phases import phased

Keep = Callable[[float, float], bool]


@dataclass(frozen=True)
class Segment:
    """A piece p + t d of the path, 0 <= t <= `end`; lengths are in the norm of the metric.

    Along it the model is `model - t * fall + t^2 / 2 * bend`. `end` is infinite where the curvature
    d'Bd is not positive: the model falls without end.
    """

    start: Tensor
    direction: Tensor
    inner: float
    cross: float
    outer: float
    model: float
    fall: float
    bend: float

    @property
    def end(self) -> float:
        """Where the model is smallest."""
        return self.fall / self.bend if self.bend > 0 else inf

    def norm(self, t: float) -> float:
        """|p + t d|."""
        return (
            max(0.0, self.inner + 2 * t * self.cross + t**2 * self.outer) ** 0.5
            if isfinite(t)
            else inf
        )

    def value(self, t: float) -> float:
        """The model at p + t d."""
        return self.model - t * self.fall + t**2 / 2 * self.bend

    def crossing(self, radius: float) -> float:
        """The t at which the path leaves the ball.

        With negative curvature, the better of the line's two ends.
        """
        back, ahead = boundary_crossings(self.inner, self.cross, self.outer, radius)
        return back if self.bend <= 0 and self.value(back) < self.value(ahead) else ahead


class Path:
    """The path of conjugate gradients: `at(radius)` is the step for a radius, without a product.

    Attributes:
        segments: those pieces of the path that were asked to be kept, in order.
        last: the step for the radius it was run with.
        products: the number of products it took.
        reason: `converged`, `boundary`, `curvature` (a direction with d'Bd <= 0, followed to the
            boundary), `iterations`, or `not finite` (a product was not; the step is that before
            it).
    """

    def __init__(
        self,
        gradient: Tensor,
        segments: Sequence[Segment],
        last: ModelStep,
        products: int,
        reason: str,
    ) -> None:
        self.gradient = gradient
        self.segments = segments
        self.last = last
        self.products = products
        self.reason = reason

    def at(self, radius: float) -> ModelStep:
        """The step that the same run would have given for a radius at most as large.

        Raises:
            LookupError: the piece of the path that crosses this radius was not kept.
        """
        if radius >= self.last.norm and (not self.last.boundary or radius == self.last.norm):
            return self.last
        for segment in self.segments:
            if radius <= segment.norm(segment.end):
                return on_boundary(self.gradient, segment, radius)
        raise LookupError(f"the path was not kept where it crosses the radius {radius:.6g}")


def everything(inner: float, outer: float) -> bool:
    """Keep the whole path: `Path.at` answers for every smaller radius."""
    return True


def crossings(radii: Sequence[float]) -> Keep:
    """Keep the pieces in which the path crosses one of these radii, with a margin for round-off."""
    return lambda inner, outer: any(0.999 * inner < radius <= 1.001 * outer for radius in radii)


def on_boundary(gradient: Tensor, segment: Segment, radius: float) -> ModelStep:
    """The step at which a piece of the path leaves the ball."""
    t = segment.crossing(radius)
    step = torch.add(segment.start, segment.direction, alpha=t)
    return ModelStep(step, float(gradient @ step), segment.value(t), radius, boundary=True)


@phased("inverse")
def steihaug(
    product: Product,
    gradient: Tensor,
    radius: float,
    *,
    tolerance: float,
    max_iterations: int,
    metric: Tensor | None = None,
    keep: Keep | None = None,
) -> Path:
    """Minimise g.s + s'Bs/2 in |s| <= radius by conjugate gradients from zero.

    Steihaug, 1983; Toint, 1981. The iterates grow in length, so the path is followed until the
    residual is small, the ball is left, or a direction of no positive curvature is met and followed
    to the boundary (Nocedal and Wright, 2006, Algorithm 7.2, which takes the better of the two ends
    there). With a diagonal `metric` M, CG is preconditioned by it and |s|^2 = s'Ms.

    Cost: one product per iteration, none wasted. Memory: 4 n floats beside g, 5 n with a metric,
    and 2 n per piece kept.

    Args:
        product: s -> B s.
        gradient: g, (n,).
        radius: of the ball, positive.
        tolerance: stop when (r'M^-1 r)^(1/2), r the residual, is below this.
        max_iterations: the largest number of products.
        metric: the diagonal of M, (n,), positive.
        keep: of the lengths at the two ends of a piece, whether the piece is to be kept for
            `Path.at`.
    """
    step, residual = torch.zeros_like(gradient), -gradient
    direction = _conditioned(residual, metric).clone()
    energy, model = float(residual @ direction), 0.0
    segments: list[Segment] = []

    def path(last: ModelStep, products: int, reason: str) -> Path:
        return Path(gradient, segments, last, products, reason)

    def inside() -> ModelStep:
        return ModelStep(step, float(gradient @ step), model, _inner(step, step, metric) ** 0.5)

    for iteration in range(max_iterations):
        if energy**0.5 < tolerance or energy == 0:
            return path(inside(), iteration, "converged")
        image = product(direction)
        segment = _segment(step, direction, metric, model, energy, float(direction @ image))
        if not isfinite(segment.bend):
            return path(inside(), iteration + 1, "not finite")
        reach = segment.norm(segment.end)
        if keep is not None and keep(segment.norm(0.0), reach):
            segments.append(segment)
            step, direction = step.clone(), direction.clone()
        if reach >= radius:
            reason = "boundary" if segment.bend > 0 else "curvature"
            return path(on_boundary(gradient, segment, radius), iteration + 1, reason)
        alpha, model = segment.end, segment.value(segment.end)
        step.add_(direction, alpha=alpha)
        residual.sub_(image, alpha=alpha)
        conditioned = _conditioned(residual, metric)
        before, energy = energy, float(residual @ conditioned)
        direction.mul_(energy / before).add_(conditioned)
        # memory of what is not kept is free while the next product is made
        del image, segment, conditioned
    reason = "converged" if energy**0.5 < tolerance or energy == 0 else "iterations"
    return path(inside(), max_iterations, reason)


def _conditioned(residual: Tensor, metric: Tensor | None) -> Tensor:
    return residual if metric is None else residual / metric


def _segment(
    start: Tensor,
    direction: Tensor,
    metric: Tensor | None,
    model: float,
    energy: float,
    bend: float,
) -> Segment:
    inner, cross = _inner(start, start, metric), _inner(start, direction, metric)
    return Segment(
        start, direction, inner, cross, _inner(direction, direction, metric), model, energy, bend
    )


def _inner(first: Tensor, second: Tensor, metric: Tensor | None) -> float:
    return float(first @ second if metric is None else (first * metric) @ second)
