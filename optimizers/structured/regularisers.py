"""Regularisers that are not smooth, and their proximal operators in a diagonal metric."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

GROUPS = ("input", "output")
ITERATIONS = 100
TOLERANCE = 1e-8


class Regulariser(ABC):
    """psi(W) of a weight with two dimensions or more.

    The first one is of the outputs, the second of the inputs.
    """

    @abstractmethod
    def value(self, weight: Tensor) -> Tensor:
        """psi, a scalar."""

    @abstractmethod
    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        """Argmin over W of 1/2 sum_i metric_i (W_i - point_i)^2 + strength psi(W).

        Metric > 0, of the point's shape.
        """

    @abstractmethod
    def zeros(self, weight: Tensor) -> tuple[int, int]:
        """How many of the units that psi makes zero are, and how many there are."""


class L1(Regulariser):
    """psi = sum_i |W_i|: single weights become zero."""

    def value(self, weight: Tensor) -> Tensor:
        return weight.abs().sum()

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        return point.sign() * (point.abs() - strength / metric).clamp(min=0)

    def zeros(self, weight: Tensor) -> tuple[int, int]:
        return int((weight == 0).sum()), weight.numel()


class GroupLasso(Regulariser):
    r"""psi = sum_g sqrt(size of g) ||W_g||: whole groups become zero (Yuan and Lin, 2006).

    A group is all that leaves one input (a column, or an input channel of a kernel), or all that
    enters one output. In a metric D the operator has no closed form, but one unknown a group: with
    c = D u, W_g = s c / (D s + tau), where s = ||W_g|| solves ||c / (D s + tau)|| = 1, or W_g = 0
    where ||c|| <= tau. The inverse of that norm is concave and increasing in s, so Newton's method
    from s = 0 rises to the root without a safeguard.

    Args:
        groups: `input` or `output`.
    """

    def __init__(self, groups: str) -> None:
        self.side = GROUPS.index(groups)

    def value(self, weight: Tensor) -> Tensor:
        rows = self._rows(weight)
        total: Tensor = rows.norm(dim=1).sum() * rows.shape[1] ** 0.5
        return total

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        rows, weights = self._rows(point), self._rows(metric)
        tau = strength * rows.shape[1] ** 0.5
        pull = weights * rows
        lengths = _lengths(pull, weights, tau)
        shrunk = lengths * pull / (weights * lengths + tau) if tau > 0 else rows
        moved = point.movedim(1 - self.side, 0)
        return shrunk.reshape(moved.shape).movedim(0, 1 - self.side).contiguous()

    def zeros(self, weight: Tensor) -> tuple[int, int]:
        rows = self._rows(weight)
        return int((rows == 0).all(dim=1).sum()), len(rows)

    def _rows(self, weight: Tensor) -> Tensor:
        """A row a group."""
        return weight.movedim(1 - self.side, 0).flatten(1)


class Nuclear(Regulariser):
    """psi = the sum of the singular values of W (out, rest): the rank falls (Fazel, 2002).

    In a metric that is not a multiple of the identity the operator is found by accelerated proximal
    gradient steps.
    """

    def value(self, weight: Tensor) -> Tensor:
        total: Tensor = torch.linalg.svdvals(weight.flatten(1)).sum()
        return total

    def prox(self, point: Tensor, metric: Tensor, strength: float) -> Tensor:
        target, weights = point.flatten(1), metric.flatten(1)
        largest = float(weights.max())
        found = ahead = _thresholded(target, strength / largest)
        momentum = 1.0
        for _ in range(ITERATIONS):
            last, previous = found, momentum
            found = _thresholded(ahead - weights * (ahead - target) / largest, strength / largest)
            momentum = (1 + (1 + 4 * previous**2) ** 0.5) / 2
            ahead = found + (previous - 1) / momentum * (found - last)
            if float((found - last).norm()) <= TOLERANCE * float(found.norm()):
                break
        return found.reshape(point.shape)

    def zeros(self, weight: Tensor) -> tuple[int, int]:
        values = torch.linalg.svdvals(weight.flatten(1))
        smallest = (
            max(weight.flatten(1).shape) * torch.finfo(weight.dtype).eps * float(values.max())
        )
        return int((values <= smallest).sum()), len(values)


REGULARISERS = ("group_lasso", "l1", "nuclear")


def regulariser(kind: str, groups: str) -> Regulariser:
    """A regulariser by its name."""
    makers = (lambda: GroupLasso(groups), L1, Nuclear)
    return makers[REGULARISERS.index(kind)]()


def _lengths(pull: Tensor, weights: Tensor, tau: float) -> Tensor:
    """S >= 0, a row a group.

    The root of ||pull / (weights s + tau)|| = 1, zero where there is none.
    """
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
    found: Tensor = left * (values - threshold).clamp(min=0) @ right
    return found
