"""The secular equation of quadratic models with a bound or a cubic penalty on the step's length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Equation = Callable[[float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class ModelStep:
    """A step s of a quadratic model m(s) = g.s + s'Bs/2, and what the model says of it.

    Attributes:
        step: s, (n,), in the gradient's precision.
        slope: g.s, not positive.
        change: m(s), not positive.
        norm: |s|, in the norm the step was bounded in.
        boundary: whether the bound on the length is what ended the step.
        hard: whether it is the hard case: g has no part in B's lowest eigenvector, along which the
            step was lengthened.
        multiplier: lambda with (B + lambda I) s = -g and B + lambda I positive semi-definite, where
            it is known.
    """

    step: Tensor
    slope: float
    change: float
    norm: float
    boundary: bool = False
    hard: bool = False
    multiplier: float = 0.0

    def scaled(self, factor: float) -> tuple[float, float]:
        """g.(cs) and m(cs) for c = `factor`."""
        bent = self.change - self.slope
        return factor * self.slope, factor * self.slope + factor**2 * bent


class Spectrum:
    """A quadratic model in B's eigenvectors: s(mu) = -(e + floor + mu)^-1 V'g.

    floor = max(0, -e_1) is the smallest possible lambda.

    The unknown is mu = lambda - floor instead of lambda, so that nothing cancels when lambda is
    close to -e_1.

    Eigenvalues within round-off of zero are zero, and so are the parts of g there that are within
    round-off of zero: a singular B would otherwise send the step to its bound along directions of
    which nothing is known.

    Args:
        values: the eigenvalues (n,), ascending.
        vectors: the eigenvectors in columns, (n, n).
        gradient: g, (n,).
    """

    def __init__(self, values: Tensor, vectors: Tensor, gradient: Tensor) -> None:
        self.vectors, self.dtype = vectors, gradient.dtype
        slopes = vectors.T @ gradient.to(vectors.dtype)
        resolution = 10 * torch.finfo(gradient.dtype).eps
        flat = values.abs() <= resolution * values.abs().max()
        self.values = torch.where(flat, torch.zeros_like(values), values)
        self.slopes = torch.where(
            flat & (slopes.abs() <= resolution * slopes.norm()), torch.zeros_like(slopes), slopes
        )
        self.floor = max(0.0, -float(self.values[0]))
        self.gaps = self.values + self.floor
        self.length = float(self.slopes.norm())
        self.singular_length = float(self.slopes[self.gaps == 0].norm())

    def along(self, shift: float) -> Tensor:
        """s(mu) in the eigenvectors; where numerator and denominator both vanish, 0."""
        return torch.where(self.slopes == 0, self.slopes, -self.slopes / (self.gaps + shift))

    def root(self, low: float, high: float, equation: Equation) -> float:
        """The mu in [low, high] that solves an equation in u = 1/|s(mu)| and mu, by Newton's steps.

        `equation(u, mu)` gives a value that rises from -1 (relative to what is wanted) through 0,
        and its derivatives by u and by mu. Written in u the equations are nearly linear (More and
        Sorensen, 1983, section 3), so few iterations are needed; bisection keeps them inside the
        bracket.
        """
        shift = low
        for _ in range(200):
            along = self.along(shift)
            norm = float(along.norm())
            if norm == 0:  # beyond the smallest numbers
                break
            excess, by_inverse, by_shift = equation(1 / norm, shift)
            if abs(excess) <= 1e-15:
                break
            low, high = (shift, high) if excess < 0 else (low, shift)
            unit = along / norm
            steepness = by_inverse * float(unit @ self._divided(unit, shift)) / norm + by_shift
            following = shift - excess / steepness if steepness > 0 else high
            if following == shift or high - low <= 2e-16 * high:
                break
            shift = following if low < following < high else _between(low, high)
        return shift

    def limit(self) -> Tensor | None:
        """s(0), or None where it is infinite."""
        return self.along(0.0) if self.singular_length == 0 else None

    def model_step(
        self, along: Tensor, shift: float, *, boundary: bool = False, hard: bool = False
    ) -> ModelStep:
        """The step with these coefficients, given that (B + lambda I) s = -g: nothing cancels."""
        slope, norm, multiplier = (
            float(self.slopes @ along),
            float(along.norm()),
            shift + self.floor,
        )
        change = slope / 2 - multiplier * norm**2 / 2
        step = (self.vectors @ along).to(self.dtype)
        return ModelStep(step, slope, change, norm, boundary, hard, multiplier)

    def lengthened(self, along: Tensor, length: float) -> Tensor:
        """S plus the multiple of the lowest eigenvector that gives it this length."""
        missing = max(0.0, length**2 - float(along @ along)) ** 0.5
        first = torch.zeros_like(along)
        first[0] = missing
        return along + first

    def _divided(self, along: Tensor, shift: float) -> Tensor:
        return torch.where(along == 0, along, along / (self.gaps + shift))


def _between(low: float, high: float) -> float:
    """The middle of the exponents where both ends are positive, else of the numbers."""
    return (low * high) ** 0.5 if low > 1e-150 and high > 4 * low else (low + high) / 2
