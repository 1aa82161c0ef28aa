"""Random probes of a Hessian's diagonal, and their agreement with the true diagonal."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from optimizers.linalg.curvature import Curvature
from optimizers.objective import Objective

DISTRIBUTIONS = ("rademacher", "gaussian")


def probe(like: Tensor, distribution: str, seed: int) -> Tensor:
    """A vector of independent signs or standard normal numbers: mean zero, variance one.

    The same on every process with the same seed and the same kind of device.
    """
    generator = torch.Generator(like.device).manual_seed(seed)
    if distribution == "gaussian":
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return _signs(like, generator)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Fair signs from single bits: a random word serves 64 entries."""
    size = like.numel()
    words = torch.randint(
        -(2**63), 2**63 - 1, ((size + 63) // 64,), generator=generator, device=like.device
    )
    shifts = torch.arange(8, dtype=torch.uint8, device=like.device)
    bits = words.view(torch.uint8)[:, None].bitwise_right_shift(shifts).bitwise_and_(1)
    return bits.flatten()[:size].to(like.dtype).mul_(2).sub_(1)


def hutchinson(curvature: Curvature, distribution: str, probes: int, seed: int) -> Tensor:
    """The mean over probes z of z o Hz, (n,): an unbiased estimate of the diagonal of H.

    Its variance at i is the sum over j != i of H_ij^2, by signs; normal numbers add 2 H_ii^2
    (Bekas, Kokiopoulou and Saad, 2007, "An estimator for the diagonal of a matrix"). Cost: a
    product with H for each probe.
    """
    estimate = torch.zeros_like(curvature.gradient)
    for number in range(probes):
        z = probe(curvature.gradient, distribution, seed + number)
        estimate.addcmul_(z, curvature(z))
    return estimate.div_(probes) if probes > 1 else estimate


def hessian_diagonal(objective: Objective) -> Tensor:
    """The true diagonal (n,) of the Hessian from all n columns, for a few thousand parameters."""
    return objective.hessian().dense().diagonal().clone()


@dataclass(frozen=True)
class Agreement:
    """Agreement of an estimated diagonal with the true one, over their nonzero entries.

    Attributes:
        sign: the share of entries with the sign of the true entry.
        weighted: the same share, each entry weighted by its true magnitude.
        positive: the share of positive true entries, on which an estimate without signs is right.
        correlation: the correlation of the logarithms of the magnitudes.
        ratio: the median of estimated over true magnitude.
    """

    sign: float
    weighted: float
    positive: float
    correlation: float
    ratio: float

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)


def agreement(estimate: Tensor, diagonal: Tensor) -> Agreement:
    """Compare an estimate (n,) with the true diagonal (n,).

    Raises:
        ValueError: the shapes differ, or fewer than two entries can be compared.
    """
    if estimate.shape != diagonal.shape:
        raise ValueError(
            f"cannot compare shapes {tuple(estimate.shape)} and {tuple(diagonal.shape)}"
        )
    known = (estimate != 0) & (diagonal != 0)
    if int(known.sum()) < 2:
        raise ValueError("an agreement needs at least two entries where neither is zero")
    estimated, true = estimate[known], diagonal[known]
    right = (estimated.sign() == true.sign()).to(true.dtype)
    size = true.abs()
    logs = torch.corrcoef(torch.stack([estimated.abs().log(), size.log()]))
    return Agreement(
        sign=float(right.mean()),
        weighted=float((right * size).sum() / size.sum()),
        positive=float((true > 0).to(true.dtype).mean()),
        correlation=float(logs[0, 1]),
        ratio=float((estimated.abs() / size).median()),
    )
