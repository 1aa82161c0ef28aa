"""The global minimiser of g.s + s'Bs/2 + sigma/3 |s|^3, densely and in a Krylov space."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor

from optimizers.linalg.curvature import Product
from optimizers.linalg.lanczos import Lanczos, lanczos
from optimizers.linalg.secular import ModelStep, Spectrum
from optimizers.phases import phased

Enough = Callable[[float, float], bool]


@phased("inverse")
def cubic_subproblem(values: Tensor, vectors: Tensor, gradient: Tensor, sigma: float) -> ModelStep:
    """The global minimiser of g.s + s'Bs/2 + sigma/3 |s|^3, from B's eigen-decomposition.

    s solves it if and only if (B + lambda I) s = -g with lambda = sigma |s| and B + lambda I
    positive semi-definite (Cartis, Gould and Toint, 2011, "Adaptive cubic regularisation methods
    for unconstrained optimization. Part I", Theorem 3.1). lambda is the root of lambda/|s(lambda)|
    = sigma. In the hard case, where g has no part in the lowest eigenvector and |s| falls short of
    -e_1/sigma, it is lengthened along that eigenvector.

    `slope` and `change` of the result are those of the quadratic part; `cubic_change` adds the
    cube.

    Cost: as `exact_subproblem`.

    Args:
        values: B's eigenvalues (n,), ascending.
        vectors: its eigenvectors in columns, (n, n).
        gradient: g, (n,).
        sigma: the weight of the cube, positive.

    Raises:
        ValueError: sigma is not a positive number.
    """
    if not (isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number, got {sigma}")
    spectrum = Spectrum(values, vectors, gradient)
    floor, short = spectrum.floor, spectrum.limit()
    if short is not None and float(short.norm()) <= floor / sigma:
        return spectrum.model_step(spectrum.lengthened(short, floor / sigma), 0.0, hard=floor > 0)

    def equation(inverse: float, shift: float) -> tuple[float, float, float]:
        multiplier = shift + floor
        return multiplier * inverse / sigma - 1, multiplier / sigma, inverse / sigma

    def bound(length: float) -> float:  # of a mu with mu (mu + floor) = sigma * length
        product = sigma * length
        return 2 * product / (floor + (floor**2 + 4 * product) ** 0.5) if product > 0 else 0.0

    shift = spectrum.root(bound(spectrum.singular_length), bound(spectrum.length), equation)
    return spectrum.model_step(spectrum.along(shift), shift)


def cubic_change(model_step: ModelStep, sigma: float, factor: float = 1.0) -> float:
    """The cubic model at `factor` times the step."""
    return model_step.scaled(factor)[1] + sigma / 3 * (factor * model_step.norm) ** 3


@phased("inverse")
def krylov_cubic(process: Lanczos, length: float, sigma: float) -> tuple[Tensor, ModelStep, float]:
    """The minimiser of the cubic model in a Krylov space that starts at g; |g| = `length`.

    Returns:
        The coefficients (k,) in the basis, what the model says of the step (its `step` is these
        coefficients), and the norm of the cubic model's gradient there, which is residual * |last
        coefficient|.
    """
    values, vectors = process.eigen()
    reduced = torch.zeros_like(process.diagonal)
    reduced[0] = length
    small = cubic_subproblem(values, vectors, reduced, sigma)
    return small.step, small, process.residual * abs(float(small.step[-1]))


@phased("inverse")
def cubic_process(
    product: Product, gradient: Tensor, sigma: float, iterations: int, enough: Enough
) -> Lanczos:
    """The Lanczos process on (B, g) until the model's gradient is small enough.

    `enough(model gradient's norm, |s|)` judges the minimiser in the space. The small problem is
    solved again at k = 1, 2, 3, 4, 5, 6 and then whenever k has grown by a fifth: its cost stays
    below that of the products.
    """
    length, checked = float(gradient.norm()), 0

    def stop(process: Lanczos) -> bool:
        nonlocal checked
        count = len(process.diagonal)
        if count < 1.2 * checked:
            return False
        checked = count
        _, small, gradient_norm = krylov_cubic(process, length, sigma)
        return enough(gradient_norm, small.norm)

    return lanczos(product, gradient, iterations, stop=stop)
