"""SINGD: K-FAC without inverses, its factors learnt by matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optimizers.layers.capture import Captured
from optimizers.method import require_choice, require_range
from optimizers.natural_gradient.blocks import Block, KroneckerBlock, Measure, Tensors
from optimizers.natural_gradient.factored import Factored, require_fitting
from optimizers.natural_gradient.structures import STRUCTURES, Diagonal, Structure, structure_of
from optimizers.objective import Objective

PRECISIONS = {"parameter": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
FACTORS = ("a", "g")


class SINGD(Factored):
    r"""Structured inverse-free natural gradient descent.

    Lin et al., 2023, arXiv 2312.05705, figure 4. The inverse of a layer's damped Fisher matrix A
    (x) G is kept as K K' (x) C C', and K and C follow a natural gradient flow of their own: with
    H_K = K'AK, H_C = C'GC (A the mean of abar abar' over all positions, G the sum of g g' over an
    example's positions, the mean over the examples), q the size of C, every `statistics_period`
    steps

        m_K = alpha1 m_K + ( tr(H_C) / q H_K + damping tr(C'C) / q K'K - I ) / 2,   K <- K (I -
        lr_cov m_K),

    and the same for C with the parts exchanged. The direction is C C' W' K K', W' the layer's
    gradient, and goes through heavy-ball momentum. With `kfac_like` (IKFAC) the traces are left
    out, alpha1 is zero, and K K' approaches (A + damping I)^{-1}. There is no inverse, no
    decomposition and no root, so that bfloat16 will do. K and C may have a structure, by which all
    terms are projected: `diagonal`; `block`, of `block_size`; `lower_toeplitz`, `upper_toeplitz`;
    `hierarchical`, with `block_size` dense rows in all.

    All is measured for the canonical loss (summed over outputs, averaged over examples). Embeddings
    have a diagonal K. Parameters without a Kronecker block (normalisations, unknown layers) are
    updated by `fallback`; `layer_coverage()` lists both.

    Cost: 1 gradient a step (one more backward pass a statistics update where `fisher` is not
    empirical); an update 4 (in^3 + out^3) multiplications and (in^2 + out^2) a position, a
    direction 2 in out (in + out); less for sparse structures. State per layer: 2 (in^2 + out^2) +
    in out floats for dense factors.

    Differences from the paper: weight decay is decoupled, theta *= 1 - lr weight_decay, where it is
    added to the direction there; with groups of a convolution each has its own factors, where
    inputs are averaged over groups in the authors' code, which also leaves the loss's own scale in
    the factors.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate (beta_2 in the paper).
        momentum: of the direction (alpha_2).
        damping: lambda, for a loss that is summed over outputs and averaged over examples.
        alpha1: momentum of the factors' updates; not used with `kfac_like`.
        lr_cov: step length of the factors (beta_1).
        normalize: divide the factors' step by the largest entry of m where that is above one, and
            weigh the new part of m by 1 - alpha1: the factors cannot blow up while they are far
            from their goal.
        kfac_like: see above.
        input_structure, output_structure: of K and of C.
        block_size: see above.
        statistics_period: steps between two updates of the factors (T).
        fisher: `empirical`, as in the paper, `sampled` or `exact`.
        statistics_share: the share of the mini-batch that the factors see.
        shared_weights: `expand` (positions count as examples) or `reduce` (they are averaged within
            an example).
        precision: of K, C and all arithmetic with them: `parameter` (float32 at least), `float32`
            or `bfloat16`.
        kl_clip: the largest predicted change of the loss's quadratic form in a step; None for no
            clip.
        max_dim: the size above which a factor is diagonal; None for no limit.
        max_gib: the factors' largest total size.
        skip: names, or parts of names, of parameters that are left to the fallback.
        weight_decay: decoupled.
        fallback: `adamw` or `sgd`, for parameters that cannot be preconditioned.
        fallback_lr: its learning rate; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the factors would need more than `max_gib`.
    """

    rule = "singd"
    needs = frozenset({"layers"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        momentum: float = 0.9,
        damping: float = 0.01,
        alpha1: float = 0.5,
        lr_cov: float = 0.1,
        normalize: bool = True,
        kfac_like: bool = False,
        input_structure: str = "dense",
        output_structure: str = "dense",
        block_size: int = 30,
        statistics_period: int = 10,
        fisher: str = "empirical",
        statistics_share: float = 1.0,
        shared_weights: str = "expand",
        precision: str = "parameter",
        kl_clip: float | None = None,
        max_dim: int | None = None,
        max_gib: float = 8.0,
        skip: Sequence[str] = (),
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        require_range("alpha1", alpha1, high=1)
        require_range("lr_cov", lr_cov)
        require_choice("input_structure", input_structure, STRUCTURES)
        require_choice("output_structure", output_structure, STRUCTURES)
        require_choice("precision", precision, PRECISIONS)
        if kl_clip is not None:
            require_range("kl_clip", kl_clip, open_low=True)
        self.alpha1 = 0.0 if kfac_like else alpha1
        self.lr_cov = lr_cov
        self.normalize = normalize
        self.kfac_like = kfac_like
        self.structures = (
            structure_of(input_structure, block_size),
            structure_of(output_structure, block_size),
        )
        self.precision = PRECISIONS[precision]
        self._fresh: dict[Block, Tensors] = {}
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "damping": damping,
                "kl_clip": kl_clip,
                "weight_decay": weight_decay,
                "fallback_lr": fallback_lr,
            },
            statistics_period=statistics_period,
            inverse_period=statistics_period,
            fisher=fisher,
            statistics_share=statistics_share,
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
        if fisher != "empirical":
            self.needs = type(self).needs | {"sampled"}

    # -- statistics --------------------------------------------------------------------------------

    def _find_blocks(self, objective: Objective) -> list[Block]:
        blocks: list[Block] = [
            block for block in super()._find_blocks(objective) if isinstance(block, KroneckerBlock)
        ]
        diagonal = all(isinstance(structure, Diagonal) for structure in self.structures)
        require_fitting(self, blocks, 0 if diagonal else self.max_dim or float("inf"), self.max_gib)
        return blocks

    def _sums(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        if all(isinstance(structure, Diagonal) for structure in self.structures):
            measure = replace(measure, largest=0)
        sums = super()._sums(block, passes, measure)
        if sums is not None and not any(name.endswith("_transposed") for name in sums):
            sums["positions"] = sums["rows"] / measure.terms
        return sums

    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        state["updates"] = state.get("updates", 0) + 1
        positions = sums.pop("positions", None)
        factors = block.factors(sums)
        if positions is not None:  # the authors' scale: A is a mean over positions, G a sum
            positions = positions.clamp(min=torch.finfo(positions.dtype).tiny)
            a, g = factors["a"], factors["g"]
            factors = {"a": a / _over(positions, a), "g": g * _over(positions, g)}
        self._fresh[block] = factors

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        for block, damping in zip(blocks, self._dampings(blocks, objective), strict=True):
            factors = self._fresh.pop(block, None)
            if factors is not None:
                self._learn(block, self.state[block.parameters[0]], factors, damping)

    # -- the factors -------------------------------------------------------------------------------

    def _learn(self, block: Block, state: dict[str, Any], factors: Tensors, damping: float) -> None:
        """One step of K and C, from the same point.

        A step that is not finite is skipped and counted.
        """
        for name in FACTORS:
            state.setdefault(f"{name}_diagonal", not block.is_dense(factors[name]))
        like = block.matrix([parameter.detach() for parameter in block.parameters])
        like = like.to(self.precision or like.dtype)
        a, g = (
            _Root(
                self._structure(state, name), like, number, state.get(f"{name}_root"), factors[name]
            )
            for name, number in (("a", -1), ("g", -2))
        )
        new: Tensors = {}
        for name, root, other in (("a", a, g), ("g", g, a)):
            change = root.change(None if self.kfac_like else other, damping) * (
                0.5 * (1 - self.alpha1 if self.normalize else 1)
            )
            if self.alpha1:
                change += self.alpha1 * state.get(f"{name}_momentum", torch.zeros_like(change))
                new[f"{name}_momentum"] = change
            new[f"{name}_root"] = root.moved(change, self.lr_cov, self.normalize)
        if all(bool(torch.isfinite(tensor.sum())) for tensor in new.values()):
            state.update(new)
        else:
            self.failures["factor"] += 1

    def _structure(self, state: dict[str, Any], name: str) -> Structure:
        """The structure of a factor's root.

        It is the requested one, unless only the factor's diagonal is known.
        """
        return Diagonal() if state[f"{name}_diagonal"] else self.structures[FACTORS.index(name)]

    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        matrix = gradient.to(state["a_root"].dtype)
        matrix = self._structure(state, "g").square_times(state["g_root"], matrix)
        return (
            self._structure(state, "a")
            .square_times(state["a_root"], matrix.mT)
            .mT.to(gradient.dtype)
        )

    def _ready(self, block: Block) -> bool:
        return "a_root" in self.state[block.parameters[0]]


class _Root:
    """A factor's root K, K'AK and K'K, all in a structure.

    Args:
        structure: of K.
        like: the layer's matrix, for sizes and precision.
        axis: which of its axes K belongs to.
        known: K; the identity if there is none yet.
        factor: A.
    """

    def __init__(
        self, structure: Structure, like: Tensor, axis: int, known: Tensor | None, factor: Tensor
    ) -> None:
        self.structure, self.size = structure, like.shape[axis]
        self.identity = structure.identity(self.size, like)
        self.root = self.identity if known is None else known
        self.seen = structure.inner(self.root, factor.to(like.dtype), self.size)
        self.own = structure.inner(self.root, None, self.size)

    def means(self) -> tuple[Tensor, Tensor]:
        """The mean diagonal entries of K'AK and of K'K."""
        return self.structure.mean_diagonal(self.seen, self.size), self.structure.mean_diagonal(
            self.own, self.size
        )

    def change(self, other: _Root | None, damping: float) -> Tensor:
        """K'AK + damping K'K - I, each term times the mean of the other root's where there is one.

        The sum is zero at the goal.
        """
        if other is None:
            return self.seen + damping * self.own - self.identity
        first, second = (self.structure.spread(mean) for mean in other.means())
        return first * self.seen + damping * second * self.own - self.identity

    def moved(self, change: Tensor, length: float, normalize: bool) -> Tensor:
        """K (I - length change), with `normalize` over max(1, the change's largest entry)."""
        step = self.structure.times(self.root, change, self.size)
        if not normalize:
            return self.root - length * step
        largest = change.abs().flatten(change.ndim - self.structure.axes).amax(-1)
        return self.root - self.structure.spread(length / largest.clamp(min=1)) * step


def _over(positions: Tensor, factor: Tensor) -> Tensor:
    return positions.reshape(positions.shape + (1,) * (factor.ndim - positions.ndim))
