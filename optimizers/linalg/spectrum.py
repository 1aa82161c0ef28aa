"""The spectrum of a symmetric matrix from its products: extremes, trace, negative share."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.linalg.lanczos import Lanczos, lanczos

SHORT = 10  # the fewest products that a further probe is worth
FEWEST = 4  # products


@dataclass(frozen=True)
class SpectralDensity:
    """The eigenvalues e_1..e_n of a symmetric matrix as points with weights.

    (1/n) sum_i f(e_i) ~ sum_j w_j f(t_j).

    Attributes:
        size: n.
        points: t, (k,), float64; the eigenvalues themselves where `exact`.
        weights: w, (k,), float64, positive, of sum 1.
        largest: the algebraically largest eigenvalues, the largest first, float64.
        smallest: the algebraically smallest eigenvalue.
        error: a bound on the distance of each of `largest` and `smallest` from an eigenvalue.
        resolution: of the numbers that the products were computed in.
        exact: whether all eigenvalues were computed.
    """

    size: int
    points: Tensor
    weights: Tensor
    largest: Tensor
    smallest: float
    error: float
    resolution: float
    exact: bool

    @property
    def trace(self) -> float:
        """sum_i e_i; an estimate is Hutchinson's, the mean of n z'Az / z'z over the probes z."""
        return self.size * float(self.weights @ self.points)

    @property
    def negative_share(self) -> float:
        """The share of eigenvalues below -resolution^(1/2) times the largest absolute one.

        A value in between counts as zero: round-off in the products hides it. As a count
        it jumps where an eigenvalue crosses the line, so an estimate of it is rough;
        `negative_mass` does not jump.
        """
        line = self.resolution**0.5 * float(self.points.abs().max())
        return float(self.weights[self.points < -line].sum())

    @property
    def negative_mass(self) -> float:
        """Sum of |e_i| over the negative ones, divided by that over all; zero for a zero matrix."""
        mass = self.weights * self.points.abs()
        total = float(mass.sum())
        return float(mass[self.points < 0].sum()) / total if total > 0 else 0.0


def spectral_density(
    matrix: Curvature, products: int, largest: int = 3, generator: torch.Generator | None = None
) -> SpectralDensity | None:
    """The spectrum of a curvature matrix from a budget of products; None if one is not finite.

    Up to n = `products` the matrix is built and all of its eigenvalues are computed. Otherwise
    stochastic Lanczos quadrature: a Rademacher probe z (entries +1 and -1 at random) and k Lanczos
    steps give Ritz values t_j and weights w_j = (first entry of T's eigenvector j)^2 with sum_j w_j
    f(t_j) ~ z'f(A)z / z'z, exact for polynomials f of degree 2k - 1, and the mean of the latter
    over probes is tr f(A) / n (Ubaru, Chen and Saad, 2017, "Fast estimation of tr(f(A)) via
    stochastic Lanczos quadrature", algorithm 1; Hutchinson, 1989, for f(t) = t, of which one step
    is enough). Half of the products go into one long run, whose extreme Ritz values are `largest`
    and `smallest`; the rest into as many further probes as get SHORT steps each. All probes weigh
    the same.

    Cost: `products` products, and 4 n k^2 multiplications for each run of k. Memory: products / 2
    rows of n floats.

    Args:
        matrix: the products, and by its gradient size, precision and device.
        products: the budget.
        largest: how many of the largest eigenvalues to give.
        generator: the source of the probes, on the CPU; one with a fixed seed by default.

    Raises:
        ValueError: fewer than FEWEST products, or `largest` below one.
    """
    if products < FEWEST:
        raise ValueError(f"products must be at least {FEWEST}, got {products}")
    if largest < 1:
        raise ValueError(f"largest must be at least 1, got {largest}")
    size = matrix.gradient.numel()
    if size <= products:
        return _exact(matrix, largest)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    first = _run(matrix, products // 2, generator)
    if first is None:
        return None
    runs = [first]
    further = max(1, (products - products // 2) // SHORT)
    for _ in range(further):
        one = _run(matrix, (products - products // 2) // further, generator)
        if one is None:
            return None
        runs.append(one)
    return _estimated(runs, size, largest, torch.finfo(matrix.gradient.dtype).eps)


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """A vector of random signs, drawn on the CPU: the same on every device."""
    return (torch.randint(2, like.shape, generator=generator) * 2 - 1).to(like)


def _exact(matrix: Curvature, largest: int) -> SpectralDensity | None:
    decomposition = symmetric_eigen(matrix.dense())
    if decomposition is None:
        return None
    values = decomposition[0].double().cpu()
    weights = torch.full_like(values, 1 / len(values))
    eps = torch.finfo(matrix.gradient.dtype).eps
    return SpectralDensity(
        len(values),
        values,
        weights,
        values.flip(0)[:largest],
        float(values[0]),
        0.0,
        eps,
        exact=True,
    )


def _run(matrix: Curvature, steps: int, generator: torch.Generator) -> Lanczos | None:
    run = lanczos(matrix, rademacher(matrix.gradient, generator), steps)
    return run if isfinite(run.residual) else None


def _estimated(runs: list[Lanczos], size: int, largest: int, resolution: float) -> SpectralDensity:
    pairs = [tuple(part.cpu() for part in run.eigen()) for run in runs]
    values, vectors = pairs[0]
    count = min(largest, len(values))
    ends = torch.cat([vectors[-1, -count:], vectors[-1, :1]]).abs()
    return SpectralDensity(
        size,
        torch.cat([points for points, _ in pairs]),
        torch.cat([vectors[0] ** 2 for _, vectors in pairs]) / len(pairs),
        values.flip(0)[:count],
        float(values[0]),
        runs[0].residual * float(ends.max()),
        resolution,
        exact=False,
    )
