"""The damped inverse of a block: inverse factors, or eigenvectors and eigenvalues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import fix_null_space, inverses_positive, symmetric_eigens
from optimizers.natural_gradient.blocks import Block, KroneckerBlock

State = dict[str, Any]
Work = Sequence[tuple[Block, State, float]]


class Inverses(ABC):
    """A form of the damped inverses: tensors in the blocks' states under names with `suffixes`."""

    suffixes: tuple[str, ...]

    def __init__(self, split: str = "trace") -> None:
        self.split = split

    @abstractmethod
    def refresh(self, work: Work, failures: Counter[str]) -> None:
        """Renew them from the factors in the states, each block with its damping.

        A factor that cannot be inverted leaves its block as it was, and is counted.
        """

    @abstractmethod
    def solve(self, block: Block, state: State, damping: float, gradient: Tensor) -> Tensor:
        """The damped inverse times the gradient."""

    @abstractmethod
    def blank(self, block: Block, state: State) -> dict[str, Tensor]:
        """Zeros in the shapes of a block's stored inverse, given its factors."""

    def stored(self, state: State) -> list[str]:
        """The names under which a state holds the inverse."""
        return [name for name in state if name.endswith(self.suffixes)]


class Cholesky(Inverses):
    """(A + pi sqrt(damping) I)^{-1} and (G + sqrt(damping) / pi I)^{-1}."""

    suffixes = ("_inverse",)

    def refresh(self, work: Work, failures: Counter[str]) -> None:
        """Invert all damped factors; those of equal size in one call."""
        damped = [
            block.damped(factors_of(state), damping, self.split) for block, state, damping in work
        ]
        dense = [
            (number, name)
            for number, (block, _, _) in enumerate(work)
            for name in damped[number]
            if block.is_dense(damped[number][name])
        ]
        inverted = inverses_positive([damped[number][name] for number, name in dense])
        inverse_of = dict(zip(dense, inverted, strict=True))
        for number, (_, state, _) in enumerate(work):
            own = {name: inverse_of[i, name] for i, name in dense if i == number}
            if not _set_inverses(state, damped[number], own):
                failures["inverse"] += 1

    def blank(self, block: Block, state: State) -> dict[str, Tensor]:
        """A zero inverse for each factor."""
        return {
            f"{name}_inverse": torch.zeros_like(factor)
            for name, factor in factors_of(state).items()
        }

    def solve(self, block: Block, state: State, damping: float, gradient: Tensor) -> Tensor:
        """G^{-1} M A^{-1} with the stored inverses."""
        inverses = {name.removesuffix("_inverse"): state[name] for name in self.stored(state)}
        return block.solve(inverses, gradient)


class Eigen(Inverses):
    """Q_G [(Q_G' W Q_A) / (s + damping)] Q_A' of Kronecker blocks, Cholesky for others.

    s are the products of the factors' eigenvalues until something better is put in their place
    (EKFAC): the inverse is then that of A (x) G + damping I, without the factored damping's cross
    terms.
    """

    suffixes = ("_inverse", "_basis", "scales")

    def __init__(self, split: str = "trace") -> None:
        super().__init__(split)
        self._plain = Cholesky(split)

    def refresh(self, work: Work, failures: Counter[str]) -> None:
        """Decompose all dense factors; those of equal size in one call."""
        chosen, others = _by_kind(work)
        self._plain.refresh(others, failures)
        dense = [
            (number, name)
            for number, (block, state) in enumerate(chosen)
            for name, factor in factors_of(state).items()
            if block.is_dense(factor)
        ]
        pairs = symmetric_eigens([chosen[number][1][name] for number, name in dense])
        pair_of = dict(zip(dense, pairs, strict=True))
        for number, (_, state) in enumerate(chosen):
            own = {name: pair_of[i, name] for i, name in dense if i == number}
            if not _set_eigens(state, own):
                failures["eigen"] += 1

    def blank(self, block: Block, state: State) -> dict[str, Tensor]:
        """Zero bases and scales; zero inverses for blocks of another kind."""
        if not isinstance(block, KroneckerBlock):
            return self._plain.blank(block, state)
        dense = {
            name: factor for name, factor in factors_of(state).items() if block.is_dense(factor)
        }
        scales = torch.zeros_like(block.matrix(block.parameters))
        return {
            **{f"{name}_basis": torch.zeros_like(factor) for name, factor in dense.items()},
            "scales": scales,
        }

    def solve(self, block: Block, state: State, damping: float, gradient: Tensor) -> Tensor:
        """Q_G [(Q_G' M Q_A) / (s + damping)] Q_A'."""
        if not isinstance(block, KroneckerBlock):
            return self._plain.solve(block, state, damping, gradient)
        rotated = rotate(gradient, state) / (state["scales"] + damping)
        return rotate_back(rotated, state)


def _by_kind(work: Work) -> tuple[list[tuple[KroneckerBlock, State]], Work]:
    """The Kronecker blocks with their states, and the rest of the work."""
    chosen = [(block, state) for block, state, _ in work if isinstance(block, KroneckerBlock)]
    return chosen, [part for part in work if not isinstance(part[0], KroneckerBlock)]


def _set_inverses(
    state: State, damped: Mapping[str, Tensor], inverses: Mapping[str, Tensor | None]
) -> bool:
    """Put inverses into a state; False if one is missing. A factor without one is a diagonal."""
    new = {}
    for name, tensor in damped.items():
        inverse = inverses[name] if name in inverses else 1 / tensor
        if inverse is None:
            return False
        new[f"{name}_inverse"] = inverse
    state.update(new)
    return True


def _set_eigens(state: State, pairs: Mapping[str, tuple[Tensor, Tensor] | None]) -> bool:
    """Put bases, and products of eigenvalues as scales, into a state; False if a pair is missing.

    A factor without a pair is a diagonal, its own eigenvalues.
    """
    values = {name: state[name] for name in ("a", "g")}
    bases = {}
    for name, pair in pairs.items():
        if pair is None:
            return False
        values[name], bases[f"{name}_basis"] = pair[0], fix_null_space(*pair)
    state.update(bases)
    a, g = (values[name].clamp(min=0) for name in ("a", "g"))
    state["scales"] = g.unsqueeze(-1) * a.unsqueeze(-2)
    return True


def factors_of(state: State) -> dict[str, Tensor]:
    """The factors that a block's state holds."""
    return {name: state[name] for name in ("a", "g", "b") if name in state}


def rotate(matrix: Tensor, state: State) -> Tensor:
    """Q_G' M Q_A; a factor kept as its diagonal has the axes as eigenvectors."""
    if "g_basis" in state:
        matrix = state["g_basis"].mT @ matrix
    return matrix @ state["a_basis"] if "a_basis" in state else matrix


def rotate_back(matrix: Tensor, state: State) -> Tensor:
    """Q_G M Q_A'."""
    if "g_basis" in state:
        matrix = state["g_basis"] @ matrix
    return matrix @ state["a_basis"].mT if "a_basis" in state else matrix


INVERSES: dict[str, type[Inverses]] = {"cholesky": Cholesky, "eigen": Eigen}
