"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import fix_null_space
from optimizers.linalg.roots import conditions, power_step, stacked_eigen
from optimizers.matrix.layout import MATRICES, require_layout
from optimizers.matrix.modes import add_gram, times, times_all
from optimizers.matrix.preconditioned import Part, Preconditioned
from optimizers.matrix.stacks import Stack
from optimizers.method import require_range
from optimizers.phases import phased


class SOAP(Preconditioned):
    r"""Adam in the slowly turning eigenbasis of Shampoo's factors (Vyas et al., 2024).

    arXiv 2409.11321. L and R are exponential averages of G G' and G' G with orthonormal
    eigenvectors Q_L, Q_R. The gradient is rotated, G~ = Q_L' G Q_R, Adam's moments m and v of G~
    are stored in the rotated basis, and

        theta -= lr Q_L (m / (sqrt(v) + eps)) Q_R',

    with Adam's bias corrections in the learning rate. After the step the gradient updates L and R,
    and every `period` steps the bases take one power iteration and a QR decomposition; m turns with
    the bases, v only follows the order of the columns. The first step computes the bases by a full
    decomposition and moves nothing (`skip_first`). A tensor has one basis for each mode; a mode
    longer than `max_dimension` has the identity, and without any other mode the method is Adam.

    Cost for a matrix m x n: 2 (m^2 n + m n^2) operations for the factors, 4 (m^2 n + m n^2) for the
    rotations and about (14/3) (m^3 + n^3) / period for the bases. State: 2 (m^2 + n^2) + 2 m n
    numbers.

    Differences from the authors' code: vectors go to the fallback unless `precondition_1d`; the
    momentum is rotated when the basis changes, not at every step; weight decay comes before the
    step, as in AdamW.

    Args:
        params: the parameters, or pairs of name and parameter; names identify embeddings until a
            model is known.
        lr: the learning rate.
        beta1, beta2: decays of Adam's two moments.
        shampoo_beta: decay of the factors' averages; null for beta2.
        eps: added to the square root of the second moment.
        period: steps between two refreshes of the bases.
        bias_correction: correct Adam's moments for their start at zero.
        skip_first: the first step moves nothing.
        staggered: spread the refreshes over the period, so that no step has all of them.
        roles: the roles of its matrices, out of hidden, embedding and head; the others go to the
            fallback.
        flatten: take a kernel (out, in, height, width) as a matrix (out, in height width), not as
            four modes.
        precondition_1d: take vectors too, with a basis of their own.
        block_size: cut longer sides into blocks of this size, each with its own bases; null for
            none (a kernel that would be cut but is not contiguous goes to the fallback).
        max_dimension: the longest side that has a basis.
        max_gib: the most state, in GiB.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for all other parameters.
        fallback_lr: learning rate of the fallback; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the model has no such matrix, or needs more state than `max_gib`.
    """

    rule = "soap"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        beta1: float = 0.95,
        beta2: float = 0.95,
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        period: int = 10,
        bias_correction: bool = True,
        skip_first: bool = True,
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
        if shampoo_beta is not None:
            require_range("shampoo_beta", shampoo_beta, high=below_one)
        require_range("eps", eps, open_low=True)
        require_range("period", period, low=1, whole=True)
        self.period = period
        self.bias_correction = bias_correction
        self.skip_first = skip_first
        self.staggered = staggered
        options = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "shampoo_beta": shampoo_beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "fallback_lr": fallback_lr,
        }
        layout = require_layout(
            roles,
            block_size,
            max_dimension,
            flatten=flatten,
            vectors=precondition_1d,
            identity=True,
        )
        super().__init__(params, options, layout, fallback, max_gib)

    def update(self, stack: Stack, gradient: Tensor) -> Tensor | None:
        """Adam's direction in the bases, which the gradient then updates; None at first."""
        first = stack.step == 0
        if first:
            self._observe(stack, gradient)
            self._begin(stack, gradient)
        direction = None if first and self.skip_first else self._adam(stack, gradient)
        if not first:
            self._observe(stack, gradient)
            part = self.due(stack, stack.step)
            if part is not None:
                self._turn(stack, gradient, part)
        return direction

    def floats(self, shape: tuple[int, ...]) -> int:
        """The numbers of two matrices per side and of Adam's two moments."""
        return 2 * (
            sum(shape[mode] ** 2 for mode in self.layout.sides(shape)) + torch.Size(shape).numel()
        )

    def age(self, stack: Stack) -> int:
        """The steps since the last refresh of the bases."""
        return (stack.step - 1) % self.period

    def _adam(self, stack: Stack, gradient: Tensor) -> Tensor:
        """Adam's direction in the rotated basis, rotated back."""
        beta1, beta2 = stack.group["beta1"], stack.group["beta2"]
        bases = self._bases(stack, gradient)
        rotated = times_all(gradient, bases, transposed=True)
        moment, square = stack.zeros("exp_avg", gradient), stack.zeros("exp_avg_sq", gradient)
        moment.lerp_(rotated, 1 - beta1)
        square.mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
        direction = moment / square.sqrt().add_(stack.group["eps"])
        if self.bias_correction:
            count = stack.step if self.skip_first else stack.step + 1
            direction.mul_(sqrt(1 - beta2**count) / (1 - beta1**count))
        return times_all(direction, bases)

    @phased("curvature")
    def _observe(self, stack: Stack, gradient: Tensor) -> None:
        beta = stack.group["shampoo_beta"]
        beta = stack.group["beta2"] if beta is None else beta
        for mode in stack.sides:
            add_gram(stack.matrices("factor", mode, gradient), gradient, mode, beta, 1 - beta)

    def _bases(self, stack: Stack, like: Tensor) -> dict[int, Tensor]:
        return {mode: stack.matrices("basis", mode, like, identity=True) for mode in stack.sides}

    @phased("inverse")
    def _begin(self, stack: Stack, like: Tensor) -> None:
        """Compute the first bases, their columns by falling eigenvalue."""
        for name in ("exp_avg", "exp_avg_sq"):
            stack.zeros(name, like)
        for mode, bases in self._bases(stack, like).items():
            values, vectors, good = stacked_eigen(stack.tensors[f"factor_{mode}"])
            bases.copy_(fix_null_space(values, vectors).flip(-1))
            stack.condition[mode] = conditions(values[:, -1], values[:, 0])
            self._count_failures("basis", good)

    @phased("inverse")
    def _turn(self, stack: Stack, like: Tensor, part: Part) -> None:
        """Turn the bases and moments of some pieces; a failed basis stays unchanged."""
        moment, square = stack.tensors["exp_avg"], stack.tensors["exp_avg_sq"]
        for mode, bases in self._bases(stack, like).items():
            old = bases[part]
            new, values, order = power_step(stack.tensors[f"factor_{mode}"][part], old)
            good = torch.isfinite(new.sum((-2, -1)))
            self._count_failures("basis", good)
            if not bool(good.all()):
                keep = torch.arange(old.shape[-1], device=order.device).expand_as(order)
                new = torch.where(good[:, None, None], new, old)
                order = torch.where(good[:, None], order, keep)
            moment[part] = times(times(moment[part], old, mode), new.mT, mode)
            square[part] = _reordered(square[part], order, mode)
            bases[part] = new
            stack.condition[mode] = conditions(values[:, 0], values[:, -1])


def _reordered(tensors: Tensor, order: Tensor, mode: int) -> Tensor:
    """Each tensor's entries along a mode in a new order (k, d)."""
    shape = [len(order)] + [1] * (tensors.ndim - 1)
    shape[mode + 1] = order.shape[1]
    return tensors.gather(mode + 1, order.view(shape).expand_as(tensors))
