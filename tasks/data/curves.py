"""Generated images of curves, similar to the CURVES set, which is not public."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from tasks.data.splits import Pair

TRAIN, TEST, SIDE = 20_000, 10_000, 28
MARGIN = 3.5
PEN = 0.7
SAMPLES = 96
CHUNK = 1000


@lru_cache(maxsize=1)
def curves_lookalike() -> tuple[Pair, Pair]:
    """Images `(N, 1, 28, 28)` in bytes of random curves: 20,000 for training, 10,000 for test.

    Three random points define a curve. Hinton and Salakhutdinov, "Reducing the dimensionality of
    data with neural networks", 2006, used a set of these sizes for its known dimension: six, the
    coordinates of the points. These are other curves, drawn by another rule (see `draw_curves`):
    errors on them do not compare with published ones.

    The images are the same on every call and computed once per process, in a second or two. The set
    has no classes: every label is 0.
    """
    points = random_points(TRAIN + TEST, torch.Generator().manual_seed(0))
    pixels = torch.cat(
        [draw_curves(part).mul_(255).round_().byte() for part in points.split(CHUNK)]
    )[:, None]
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return (pixels[:TRAIN], labels[:TRAIN]), (pixels[TRAIN:], labels[TRAIN:])


def random_points(count: int, generator: torch.Generator) -> Tensor:
    """Three points a curve, `(count, 3, 2)` in pixels, uniform over the image less a margin.

    A parabola leaves the box of its points by an eighth of its side at most: the margin allows for
    it.
    """
    uniform = torch.rand(count, 3, 2, generator=generator)
    return MARGIN + (SIDE - 1 - 2 * MARGIN) * uniform


def draw_curves(points: Tensor) -> Tensor:
    """Images `(N, 28, 28)` in [0, 1] of the parabolas through points `(N, 3, 2)`, in pixels.

    A parabola passes through its points at t = 0, 1/2 and 1:

        B(t) = (1-t) (1-2t) p0 + 4 t (1-t) p1 + t (2t-1) p2,
        ink(x) = min(1, c int_0^1 exp(-|x - B(t)|^2 / (2 s^2)) |B'(t)| dt),
        c = 1 / (s sqrt(2 pi)),   s = 0.7 pixels

    A straight stroke has brightness 1 at its middle for any speed, and a Gaussian profile across.
    The integral is the midpoint rule with 96 nodes; as the kernel is separable, it is a product of
    matrices.
    """
    time = (torch.arange(SAMPLES, dtype=points.dtype) + 0.5) / SAMPLES
    basis = torch.stack([(1 - time) * (1 - 2 * time), 4 * time * (1 - time), time * (2 * time - 1)])
    slope = torch.stack([4 * time - 3, 4 - 8 * time, 4 * time - 1])
    pens = torch.einsum("ks,nkd->nds", basis, points)
    speed = torch.einsum("ks,nkd->nds", slope, points).norm(dim=1)
    columns, rows = _profile(pens[:, 0]), _profile(pens[:, 1])
    ink = torch.bmm(rows * speed[:, None], columns.transpose(1, 2))
    return ink.mul_(1 / (SAMPLES * PEN * math.sqrt(2 * math.pi))).clamp_(max=1)


def _profile(centres: Tensor) -> Tensor:
    """A Gaussian around each of the centres `(N, S)` at the pixels of one axis: `(N, 28, S)`."""
    axis = torch.arange(SIDE, dtype=centres.dtype)[:, None]
    return ((axis - centres[:, None]) / PEN).square_().mul_(-0.5).exp_()
