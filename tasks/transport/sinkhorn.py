"""The optimal prices of an entropic transport problem in float64."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 20  # Sinkhorn's sweeps at each epsilon on the way down
FACTOR = 0.5
NEWTON_STEPS = 200
# the marginal's error in L1; the semi-dual's error is of the order of its square
TOLERANCE = 1e-10
ROUNDING = 1e-12  # the search ignores decreases below the value's rounding
SHORTEST = 1e-10


def solve(costs: Tensor, weights: Tensor, epsilon: float) -> Tensor:
    """Prices `(m,)` of mean zero that maximise the semi-dual for uniform source weights.

    Sinkhorn's iteration, from a large epsilon down to the given one, computes a starting point.
    Newton's method, with steps shortened until the semi-dual rises, replaces Sinkhorn's slow linear
    convergence.

    Args:
        costs: `(n, m)`.
        weights: the weights of the targets, `(m,)`.
        epsilon: the regularisation.

    Raises:
        ValueError: the marginal's error stays above `TOLERANCE`.
    """
    prices = torch.zeros_like(weights)
    current = max(epsilon, float(costs.max()))
    while current > epsilon:
        prices = sinkhorn(costs, weights, current, prices, SWEEPS)
        current = max(epsilon, FACTOR * current)
    prices = newton(costs, weights, epsilon, sinkhorn(costs, weights, epsilon, prices, SWEEPS))
    error = float((plan(costs, weights, epsilon, prices).mean(dim=0) - weights).abs().sum())
    if not error < TOLERANCE:
        raise ValueError(
            f"epsilon={epsilon} is too small: the marginal of the best plan found is off by "
            f"{error:.1e}"
        )
    return prices - prices.mean()


def sinkhorn(costs: Tensor, weights: Tensor, epsilon: float, prices: Tensor, sweeps: int) -> Tensor:
    """Prices after sweeps in the logarithmic domain, each of which corrects both marginals."""
    for _ in range(sweeps):
        values = -epsilon * ((prices - costs) / epsilon + weights.log()).logsumexp(
            dim=1, keepdim=True
        )
        scaled = (values - costs) / epsilon
        prices = -epsilon * (scaled.logsumexp(dim=0) - torch.tensor(float(len(costs))).log())
    return prices


def newton(costs: Tensor, weights: Tensor, epsilon: float, prices: Tensor) -> Tensor:
    """Newton's method on the semi-dual, with halved steps, until the marginal stops improving."""
    best = torch.inf
    for _ in range(NEWTON_STEPS):
        shares = plan(costs, weights, epsilon, prices)
        marginal = shares.mean(dim=0)
        slope = marginal - weights
        error = float(slope.abs().sum())
        if error < TOLERANCE and error >= best / 2:
            break
        best = min(best, error)
        # curvature along the constants, which the Hessian lacks: it changes no step
        constants = marginal.mean() / len(weights)
        curvature = (marginal.diag() - shares.T @ shares / len(shares) + constants) / epsilon
        step = torch.linalg.lstsq(curvature, slope[:, None]).solution[:, 0]
        prices = prices - _length(costs, weights, epsilon, prices, step, float(slope @ step)) * step
    return prices


def _length(
    costs: Tensor, weights: Tensor, epsilon: float, prices: Tensor, step: Tensor, slope: float
) -> float:
    """The largest power of 1/2 at which the value falls by a share of the slope's prediction."""
    value, length = _negative_dual(costs, weights, epsilon, prices), 1.0
    while slope > ROUNDING and length > SHORTEST:
        if (
            _negative_dual(costs, weights, epsilon, prices - length * step)
            <= value - 1e-4 * length * slope
        ):
            break
        length /= 2
    return length


def plan(costs: Tensor, weights: Tensor, epsilon: float, prices: Tensor) -> Tensor:
    """The shares of each source's mass at the targets: rows of probabilities, `(n, m)`."""
    return ((prices - costs) / epsilon + weights.log()).softmax(dim=1)


def _negative_dual(costs: Tensor, weights: Tensor, epsilon: float, prices: Tensor) -> float:
    logits = (prices - costs) / epsilon + weights.log()
    return float(epsilon * logits.logsumexp(dim=1).mean() - weights @ prices)
