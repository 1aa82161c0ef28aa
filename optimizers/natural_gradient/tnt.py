"""TNT: natural gradient from the covariances of a sampled gradient along its modes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.linalg.decompositions import inverses_positive
from optimizers.linalg.flat import unflatten
from optimizers.matrix.layout import MATRICES, Layout, Piece, require_roles
from optimizers.matrix.modes import add_gram, times_all
from optimizers.matrix.preconditioned import Part, Preconditioned
from optimizers.matrix.stacks import Stack
from optimizers.method import require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phased

FISHERS = ("sampled", "empirical")
KERNELS = ("filter", "matrix", "tensor")


@dataclass(frozen=True)
class KernelLayout(Layout):
    """A layout that may see a kernel as a tensor (out, in, height width) with three modes."""

    kernels: str = "filter"

    def _view(self, parameter: nn.Parameter) -> tuple[int, ...]:
        if self.kernels != "filter" or parameter.ndim < 4:
            return super()._view(parameter)
        sizes = (*parameter.shape[:2], math.prod(parameter.shape[2:]))
        return tuple(size for size in sizes if size > 1) or (1,)


class TNT(Preconditioned):
    r"""Tensor Normal Training (Ren and Goldfarb, 2021, arXiv 2106.02925).

    Where the mini-batch's gradient G under targets drawn from the model, a tensor with k modes of
    sizes d_1, ..., d_k, is taken to have a tensor-normal distribution, its covariance, the Fisher
    matrix's block, is a Kronecker product U_1 (x) ... (x) U_k. With H_i the exponential average of
    G_(i) G_(i)' over mode i's unfolding, and the scales, which the distribution leaves open, chosen
    so that all U_i have the same mean eigenvalue c,

        c = (tr H_1 / (d_1 ... d_k))^{1/k},   U_i = H_i / (c^{k-1} prod_{j != i} d_j),

    and the direction is M with (U_i + damping^{1/k} I)^{-1} applied along every mode, M <- momentum
    M + the gradient. A matrix thus has U^{-1} M V^{-1}, a vector its full block. It is Shampoo
    without the roots, and with the model's own targets. Inverses are refreshed every `period`
    steps, and at each update of the factors in the first period.

    Cost: 1 more gradient a statistics update (`sampled`), and for a matrix m x n 2 (m^2 n + m n^2)
    operations, as many for the direction, and (m^3 + n^3) for the inverses. State: 2 (m^2 + n^2) +
    m n numbers.

    Differences from the paper: G is the gradient of the canonical loss times the square root of the
    number of its terms, so that U is the Fisher matrix of one example and a damping means the same
    for any batch size (the paper's U is smaller by the batch size); the damping is that of the
    product, so its epsilon is damping^{1/k}; H_i is a plain mean in the first steps, where the
    authors' code measures it on the whole training set first; a mode longer than `max_dimension`
    has no matrix and counts as I.

    Args:
        params: the parameters, or pairs of name and parameter; names tell embeddings until a model
            is known.
        lr: the learning rate.
        momentum: of the gradient, heavy-ball.
        damping: lambda, for a loss that is summed over outputs and averaged over examples.
        decay: of the H_i, at most.
        statistics_period: steps between two updates of the H_i.
        period: steps between two refreshes of the inverses.
        fisher: `sampled` (targets drawn from the model), or `empirical` (the gradient itself).
        kernels: a kernel is a tensor (out, in, height width), `filter`; or `matrix` (out, the
            rest), or `tensor`.
        staggered: spread the refreshes over the period, so that no step has all of them.
        roles: which matrices it takes, out of hidden, embedding and head; the others go to the
            fallback.
        vectors: take vectors too, each with a full matrix.
        block_size: cut longer sides into blocks of this size, each with its own factors; None for
            no blocks.
        max_dimension: the longest side that has a factor.
        max_gib: the most state, in GiB.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for all other parameters.
        fallback_lr: its learning rate; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the model has nothing for it, or more state than `max_gib`.
    """

    rule = "tnt"
    needs = frozenset({"sampled"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.03,
        momentum: float = 0.9,
        damping: float = 0.1,
        decay: float = 0.9,
        statistics_period: int = 10,
        period: int = 100,
        fisher: str = "sampled",
        kernels: str = "filter",
        staggered: bool = False,
        roles: Sequence[str] = MATRICES,
        vectors: bool = True,
        block_size: int | None = None,
        max_dimension: int = 8192,
        max_gib: float = 8.0,
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        require_range("momentum", momentum, high=1)
        require_range("damping", damping, open_low=True)
        require_range("decay", decay, high=1)
        require_range("statistics_period", statistics_period, low=1, whole=True)
        require_range("period", period, low=1, whole=True)
        require_choice("fisher", fisher, FISHERS)
        require_choice("kernels", kernels, KERNELS)
        if block_size is not None:
            require_range("block_size", block_size, low=1, whole=True)
        require_range("max_dimension", max_dimension, low=1, whole=True)
        self.decay = decay
        self.statistics_period = statistics_period
        self.period = period
        self.fisher = fisher
        self.staggered = staggered
        self._objective: Objective | None = None
        self._sampled: dict[Tensor, Tensor] = {}
        options = {
            "lr": lr,
            "momentum": momentum,
            "damping": damping,
            "weight_decay": weight_decay,
            "fallback_lr": fallback_lr,
        }
        layout = KernelLayout(
            require_roles("roles", roles),
            kernels == "matrix",
            vectors,
            block_size,
            max_dimension,
            False,
            kernels,
        )
        super().__init__(params, options, layout, fallback, max_gib)
        asked = {"sampled"} if fisher == "sampled" else set()
        self.needs = frozenset(asked if vectors else asked | {"matrices"})

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Move by -lr M x_i (U_i + damping^{1/k} I)^{-1} along every mode i."""
        self._objective = objective
        try:
            return super().step(objective)
        finally:
            self._objective, self._sampled = None, {}

    def update(self, stack: Stack, gradient: Tensor) -> Tensor:
        """The preconditioned momentum of a stack of pieces, after its factors are updated."""
        assert self._objective is not None
        scale, l2 = self._objective.scale, self._objective.l2
        damping = stack.group["damping"] + l2 / scale
        measured = stack.step % self.statistics_period == 0
        if measured:
            self._observe(stack, gradient)
        part: Part | None = (
            slice(0, len(stack))
            if measured and stack.step < self.period
            else self.due(stack, stack.step)
        )
        if part is not None:
            self._refresh(stack, gradient, part, damping)
        average = stack.zeros("momentum_buffer", gradient)
        average.mul_(stack.group["momentum"]).add_(gradient, alpha=1 / scale)
        return times_all(average, self._inverses(stack, gradient, damping))

    def floats(self, shape: tuple[int, ...]) -> int:
        """Two matrices a mode, and the momentum."""
        return 2 * sum(shape[mode] ** 2 for mode in self.layout.sides(shape)) + math.prod(shape)

    def age(self, stack: Stack) -> int:
        """Steps since the inverses were refreshed."""
        last = max(stack.step - 1, 0)
        return last % (self.statistics_period if last < self.period else self.period)

    def telemetry(self) -> dict[str, float]:
        """Those of the base, `damping` and the largest `condition` of the damped factors."""
        telemetry = super().telemetry() | {"damping": self.param_groups[0]["damping"]}
        conditions = [self._condition(stack) for stack in self._stacks]
        return telemetry | {"condition": max(conditions, default=1.0)}

    # -- the factors -------------------------------------------------------------------------------

    @phased("curvature")
    def _observe(self, stack: Stack, gradient: Tensor) -> None:
        """Average the Gram matrices of the Fisher matrix's gradient.

        A Gram matrix that is not finite is counted.
        """
        seen = self._fisher_gradient(stack, gradient)
        if not bool(torch.isfinite(seen.sum())):
            self.failures["statistics"] += 1
            return
        keep = min(1 - 1 / (stack.step // self.statistics_period + 1), self.decay)
        for mode in self.layout.sides(stack.shape):
            add_gram(stack.matrices("factor", mode, seen), seen, mode, keep, 1 - keep)

    def _fisher_gradient(self, stack: Stack, like: Tensor) -> Tensor:
        """G of the stacked pieces, (k, *shape)."""
        objective = self._objective
        assert objective is not None
        if not self._sampled:
            sampled = self.fisher == "sampled"
            flat = objective.sampled().value_and_gradient()[1] if sampled else objective.gradient()
            parts = unflatten(flat * (objective.terms**0.5 / objective.scale), objective.params)
            weight = objective.l2 * objective.terms**0.5 / objective.scale
            self._sampled = {
                p: part - weight * p for p, part in zip(objective.params, parts, strict=True)
            }
        return torch.stack(
            [_cut(piece, self._sampled[piece.parameter]) for piece in stack.pieces]
        ).to(like.dtype)

    @phased("inverse")
    def _refresh(self, stack: Stack, like: Tensor, part: Part, damping: float) -> None:
        """New inverses for some of the pieces.

        A failed inverse is counted; the last good one stays.
        """
        sides = self.layout.sides(stack.shape)
        factors = {mode: stack.matrices("factor", mode, like)[part] for mode in sides}
        damped = [
            matrix
            for mode in sides
            for matrix in self._damped(factors, mode, stack.shape, damping).unbind()
        ]
        inverted = iter(inverses_positive(damped))
        for inverses in self._inverses(stack, like, damping).values():
            old = inverses[part]
            new = list(zip(old, islice(inverted, len(old)), strict=True))
            self._count_failures(
                "inverse", torch.tensor([inverse is not None for _, inverse in new])
            )
            inverses[part] = torch.stack(
                [last if inverse is None else inverse for last, inverse in new]
            )

    def _damped(
        self, factors: dict[int, Tensor], mode: int, shape: tuple[int, ...], damping: float
    ) -> Tensor:
        """U + damping^{1/k} I of a mode for each piece, (n, d, d)."""
        count, size = len(factors), math.prod(shape)
        trace = factors[mode].diagonal(dim1=1, dim2=2).sum(-1)
        mean = trace / size  # of G's squared entries, whatever the mode
        unit = torch.where(mean > 0, mean, torch.ones_like(mean)) ** ((count - 1) / count) * (
            size / shape[mode]
        )
        damped = factors[mode] / unit[:, None, None]
        damped.diagonal(dim1=1, dim2=2).add_(damping ** (1 / count))
        return damped

    def _inverses(self, stack: Stack, like: Tensor, damping: float) -> dict[int, Tensor]:
        """The inverses of each mode; damping^{-1/k} I at first."""
        sides = self.layout.sides(stack.shape)
        if f"inverse_{sides[0]}" not in stack.tensors:
            for mode in sides:
                stack.matrices("inverse", mode, like, identity=True).mul_(
                    damping ** (-1 / len(sides))
                )
        return {mode: stack.tensors[f"inverse_{mode}"] for mode in sides}

    def _condition(self, stack: Stack) -> float:
        """The largest condition number among the damped U, from their inverses."""
        spectra = [
            torch.linalg.eigvalsh(each)
            for name, each in stack.tensors.items()
            if name.startswith("inverse_")
        ]
        return max((float((values[:, -1] / values[:, 0]).max()) for values in spectra), default=1.0)


def _cut(piece: Piece, whole: Tensor) -> Tensor:
    """A piece's part of a tensor that is shaped like its parameter."""
    view = whole.reshape(piece.view)
    return view if piece.where is None else view[piece.where]
