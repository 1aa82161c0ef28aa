"""Nonsmooth regularisers and their proximal operators in a diagonal metric."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

GROUPS = ("input", "output")
ITERATIONS = 100
TOLERANCE = 1e-8


class Regulariser(ABC):
    """A regulariser psi(W) of a weight (outputs, inputs, ...)."""

    @abstractmethod
    def value(self, weight: Tensor) -> Tensor:
        """The value psi(W), a scalar."""

    @abstractmethod
    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        """The minimiser W of 1/2 sum_i metric_i (W_i - point_i)^2 + strength psi(W).

        The metric is positive and has the point's shape, as the result has.
        """

    @abstractmethod
    def zeros(self, weight: Tensor) -> tuple[int, int]:
        """The number of zero units and the number of all units that psi can make zero."""


class L1(Regulariser):
    """The sum psi = sum_i |W_i|: single weights become zero."""

    def value(self, weight: Tensor) -> Tensor:
        """The sum of the absolute weights, a scalar."""
        return weight.abs().sum()

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        """Soft thresholding by strength / metric, entry by entry."""
        return point.sign() * (point.abs() - strength / metric).clamp(min=0)

    def zeros(self, weight: Tensor) -> tuple[int, int]:
        """The number of zero weights and the number of weights."""
        return int((weight == 0).sum()), weight.numel()


class GroupLasso(Regulariser):
    r"""The sum psi = sum_g sqrt(size of g) ||W_g||: groups become zero (Yuan and Lin, 2006).

    A group has all weights of one input (a column, or an input channel of a kernel), or all weights
    of one output. In a metric D the operator has no closed form, but one unknown a group: with c =
    D u, W_g = s c / (D s + tau), where s = ||W_g|| solves ||c / (D s + tau)|| = 1, or W_g = 0 where
    ||c|| <= tau. The inverse of that norm is concave and increasing in s, so that Newton's method
    from s = 0 rises to the root without a safeguard.

    Args:
        groups: `input` or `output`.
    """

    def __init__(self, groups: str) -> None:
        self.side = GROUPS.index(groups)

    def value(self, weight: Tensor) -> Tensor:
        """The weighted sum of the groups' norms, a scalar."""
        rows = self._rows(weight)
        total: Tensor = rows.norm(dim=1).sum() * rows.shape[1] ** 0.5
        return total

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        """Shrink every group by the root of its equation, in the point's shape."""
        rows, weights = self._rows(point), self._rows(metric)
        tau = strength * rows.shape[1] ** 0.5
        pull = weights * rows
        lengths = _lengths(pull, weights, tau)
        shrunk = lengths * pull / (weights * lengths + tau) if tau > 0 else rows
        moved = point.movedim(1 - self.side, 0)
        return shrunk.reshape(moved.shape).movedim(0, 1 - self.side).contiguous()

    def zeros(self, weight: Tensor) -> tuple[int, int]:
        """The number of zero groups and the number of groups."""
        rows = self._rows(weight)
        return int((rows == 0).all(dim=1).sum()), len(rows)

    def _rows(self, weight: Tensor) -> Tensor:
        """The weights as rows, one for each group."""
        return weight.movedim(1 - self.side, 0).flatten(1)


class Nuclear(Regulariser):
    """The sum psi of the singular values of W (out, rest): the rank falls (Fazel, 2002).

    In a metric that is not a multiple of the identity, accelerated proximal gradient steps compute
    the operator.
    """

    def value(self, weight: Tensor) -> Tensor:
        """The sum of the singular values, a scalar."""
        total: Tensor = torch.linalg.svdvals(weight.flatten(1)).sum()
        return total

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        """Threshold the singular values in the metric, by accelerated proximal gradient."""
        target, weights = point.flatten(1), metric.flatten(1)
        largest = float(weights.max())
        minimiser = ahead = _thresholded(target, strength / largest)
        momentum = 1.0
        for _ in range(ITERATIONS):
            last, previous = minimiser, momentum
            minimiser = _thresholded(
                ahead - weights * (ahead - target) / largest, strength / largest
            )
            momentum = (1 + (1 + 4 * previous**2) ** 0.5) / 2
            ahead = minimiser + (previous - 1) / momentum * (minimiser - last)
            if float((minimiser - last).norm()) <= TOLERANCE * float(minimiser.norm()):
                break
        return minimiser.reshape(point.shape)

    def zeros(self, weight: Tensor) -> tuple[int, int]:
        """The number of zero singular values and the number of all."""
        values = torch.linalg.svdvals(weight.flatten(1))
        smallest = (
            max(weight.flatten(1).shape) * torch.finfo(weight.dtype).eps * float(values.max())
        )
        return int((values <= smallest).sum()), len(values)


REGULARISERS = ("group_lasso", "l1", "nuclear")


def regulariser(kind: str, groups: str) -> Regulariser:
    """A regulariser by name."""
    makers = (lambda: GroupLasso(groups), L1, Nuclear)
    return makers[REGULARISERS.index(kind)]()


def _lengths(pull: Tensor, weights: Tensor, tau: float) -> Tensor:
    """The root s >= 0 of ||pull / (weights s + tau)|| = 1 for each row, zero without a root."""
    alive = pull.norm(dim=1, keepdim=True) > tau
    lengths = torch.zeros_like(alive, dtype=pull.dtype)
    if tau == 0 or not alive.any():
        return lengths
    for _ in range(ITERATIONS):
        below = weights * lengths + tau
        square = (pull / below).square()
        norm = square.sum(dim=1, keepdim=True).sqrt()
        # r = 1 / norm - 1, r' = sum(square weights / below) / norm^3
        slope = (square * weights / below).sum(dim=1, keepdim=True) / norm**3
        rise = torch.where(alive, (1 - 1 / norm) / slope, 0.0).nan_to_num(0.0).clamp(min=0)
        lengths += rise
        if bool((rise <= TOLERANCE * lengths).all()):
            break
    return lengths


def _thresholded(matrix: Tensor, threshold: float) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    shrunk: Tensor = left * (values - threshold).clamp(min=0) @ right
    return shrunk
