"""Trust regions: the exact step inside a ball, and the rule that moves the radius."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from torch import Tensor

from optimizers.linalg.secular import ModelStep, Spectrum
from optimizers.phases import phased


@phased("inverse")
def exact_subproblem(values: Tensor, vectors: Tensor, gradient: Tensor, radius: float) -> ModelStep:
    """The global minimiser of g.s + s'Bs/2 in |s| <= radius, from B's eigen-decomposition.

    s solves it if and only if (B + lambda I) s = -g with lambda >= 0, B + lambda I positive
    semi-definite and lambda (radius - |s|) = 0 (Nocedal and Wright, 2006, Theorem 4.1). lambda is
    the root of 1/|s(lambda)| = 1/radius (More and Sorensen, 1983, "Computing a trust region step").
    In the hard case, where g has no part in the lowest eigenvector and the step falls short of the
    boundary, it is lengthened along that eigenvector; a gradient of zero at a saddle is such a
    case.

    Cost: 2 n^2 operations and some ten passes over n numbers; the decomposition serves any number
    of radii.

    Args:
        values: B's eigenvalues (n,), ascending.
        vectors: its eigenvectors in columns, (n, n).
        gradient: g, (n,).
        radius: the largest length of the step, positive.

    Raises:
        ValueError: the radius is not a positive number.
    """
    if not (isfinite(radius) and radius > 0):
        raise ValueError(f"radius must be a positive number, got {radius}")
    spectrum = Spectrum(values, vectors, gradient)
    inside = spectrum.limit()
    if inside is not None and float(inside.norm()) <= radius:
        if spectrum.floor == 0:
            return spectrum.model_step(inside, 0.0)
        return spectrum.model_step(
            spectrum.lengthened(inside, radius), 0.0, boundary=True, hard=True
        )
    low, high = spectrum.singular_length / radius, spectrum.length / radius
    shift = spectrum.root(low, high, lambda inverse, _: (radius * inverse - 1, radius, 0.0))
    return spectrum.model_step(spectrum.along(shift), shift, boundary=True)


@dataclass(frozen=True)
class RadiusRule:
    """Shrink the radius when the model promised too much, grow it when it promised well.

    With rho = (actual reduction) / (predicted reduction): radius *= `shrink` if rho < `low` (or rho
    is not a number), min(`grow` * radius, `largest`) if rho > `high` and the step ended on the
    boundary (Nocedal and Wright, 2006, Algorithm 4.1).
    """

    shrink: float = 0.25
    grow: float = 2.0
    low: float = 0.25
    high: float = 0.75
    largest: float = 1e10

    def __call__(self, radius: float, ratio: float, boundary: bool) -> float:
        """The next radius."""
        if not ratio >= self.low:
            return self.shrink * radius
        if ratio > self.high and boundary:
            return min(self.grow * radius, self.largest)
        return radius


def boundary_crossings(
    inner: float, cross: float, outer: float, radius: float
) -> tuple[float, float]:
    """The two t with |p + t d| = radius for |p| <= radius: inner = p.p, cross = p.d, outer = d.d.

    The larger root in size first, the other from their product: no cancellation for either sign of
    p.d.

    Returns:
        (t <= 0, t >= 0).
    """
    missing = max(0.0, (radius - inner**0.5) * (radius + inner**0.5))
    root = (cross**2 + outer * missing) ** 0.5
    if cross >= 0:
        back = -(cross + root) / outer
        return back, missing / (cross + root) if cross + root > 0 else 0.0
    ahead = (root - cross) / outer
    return -missing / (root - cross), ahead
