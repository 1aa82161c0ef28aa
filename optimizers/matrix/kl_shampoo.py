"""KL-Shampoo: Kronecker factors closest to the gradients' covariance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import fix_null_space
from optimizers.linalg.roots import stacked_eigen
from optimizers.matrix.layout import MATRICES, require_layout
from optimizers.matrix.modes import along, times, times_all, unfold
from optimizers.matrix.preconditioned import Part, Preconditioned
from optimizers.matrix.stacks import Stack
from optimizers.method import require_choice, require_range
from optimizers.phases import phased

BASES = ("qr", "eigh")


class KLShampoo(Preconditioned):
    r"""Shampoo with factors that minimise a Kullback-Leibler divergence (Lin et al., 2025).

    arXiv 2509.03378. For a gradient G of size m x n, with S_a (x) S_b as the covariance of a
    Gaussian, M the bias-corrected average of the gradients, and both updates from the old factors:

        S_a <- beta2 S_a + (1 - beta2) G S_b^{-1} G' / n
        S_b <- beta2 S_b + (1 - beta2) G' S_a^{-1} G / m
        theta -= lr S_a^{-1/2} M S_b^{-1/2}

    No grafting is needed. A step uses the factors before its gradient. For k modes every factor is
    updated with G whitened along all other modes.

    The factors are stored in their own slowly turning eigenbasis, S = Q T Q' with T nearly
    diagonal. The diagonal of T gives new eigenvalues at every step. Every `period` steps Q turns by
    the QR decomposition of T (one power iteration) or by T's full decomposition. With
    `adam_in_basis` a second moment in the rotated basis replaces the eigenvalues' product
    (KL-SOAP); it turns with the basis as a diagonal covariance.

    Cost for a matrix m x n: 2 (m^2 n + m n^2) operations for the factors, 4 (m^2 n + m n^2) for the
    rotations and about (26/3) (m^3 + n^3) / period for the bases. State: 2 (m^2 + n^2) + m n
    numbers, m n more for `adam_in_basis`.

    Differences from the authors' prototype: factors start at the root mean square of the first
    gradient, so that a step does not depend on the loss's scale, and the first step moves;
    eigenvalues are at least eps times their mean, instead of an absolute bound; any number of
    modes.

    Args:
        params: the parameters, or pairs of name and parameter; names identify embeddings until a
            model is known.
        lr: the learning rate.
        beta1: decay of the gradients' average.
        beta2: decay of the factors' averages.
        eps: the smallest eigenvalue of a factor, relative to their mean.
        period: steps between two refreshes of the bases.
        basis: `qr`, one power iteration, or `eigh`, the full decomposition.
        adam_in_basis: KL-SOAP.
        staggered: spread the refreshes over the period, so that no step has all of them.
        roles: the roles of its matrices, out of hidden, embedding and head; the others go to the
            fallback.
        flatten: take a kernel (out, in, height, width) as a matrix (out, in height width), not as
            four modes.
        precondition_1d: take vectors too, with a full matrix to the power -1/2.
        block_size: cut longer sides into blocks of this size, each with its own factors; null for
            none (a kernel that would be cut but is not contiguous goes to the fallback).
        max_dimension: the longest side that has a factor.
        max_gib: the most state, in GiB.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for all other parameters.
        fallback_lr: learning rate of the fallback; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the model has no such matrix, or needs more state than `max_gib`.
    """

    rule = "kl_shampoo"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        beta1: float = 0.9,
        beta2: float = 0.98,
        eps: float = 1e-5,
        period: int = 10,
        basis: str = "qr",
        adam_in_basis: bool = False,
        staggered: bool = False,
        roles: Sequence[str] = MATRICES,
        flatten: bool = False,
        precondition_1d: bool = False,
        block_size: int | None = None,
        max_dimension: int = 10000,
        max_gib: float = 8.0,
        weight_decay: float = 0.01,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        below_one = 1 - 1e-9
        require_range("beta1", beta1, high=below_one)
        require_range("beta2", beta2, high=below_one)
        require_range("eps", eps, high=1, open_low=True)
        require_range("period", period, low=1, whole=True)
        require_choice("basis", basis, BASES)
        self.period = period
        self.basis = basis
        self.adam_in_basis = adam_in_basis
        self.staggered = staggered
        options = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "fallback_lr": fallback_lr,
        }
        layout = require_layout(
            roles, block_size, max_dimension, flatten=flatten, vectors=precondition_1d
        )
        super().__init__(params, options, layout, fallback, max_gib)

    def update(self, stack: Stack, gradient: Tensor) -> Tensor:
        """The direction in the factors' eigenbases, which the gradient then updates."""
        self._begin(stack, gradient)
        bases = self._bases(stack)
        rotated = times_all(gradient, bases, transposed=True)
        scales = self._inverse_square_roots(stack)
        direction = times_all(self._direction(stack, rotated, scales), bases)
        self._observe(stack, rotated, scales)
        part = self.due(stack, stack.step + 1)
        if part is not None:
            self._turn(stack, part)
        return direction

    def floats(self, shape: tuple[int, ...]) -> int:
        """The numbers of two matrices per side, the momentum and KL-SOAP's second moment."""
        size = torch.Size(shape).numel()
        return 2 * sum(shape[mode] ** 2 for mode in self.layout.sides(shape)) + size * (
            1 + self.adam_in_basis
        )

    def age(self, stack: Stack) -> int:
        """The steps since the last refresh of the bases."""
        return stack.step % self.period

    @phased("inverse")
    def _begin(self, stack: Stack, gradient: Tensor) -> None:
        """Start the factors at multiples of the identity, the bases at the first gradient's.

        The product of the factors is the gradient's mean square. The first gradient is the first
        nonzero one: layers before a head of zeros have gradient zero at the first step.
        """
        sides = stack.sides
        if stack.step == 0:
            self._make(stack, sides, gradient)
        empty = stack.tensors[f"factor_{sides[0]}"].diagonal(dim1=-2, dim2=-1).sum(-1) == 0
        if not bool(empty.any()):
            return
        mean_square = gradient[empty].square().flatten(1).mean(1)
        for mode in sides:
            factor = stack.tensors[f"factor_{mode}"]
            unfolded = unfold(gradient[empty], mode)
            values, vectors, good = stacked_eigen(unfolded @ unfolded.mT)
            stack.tensors[f"basis_{mode}"][empty] = fix_null_space(values, vectors).flip(-1)
            unit = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
            factor[empty] = mean_square.pow(1 / len(sides))[:, None, None] * unit
            self._count_failures("basis", good)

    def _make(self, stack: Stack, sides: Sequence[int], gradient: Tensor) -> None:
        for mode in sides:
            stack.matrices("factor", mode, gradient)
            stack.matrices("basis", mode, gradient, identity=True)
        stack.zeros("exp_avg", gradient)
        if self.adam_in_basis:
            stack.zeros("exp_avg_sq", gradient)

    def _bases(self, stack: Stack) -> dict[int, Tensor]:
        return {mode: stack.tensors[f"basis_{mode}"] for mode in stack.sides}

    def _inverse_square_roots(self, stack: Stack) -> dict[int, Tensor]:
        """The inverse roots of each factor's eigenvalues, shaped to multiply along its mode."""
        scales = {}
        for mode in stack.sides:
            values = stack.tensors[f"factor_{mode}"].diagonal(dim1=-2, dim2=-1)
            smallest = (stack.group["eps"] * values.mean(-1, keepdim=True)).clamp(
                min=torch.finfo(values.dtype).tiny
            )
            values = torch.maximum(values, smallest)
            stack.condition[mode] = values.amax(-1) / values.amin(-1)
            scales[mode] = along(values.rsqrt(), len(stack.shape), mode)
        return scales

    def _direction(self, stack: Stack, rotated: Tensor, scales: dict[int, Tensor]) -> Tensor:
        beta1, beta2, count = stack.group["beta1"], stack.group["beta2"], stack.step + 1
        moment = stack.tensors["exp_avg"]
        moment.lerp_(rotated, 1 - beta1)
        direction: Tensor = moment / (1 - beta1**count)
        if not self.adam_in_basis:
            for scale in scales.values():
                direction.mul_(scale)
            return direction
        square = stack.tensors["exp_avg_sq"]
        square.mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
        return direction.div_(square.div(1 - beta2**count).sqrt_().add_(1e-8))

    @phased("curvature")
    def _observe(self, stack: Stack, rotated: Tensor, scales: dict[int, Tensor]) -> None:
        beta2 = stack.group["beta2"]
        for mode in scales:
            whitened = rotated
            for other, scale in scales.items():
                whitened = whitened if other == mode else whitened * scale
            unfolded = unfold(whitened, mode)
            factor = stack.tensors[f"factor_{mode}"]
            factor.baddbmm_(
                unfolded, unfolded.mT, beta=beta2, alpha=(1 - beta2) / unfolded.shape[-1]
            )

    @phased("inverse")
    def _turn(self, stack: Stack, part: Part) -> None:
        """Turn bases, factors and moments towards the eigenvectors; failed ones stay."""
        for mode, bases in self._bases(stack).items():
            factor = stack.tensors[f"factor_{mode}"]
            turn, turned, good = self._rotation(factor[part])
            self._count_failures("basis", good)
            bases[part] = bases[part] @ turn
            factor[part] = (turned + turned.mT) / 2
            moment = stack.tensors["exp_avg"]
            moment[part] = times(moment[part], turn.mT, mode)
            if self.adam_in_basis:
                square = stack.tensors["exp_avg_sq"]
                square[part] = times(square[part], turn.mT.square(), mode)

    def _rotation(self, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Orthogonal W that make factors T more diagonal, and W' T W; identity and T on failure."""
        if self.basis == "eigh":
            values, turn, good = stacked_eigen(factors)
            return turn, torch.where(good[:, None, None], values.diag_embed(), factors), good
        turn, upper = torch.linalg.qr(factors)  # W' T W = upper W
        good = torch.isfinite(turn.sum((-2, -1)))
        identity = torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
        turn = torch.where(good[:, None, None], turn, identity)
        return turn, torch.where(good[:, None, None], upper @ turn, factors), good
