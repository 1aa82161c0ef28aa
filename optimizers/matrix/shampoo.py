"""Shampoo: a gradient matrix between inverse roots of its row and column second moments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.roots import inverse_roots
from optimizers.matrix.grafting import GRAFTS, WITH_STATE
from optimizers.matrix.layout import MATRICES, require_layout
from optimizers.matrix.modes import add_gram, times_all
from optimizers.matrix.preconditioned import Part, Preconditioned
from optimizers.matrix.stacks import Stack
from optimizers.method import require_choice, require_range
from optimizers.phases import phased


class Shampoo(Preconditioned):
    r"""Shampoo (Gupta, Koren and Singer, 2018, arXiv 1802.09568), with later practical additions.

    Algorithms 1 and 2. For a gradient G with k modes, H_i <- H_i + G_(i) G_(i)' (or its exponential
    average) for each mode's unfolding, and the direction is G with (H_i + eps I)^{-1/(2k)} applied
    along every mode: L^{-1/4} G R^{-1/4} for a matrix. Roots are refreshed every `period` steps
    from step `start` on; before it the grafted method acts alone. Grafting takes the direction from
    Shampoo and the norm, for each block, from a diagonal method's step (Anil et al., 2020, arXiv
    2002.09018). A mode longer than `max_dimension` has no matrix, and the exponent counts the modes
    with one.

    Cost for a matrix m x n: 2 (m^2 n + m n^2) operations for the factors, as many for the
    direction, and 9 (m^3 + n^3) / period for the roots. State: 2 (m^2 + n^2) numbers, m n for the
    momentum where beta1 is not zero, and m n for `adagrad` or `adam` grafting.

    Differences from the papers: eps is added to the clamped eigenvalues when roots are taken;
    momentum is applied after preconditioning, as an average with its bias corrected; vectors go to
    the fallback unless `precondition_1d`.

    Args:
        params: the parameters, or pairs of name and parameter; names identify embeddings until a
            model is known.
        lr: the learning rate.
        beta1: decay of the direction's exponential average; 0 for no momentum.
        beta2: decay of the factors' averages; 1 for sums, as in AdaGrad.
        nesterov: look ahead by one average.
        eps: added to the factors' eigenvalues.
        period: steps between two refreshes of the roots.
        start: steps before the first roots are used.
        grafting: `none`, `sgd`, `adagrad` or `adam` (with beta1 = 0).
        bias_correction: divide averages by 1 - beta^t.
        exponents: the negative power for tensors with 1, 2, ... modes; beyond the list, and by
            default, 1 / (2 modes).
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

    rule = "shampoo"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.003,
        beta1: float = 0.9,
        beta2: float = 0.99,
        nesterov: bool = False,
        eps: float = 1e-12,
        period: int = 20,
        start: int = 20,
        grafting: str = "adam",
        bias_correction: bool = True,
        exponents: Sequence[float] | None = None,
        staggered: bool = False,
        roles: Sequence[str] = MATRICES,
        flatten: bool = False,
        precondition_1d: bool = False,
        block_size: int | None = 1024,
        max_dimension: int = 8192,
        max_gib: float = 8.0,
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        require_range("beta1", beta1, high=1)
        require_range("beta2", beta2, high=1)
        require_range("eps", eps, open_low=True)
        require_range("period", period, low=1, whole=True)
        require_range("start", start, whole=True)
        require_choice("grafting", grafting, GRAFTS)
        self.exponents = _exponents(exponents)
        self.nesterov = nesterov
        self.period = period
        self.start = start
        self.grafting = grafting
        self.bias_correction = bias_correction
        self.staggered = staggered
        self.averaged = beta1 > 0
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
        """The grafted direction by the factors with this gradient, averaged by beta1."""
        self._observe(stack, gradient)
        direction = GRAFTS[self.grafting](stack, gradient)
        since = stack.step - self.start
        if since >= 0:
            part = self.due(stack, since)
            if part is not None:
                self._refresh(stack, gradient, part)
            shaped = times_all(gradient, self._roots(stack, gradient))
            direction = shaped if self.grafting == "none" else _graft(shaped, direction)
        return self._average(stack, direction)

    def floats(self, shape: tuple[int, ...]) -> int:
        """The numbers of two matrices per side, the momentum and the grafted method."""
        size = torch.Size(shape).numel()
        own = 2 * sum(shape[mode] ** 2 for mode in self.layout.sides(shape))
        return own + size * (self.averaged + (self.grafting in WITH_STATE))

    def age(self, stack: Stack) -> int:
        """The steps since the last refresh of the roots."""
        return max(stack.step - 1 - self.start, 0) % self.period

    @phased("curvature")
    def _observe(self, stack: Stack, gradient: Tensor) -> None:
        beta2 = stack.group["beta2"]
        for mode in stack.sides:
            add_gram(
                stack.matrices("factor", mode, gradient),
                gradient,
                mode,
                beta2,
                1 - beta2 if beta2 < 1 else 1.0,
            )

    def _roots(self, stack: Stack, like: Tensor) -> dict[int, Tensor]:
        return {mode: stack.matrices("root", mode, like, identity=True) for mode in stack.sides}

    @phased("inverse")
    def _refresh(self, stack: Stack, like: Tensor, part: Part) -> None:
        """Compute new roots for some of the pieces; a failed one keeps its last good value."""
        beta2, eps = stack.group["beta2"], stack.group["eps"]
        correction = 1 - beta2 ** (stack.step + 1) if self.bias_correction and beta2 < 1 else 1.0
        all_roots = self._roots(stack, like)
        exponent = self._exponent(len(all_roots))
        for mode, roots in all_roots.items():
            factors = stack.tensors[f"factor_{mode}"][part]
            computed, condition, good = inverse_roots(factors / correction, exponent, eps)
            roots[part] = torch.where(good[:, None, None], computed, roots[part])
            stack.condition[mode] = condition
            self._count_failures("root", good)

    def _exponent(self, modes: int) -> float:
        return self.exponents[modes - 1] if modes <= len(self.exponents) else 1 / (2 * modes)

    def _average(self, stack: Stack, direction: Tensor) -> Tensor:
        beta1 = stack.group["beta1"]
        if not beta1:
            return direction
        average = stack.zeros("momentum_buffer", direction)
        average.lerp_(direction, 1 - beta1)
        correction = 1 - beta1 ** (stack.step + 1) if self.bias_correction else 1.0
        corrected: Tensor = average / correction
        return torch.lerp(direction, corrected, beta1) if self.nesterov else corrected


def _graft(direction: Tensor, step: Tensor) -> Tensor:
    """One direction with the norm of another's step, for each tensor of the stack."""
    modes = tuple(range(1, direction.ndim))
    smallest = torch.finfo(direction.dtype).tiny
    length: Tensor = torch.linalg.vector_norm(direction, dim=modes, keepdim=True).clamp(
        min=smallest
    )
    wanted: Tensor = torch.linalg.vector_norm(step, dim=modes, keepdim=True)
    return direction * (wanted / length)


def _exponents(value: object) -> tuple[float, ...]:
    if value is None:
        return ()
    numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if not numbers or not all(
        isinstance(n, int | float) and isfinite(n) and n > 0 for n in numbers
    ):
        raise ValueError(
            "exponents must be a list of positive numbers, one for each number of modes, got "
            f"{value!r}"
        )
    return tuple(map(float, numbers))
