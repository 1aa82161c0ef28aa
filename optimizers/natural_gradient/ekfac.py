"""EKFAC: K-FAC whose eigenvalues are measured in the factors' eigenbasis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.layers.capture import Captured
from optimizers.natural_gradient.blocks import Block, KroneckerBlock, Measure, Tensors
from optimizers.natural_gradient.kfac import KFAC
from optimizers.objective import Objective


class EKFAC(KFAC):
    r"""Eigenvalue-corrected K-FAC (George et al., 2018, arXiv 1806.03884).

    With the eigenvectors Q_A, Q_G of K-FAC's factors the products of their eigenvalues are replaced
    by the second moments of the examples' gradients in that basis, s = E[(Q_G' W'_n Q_A)^2], the
    best diagonal there is in it (their theorem 2): U = Q_G [(Q_G' W' Q_A) / (s + damping)] Q_A'.
    The moments are an exponential average, renewed with the factors every `statistics_period`
    steps; the eigenvectors every `inverse_period` steps, after which s begins with the products of
    the eigenvalues, as one update, and with what is measured in that same step. A shared weight's
    W'_n is summed over an example's positions before it is squared, as an example's gradient is;
    several uses of a layer are squared one by one.

    Cost: K-FAC's with an eigen-decomposition (about 10 d^3) for an inverse, and N in out
    multiplications more a statistics update (where positions share the weight: N positions in out).
    State per layer: 2 (in^2 + out^2) + 2 in out floats.

    Args: those of `KFAC`; `inverse` can only be `eigen`, `distribution` only `communication`.
    """

    rule = "ekfac"
    inverse_choices = ("eigen",)
    split_choices = ("trace",)
    # the second moments need the eigenvectors on every rank
    distribution_choices = ("communication",)

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        super()._refresh(blocks, objective)
        for block in blocks:
            self.state[block.parameters[0]].pop("scale_updates", None)

    def _re_estimate(
        self, blocks: Sequence[Block], seen: Objective, passes: list[Captured], share: float
    ) -> None:
        """The moments in the new eigenvectors' basis."""
        scales_of = [
            (self.state[block.parameters[0]], self._scales(block, passes, self._measure(seen)))
            for block in blocks
        ]
        used = [(state, scales) for state, scales in scales_of if scales is not None]
        seen.ranks.all_reduce_([scales for _, scales in used])
        for state, scales in used:
            if bool(torch.isfinite(scales.sum())):
                self._update_scales(state, scales, share)

    def _sums(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        sums, scales = super()._sums(block, passes, measure), self._scales(block, passes, measure)
        return sums if sums is None or scales is None else {**sums, "scales": scales}

    def _scales(self, block: Block, passes: list[Captured], measure: Measure) -> Tensor | None:
        state = self.state[block.parameters[0]]
        if not isinstance(block, KroneckerBlock) or "scales" not in state:
            return None
        return block.second_moments(passes, measure, state)

    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        new = sums.pop("scales", None)
        super()._update_statistics(block, state, sums, share)
        if new is not None:
            self._update_scales(state, new, share)

    def _update_scales(self, state: dict[str, Any], new: Tensor, share: float) -> None:
        state["scale_updates"] = state.get("scale_updates", 1.0) + share
        keep = min(1 - share / state["scale_updates"], self.decay**share)
        state["scales"].mul_(keep).add_(new, alpha=1 - keep)
