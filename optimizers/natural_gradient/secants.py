"""Inverse matrices learnt from pairs (s, y) with y = B s: damped BFGS.

Vectors are (..., d) and matrices (..., d, d), each of a stack on its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-4  # a pair with s.y below this times |s|^2 |gradient| is left out


def double_damped(
    inverse: Tensor, s: Tensor, y: Tensor, first: float, second: float
) -> tuple[Tensor, Tensor]:
    """Powell's damping of s against H, then of y against I (Goldfarb et al., 2020, Algorithm 3).

    s <- theta s + (1 - theta) H y, so that s.y >= first y.Hy; then y <- theta y + (1 - theta) s, so
    that s.y >= second |s|^2. Both leave a pair as it is that has the property already. `first` and
    `second` are at most one.
    """
    image = times(inverse, y)
    s = _mixed(s, image, dot(s, y), dot(y, image), first)
    return s, _mixed(y, s, dot(s, y), dot(s, s), second)


def bfgs(inverse: Tensor, s: Tensor, y: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """H <- (I - rho s y') H (I - rho y s') + rho s s', rho = 1 / s.y.

    The second result says which of the stack were changed. A pair with s.y <= 1e-4 |s|^2
    |gradient|, or one that leads to something that is not finite, changes nothing.
    """
    along, image = dot(s, y), times(inverse, y)
    half = ((1 + dot(y, image) / along) / (2 * along)).unsqueeze(-1) * s - image / along.unsqueeze(
        -1
    )
    finite = torch.isfinite(s.abs().amax(-1) * half.abs().amax(-1))
    good = finite & (along > FLAT * dot(s, s) * gradient.norm(dim=-1))
    s, half = (torch.where(good.unsqueeze(-1), part, torch.zeros_like(part)) for part in (s, half))
    size = inverse.shape[-2:]
    left, right = (
        torch.stack([s, half], -1).reshape(-1, size[0], 2),
        torch.stack([half, s], -2).reshape(-1, 2, size[1]),
    )
    return torch.baddbmm(inverse.reshape(-1, *size), left, right).view_as(inverse), good


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products, (...)."""
    return (one * other).sum(-1)


def _mixed(vector: Tensor, goal: Tensor, along: Tensor, square: Tensor, share: float) -> Tensor:
    """Theta v + (1 - theta) goal, whose product is `share` square, where v's, `along`, is less."""
    theta = torch.where(
        along < share * square, (1 - share) * square / (square - along), torch.ones_like(along)
    )
    return goal.lerp(vector, theta.unsqueeze(-1))
