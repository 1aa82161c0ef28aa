"""Rules of Levenberg-Marquardt for the damping and for the scaling of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NielsenRule:
    """Lower the damping smoothly with the gain ratio, raise it faster with each refusal.

    With rho = (actual reduction) / (predicted reduction):

        accepted:  mu *= max(1/3, 1 - (2 rho - 1)^3),  nu = 2
        refused:   mu *= nu,                           nu *= 2

    Nielsen, "Damping parameter in Marquardt's method", 1999, technical report IMM-REP-1999-05;
    Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems", 2004, eq. 2.21.
    """

    smallest_factor: float = 1 / 3
    first_growth: float = 2.0

    def accepted(self, damping: float, ratio: float) -> tuple[float, float]:
        """The next damping and its next growth factor after a step with this ratio."""
        return damping * max(
            self.smallest_factor, 1 - (2 * min(ratio, 1.0) - 1) ** 3
        ), self.first_growth

    def refused(self, damping: float, growth: float) -> tuple[float, float]:
        """The next damping and its next growth factor."""
        return damping * growth, 2 * growth


@dataclass(frozen=True)
class MarquardtRule:
    """Divide the damping after an accepted step, multiply it after a refused one, by constants.

    Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", 1963, with a
    factor of 10 for both. A smaller `increase` with a strong `decrease`, such as 2 and 0.1, is the
    "delayed gratification" of Transtrum and Sethna, "Improvements to the Levenberg-Marquardt
    algorithm for nonlinear least-squares minimization", 2012 (arXiv 1201.5885).

    Raises:
        ValueError: a factor on the wrong side of one.
    """

    increase: float = 10.0
    decrease: float = 0.1

    def __post_init__(self) -> None:
        if not self.increase > 1 > self.decrease > 0:
            raise ValueError(
                f"need increase > 1 > decrease > 0, got {self.increase!r} and {self.decrease!r}"
            )

    def accepted(self, damping: float, ratio: float) -> tuple[float, float]:
        """The next damping, whatever the ratio; the growth factor is constant."""
        return damping * self.decrease, self.increase

    def refused(self, damping: float, growth: float) -> tuple[float, float]:
        """The next damping; the growth factor is constant."""
        return damping * self.increase, self.increase


DampingRule = NielsenRule | MarquardtRule
Scaling = Callable[[Tensor, Tensor | None], Tensor]


def identity(norms: Tensor, previous: Tensor | None) -> Tensor:
    """Levenberg's D = I: a step is short in the parameters' own units."""
    return torch.ones_like(norms)


def diagonal(norms: Tensor, previous: Tensor | None) -> Tensor:
    """Marquardt's D = diag(J'J)^(1/2), invariant to the parameters' units."""
    return norms


def running_maximum(norms: Tensor, previous: Tensor | None) -> Tensor:
    """Moré's D: the largest column norms so far, invariant to the parameters' units.

    A parameter that loses its influence does not become free to move far, as it does with
    `diagonal`. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", 1978, section
    6, as in MINPACK.
    """
    return norms if previous is None else torch.maximum(norms, previous)


SCALINGS: dict[str, Scaling] = {
    "identity": identity,
    "diagonal": diagonal,
    "running_maximum": running_maximum,
}


def floored(scales: Tensor, theta: Tensor, resolution: float) -> Tensor:
    """Scales of at least resolution^(1/2) min(max_k D_k, max_k D_k |theta_k| / |theta_j|).

    Without a floor a column of rounding errors, such as that of a bias that a softmax ignores,
    would move its parameter far away. With noise of size `resolution` in the column and D_j at the
    floor, the parameter moves no farther than the others. The floor compares D_j theta_j, because
    the columns of a Jacobian may differ by forty decades on the way to a solution (NIST's MGH10)
    while their influence on the residuals does not. All scales are one where all columns are zero.
    """
    largest, influence = scales.max(), (scales * theta.abs()).max()
    if not bool(largest > 0):
        return torch.ones_like(scales)
    reference = (influence / theta.abs()).nan_to_num(float("inf")).clamp_max(largest)
    # a reference of zero: no parameter but zeros has any influence
    reference = torch.where(reference > 0, reference, largest)
    return torch.maximum(scales, resolution**0.5 * reference)
