"""LocoProp: each layer fits targets for its own outputs that lie downhill of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.layers.capture import Captured
from optimizers.linalg.decompositions import inverse_positive
from optimizers.method import require_choice, require_range
from optimizers.natural_gradient.blocks import Block, KroneckerBlock, Measure, Tensors
from optimizers.natural_gradient.factored import Factored, require_fitting
from optimizers.objective import Objective

LOCAL = ("exact", "gd")


class LocoProp(Factored):
    r"""Local loss optimisation with squared losses, LocoProp-S.

    Amid, Anil and Warmuth, 2022, arXiv 2106.06199. A layer with the pre-activations s = W abar
    gets the targets t = s - gamma g, g the gradient of
    an example's loss by s, and W goes to, or some steps towards, the minimum of

        1/2 mean |W abar - t|^2 + damping / 2 |W - W_0|^2,      damping = 1 / eta in the paper.

    With A the mini-batch's mean of abar abar' and W' the layer's gradient the minimum is (their
    section 3.3)

        W = W_0 - gamma W' (A + damping I)^{-1},

    the step of K-FAC with its output factor left out, and with A of the mini-batch itself. As the
    local loss is quadratic, it is known by A and W' alone, and gradient steps on it are products
    with A, without examples: U -= r (U (A + damping I) - W') from U = 0, r = local_lr / (a bound of
    the largest eigenvalue). One local step is plain gradient descent for each layer, many are the
    minimum. U goes through heavy-ball momentum; W -= gamma U.

    A convolution's A is summed over places and averaged over examples. Embeddings, weights that are
    also used transposed, and parameters without a matrix product (normalisations) are updated by
    `fallback`; `layer_coverage()` lists both.

    Differences from the paper: the local problems are solved exactly or by gradient steps of a safe
    length, where RMSprop steps with a decaying rate are taken there; the variant with matching
    losses of the activations (LocoProp-M) is not here. A and W' are those of the canonical loss
    (summed over outputs, averaged over examples).

    Cost per step: 1 gradient-equivalent; in^2 multiplications a position for A, in^3 for its
    inverse, or local_steps out in^2 for gradient steps. State: n numbers.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: gamma.
        momentum: of the local solutions.
        damping: 1 / eta.
        local: `exact`, or `gd` for gradient steps.
        local_steps: how many of these.
        local_lr: their length, 1 for the largest that is surely stable.
        shared_weights: `expand` (positions count as examples) or `reduce` (inputs are averaged
            within an example).
        max_dim: the number of inputs above which only A's diagonal is used; None for no limit.
        max_gib: the largest total size of A and its inverses.
        skip: names, or parts of names, of parameters that are left to the fallback.
        weight_decay: decoupled.
        fallback: `adamw` or `sgd`.
        fallback_lr: its learning rate; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the matrices would need more than `max_gib`.
    """

    rule = "locoprop"
    needs = frozenset({"layers"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        damping: float = 1.0,
        local: str = "exact",
        local_steps: int = 10,
        local_lr: float = 1.0,
        shared_weights: str = "expand",
        max_dim: int | None = None,
        max_gib: float = 8.0,
        skip: Sequence[str] = (),
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        require_choice("local", local, LOCAL)
        require_range("local_steps", local_steps, low=1, whole=True)
        require_range("local_lr", local_lr, high=2, open_low=True)
        self.local = local
        self.local_steps = local_steps
        self.local_lr = local_lr
        self._inputs: dict[Block, Tensor] = {}
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "damping": damping,
                "kl_clip": None,
                "weight_decay": weight_decay,
                "fallback_lr": fallback_lr,
            },
            statistics_period=1,
            inverse_period=1,
            fisher="empirical",
            statistics_share=1.0,
            shared_weights=shared_weights,
            staggered=False,
            averaging=0.0,
            batch_growth=1.0,
            max_batches=1,
            max_dim=max_dim,
            max_gib=max_gib,
            skip=skip,
            fallback=fallback,
        )

    def _find_blocks(self, objective: Objective) -> list[Block]:
        kronecker = [
            block for block in super()._find_blocks(objective) if isinstance(block, KroneckerBlock)
        ]
        plain = [
            block
            for block in kronecker
            if not any(linear_map.one_hot or linear_map.transposed for linear_map in block.maps)
        ]
        require_fitting(self, plain, self.max_dim or float("inf"), self.max_gib)
        return list(plain)

    def _sums(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        sums = super()._sums(block, passes, measure)
        return None if sums is None else {"a": sums["a"]}

    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        state["updates"] = 1
        self._inputs[block] = sums["a"]

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        """Nothing is kept: A is the mini-batch's own."""

    def _ready(self, block: Block) -> bool:
        return block in self._inputs

    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        matrix = self._inputs[block]
        if not block.is_dense(matrix):
            return self._elementwise(matrix.unsqueeze(-2) + damping, gradient)
        shifted = matrix.clone()
        shifted.diagonal(dim1=-2, dim2=-1).add_(damping)
        return (
            self._exact(shifted, gradient)
            if self.local == "exact"
            else self._descended(shifted, gradient)
        )

    def _exact(self, matrices: Tensor, gradient: Tensor) -> Tensor:
        factor, failed = torch.linalg.cholesky_ex(matrices)
        if not bool(failed.any()):
            return torch.cholesky_solve(gradient.mT, factor).mT
        self.failures["cholesky"] += 1
        stack = matrices.reshape(-1, *matrices.shape[-2:])
        inverses = [inverse_positive(matrix) for matrix in stack]
        usable = [torch.full_like(stack[0], torch.nan) if one is None else one for one in inverses]
        return gradient @ torch.stack(usable).view_as(matrices)

    def _descended(self, matrices: Tensor, gradient: Tensor) -> Tensor:
        """U after `local_steps` steps; a row's largest absolute sum bounds the eigenvalues."""
        rate = self.local_lr / matrices.abs().sum(-1).amax(-1)[..., None, None]
        local = rate * gradient
        for _ in range(self.local_steps - 1):
            local = local - rate * (local @ matrices - gradient)
        return local

    def _elementwise(self, entries: Tensor, gradient: Tensor) -> Tensor:
        """The same for a diagonal A."""
        if self.local == "exact":
            return gradient / entries
        rate = self.local_lr / entries.amax(-1, keepdim=True)
        return gradient * (1 - (1 - rate * entries) ** self.local_steps) / entries
