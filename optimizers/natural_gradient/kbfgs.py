"""K-BFGS: a Kronecker-factored inverse Hessian from changes of pre-activations and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.layers.capture import Captured
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.decompositions import inverses_positive
from optimizers.method import require_range
from optimizers.natural_gradient.blocks import Block, KroneckerBlock, Measure, Tensors
from optimizers.natural_gradient.factored import Factored, require_fitting
from optimizers.natural_gradient.linear_map import LinearMap
from optimizers.natural_gradient.secants import bfgs, double_damped, times
from optimizers.objective import Objective
from optimizers.phases import phased


class KBFGS(Factored):
    r"""K-BFGS (Goldfarb, Ren and Bahamou, 2020, arXiv 2006.08877, Algorithm 4).

    A layer s = W abar has the direction H_g M H_a, M the exponential average of its gradient, M <-
    momentum M + (1 - momentum) W'. Both factors are inverses kept by BFGS, H_a of A + sqrt(damping)
    I, A the running mean of abar abar', and H_g of the loss's mean Hessian by s:

    - H_g starts at the identity. Its pair is the change of the batch's mean s and of its mean
      gradient g from before the step to after it, both on the same mini-batch, averaged
      exponentially over the steps (`pair_decay`), and damped twice (Algorithm 3): by Powell's rule
      against H_g with mu_1 = `powell`, so that s.y >= mu_1 y.H_g y, then against the identity, so
      that s.y >= mu_2 |s|^2, mu_2 = min(sqrt(damping), 1).
    - H_a starts at the exact inverse (for convolutions A is summed over the places, as in K-FAC).
      Its pair ("Hessian action") is s = H_a E[abar], y = (A + sqrt(damping) I) s.

    Pairs that are nearly flat are left out (s.y <= 1e-4 |s|^2 |E[g]|), pairs that are not finite
    too, and counted. A change of g that is within the rounding of its terms counts as zero. There
    is one inverse at the start; after that every update is of rank two. The mean s is W E[abar],
    for convolutions over examples and places. A regulariser in the loss adds its curvature to the
    damping. Parameters without a block of the form A (x) G with a dense A (embeddings,
    normalisations, unknown layers) are updated by `fallback`; `layer_coverage()` lists both.

    Cost: 2 gradients a step, the second at the new point (and only by the layers' outputs); in^2
    multiplications a position for A, 6 (in^2 + out^2) for the updates, in out (in + out) for the
    direction. State per layer: 2 in^2 + out^2 + in out + 2 out floats.

    Differences from the authors' code: E[abar] has a one for the bias, where it has the mean of all
    other entries; A is a plain mean in the first steps, where it is first measured on the whole
    training set; weight decay is decoupled, where the code adds an L2 term to the gradient; and the
    Hessian is that of the canonical loss.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        momentum: of the gradient (beta).
        damping: lambda, for a loss that is summed over outputs and averaged over examples (0.3 in
            the authors' code).
        decay: of A, at most.
        pair_decay: of the pairs of H_g; 0 takes each pair as it is, for full batches.
        powell: mu_1.
        statistics_period: steps between two updates of the factors; only these steps have a second
            gradient.
        shared_weights: `expand` (positions count as examples) or `reduce` (they are summed within
            an example).
        max_dim: layers with a larger side are left to the fallback; None for no limit.
        max_gib: the factors' largest total size.
        skip: names, or parts of names, of parameters that are left to the fallback.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for parameters that cannot be preconditioned.
        fallback_lr: its learning rate; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the factors would need more than `max_gib`.
    """

    rule = "kbfgs"
    needs = frozenset({"layers"})
    parallel = True  # what layers record is summed over the ranks

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.3,
        momentum: float = 0.9,
        damping: float = 0.03,
        decay: float = 0.9,
        pair_decay: float = 0.9,
        powell: float = 0.2,
        statistics_period: int = 1,
        shared_weights: str = "expand",
        max_dim: int | None = None,
        max_gib: float = 8.0,
        skip: Sequence[str] = (),
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        require_range("decay", decay, high=1)
        require_range("pair_decay", pair_decay, high=1)
        require_range("powell", powell, high=1)
        self.decay = decay
        self.pair_decay = pair_decay
        self.powell = powell
        self._before: dict[Block, _Means] = {}
        self._number: dict[Block, int] = {}
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "kl_clip": None,
                "damping": damping,
                "weight_decay": weight_decay,
                "fallback_lr": fallback_lr,
            },
            statistics_period=statistics_period,
            inverse_period=statistics_period,
            momentum_of="gradient",
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

    def telemetry(self) -> dict[str, float]:
        """Those of the base, and the largest `condition` of H_a and H_g."""
        return {**super().telemetry(), "condition": self._condition()}

    # -- the blocks' state -------------------------------------------------------------------------

    def _find_blocks(self, objective: Objective) -> list[Block]:
        blocks = [block for block in super()._find_blocks(objective) if self._fits(block)]
        require_fitting(self, blocks, float("inf"), self.max_gib)
        numbers = {
            id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]
        }
        self._number = {block: numbers[id(block.parameters[0])] for block in blocks}
        return blocks

    def _fits(self, block: Block) -> bool:
        """Whether a block is a plain A (x) G with two matrices that are small enough."""
        if not isinstance(block, KroneckerBlock) or any(
            linear_map.one_hot or linear_map.transposed for linear_map in block.maps
        ):
            return False
        sides = block.matrix([parameter.detach() for parameter in block.parameters]).shape[-2:]
        return self.max_dim is None or max(sides) <= self.max_dim

    def _sums(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        """The sum of abar abar' over all positions, over the terms, and those of `_totals`."""
        totals, moments = self._totals(block, passes, measure), block.sums(passes, measure)
        return None if totals is None or moments is None else {**totals, "a": moments["a"]}

    def _totals(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        """The sums of abar, g and |g| over all positions, and the number of these."""
        assert isinstance(block, KroneckerBlock)
        totals: Tensors = {}
        for linear_map, value, (gradient,) in block.uses(passes):
            new = _use(block, linear_map, value.to(block.dtype), gradient.to(block.dtype), measure)
            totals = {
                name: linear_map.placed(tensor) + totals.get(name, 0)
                for name, tensor in new.items()
            }
        return totals or None

    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        state["updates"] = state.get("updates", 0) + 1
        keep = min(1 - 1 / state["updates"], self.decay)
        state["a"] = (
            sums["a"] if "a" not in state else state["a"].mul_(keep).add_(sums["a"], alpha=1 - keep)
        )
        self._before[block] = _Means(block, sums)

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        """The first H_a and H_g of blocks that have none."""
        new = [
            block
            for block in blocks
            if not self._ready(block) and "a" in self.state[block.parameters[0]]
        ]
        damped = [
            _shifted(self.state[block.parameters[0]]["a"], self._shift(block, objective))
            for block in new
        ]
        for block, inverse in zip(new, inverses_positive(damped), strict=True):
            if inverse is None:
                self.failures["inverse"] += 1
                continue
            state, out = (
                self.state[block.parameters[0]],
                block.matrix(list(block.parameters)).shape[-2],
            )
            one = torch.eye(out, dtype=inverse.dtype, device=inverse.device)
            state["a_inverse"], state["g_inverse"] = inverse, one.repeat(*inverse.shape[:-2], 1, 1)

    def _ready(self, block: Block) -> bool:
        return "g_inverse" in self.state[block.parameters[0]]

    def _shift(self, block: Block, objective: Objective) -> float:
        """sqrt(damping), the regulariser's curvature included."""
        return float((self._group(block)["damping"] + objective.l2 / objective.scale) ** 0.5)

    def _group(self, block: Block) -> dict[str, Any]:
        return self.param_groups[self._number[block]]

    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        direction: Tensor = state["g_inverse"] @ gradient @ state["a_inverse"]
        return direction

    # -- the pairs ---------------------------------------------------------------------------------

    def _move(self, objective: Objective, curvature: Curvature | None) -> None:
        super()._move(objective, curvature)
        if self._before:
            self._learn(objective)
        self._before.clear()

    @phased("curvature")
    def _learn(self, objective: Objective) -> None:
        """Update both factors of all blocks with what the step did to the same mini-batch."""
        kinds = tuple({type(module) for block in self._before for module in block.modules})
        passes = objective.scores(kinds, "empirical", gradient=False)[1]
        totals = self._totals_after(objective, passes)
        good = []
        for block, sums in totals.items():
            state, shift = self.state[block.parameters[0]], self._shift(block, objective)
            good.append(self._learn_output(state, self._before[block], _Means(block, sums), shift))
            good.append(self._learn_input(state, self._before[block].abar, shift))
        left_out = sum(int((~each).sum()) for each in good)
        if left_out:
            self.failures["pair"] += left_out

    def _totals_after(self, objective: Objective, passes: list[Captured]) -> dict[Block, Tensors]:
        """The sums after the step, over the ranks, of the blocks that have inverses."""
        measure = Measure(objective.terms, objective.scale, self.shared_weights == "reduce")
        ready = [block for block in self._before if self._ready(block)]
        totals = {}
        for block in ready:
            sums = self._totals(block, passes, measure)
            if sums is not None:
                totals[block] = sums
        objective.ranks.all_reduce_(
            [tensor for sums in totals.values() for tensor in sums.values()]
        )
        return totals

    def _learn_output(
        self, state: dict[str, Any], before: _Means, after: _Means, shift: float
    ) -> Tensor:
        """Update H_g; whether there was something to learn."""
        pair = {"s": after.s - before.s, "y": after.change_since(before)}
        fine = torch.isfinite((pair["s"] + pair["y"]).sum(-1))
        for name, part in pair.items():
            known = state.get(name, torch.zeros_like(part))
            state[name] = torch.where(
                fine.unsqueeze(-1), known.lerp(part, 1 - self.pair_decay), known
            )
        s, y = double_damped(
            state["g_inverse"], state["s"], state["y"], self.powell, min(shift, 1.0)
        )
        new, good = bfgs(state["g_inverse"], s, y, before.g)
        state["g_inverse"] = torch.where(fine[..., None, None], new, state["g_inverse"])
        return good & fine

    def _learn_input(self, state: dict[str, Any], abar: Tensor, shift: float) -> Tensor:
        """Update H_a; whether there was something to learn."""
        s = times(state["a_inverse"], abar)
        y = times(state["a"], s) + shift * s
        state["a_inverse"], good = bfgs(state["a_inverse"], s, y, abar)
        return good

    def _condition(self) -> float:
        """The largest condition number among H_a and H_g."""
        numbers = [0.0]
        for block in self._blocks or []:
            state = self.state[block.parameters[0]]
            for inverse in (state[name] for name in ("a_inverse", "g_inverse") if name in state):
                values = torch.linalg.eigvalsh(inverse)
                numbers.append(float((values.amax(-1) / values.amin(-1)).max()))
        return max(numbers)


def _use(
    block: KroneckerBlock, linear_map: LinearMap, value: Tensor, gradient: Tensor, measure: Measure
) -> Tensors:
    """The sums over a use's positions; rows are linear in the inputs, whose sum gives theirs."""
    rows = linear_map.gradients(gradient) * (measure.terms / measure.scale)  # (..., N, T, out)
    positions, count = rows.shape[-2], rows.shape[-3] * rows.shape[-2]
    columns = [linear_map.inputs(value.sum(0, keepdim=True)).sum((-3, -2))] if block.weight else []
    columns += [rows.new_full((*rows.shape[:-3], 1), float(count))] if block.bias else []
    abar = torch.cat(columns, dim=-1)
    if measure.reduce:
        rows, abar, count = rows.sum(-2, keepdim=True), abar / positions, count // positions
    return {
        "abar": abar,
        "g": rows.sum((-3, -2)),
        "size": rows.abs().sum((-3, -2)),
        "rows": abar.new_tensor(float(count)),
    }


class _Means:
    """The means over a mini-batch's positions of s = W abar, g, |g| and abar."""

    def __init__(self, block: Block, sums: Tensors) -> None:
        rows = sums["rows"].clamp(min=1).unsqueeze(-1)
        self.abar, self.g, self.size = sums["abar"] / rows, sums["g"] / rows, sums["size"] / rows
        self.s = times(
            block.matrix([parameter.detach() for parameter in block.parameters]), self.abar
        )

    def change_since(self, before: _Means) -> Tensor:
        """The change of g, zero within rounding, where its sign is chance (keys of attention)."""
        change = self.g - before.g
        rounding = 32 * torch.finfo(change.dtype).eps * torch.maximum(self.size, before.size)
        return torch.where(change.abs() <= rounding, torch.zeros_like(change), change)


def _shifted(matrix: Tensor, shift: float) -> Tensor:
    shifted = matrix.clone()
    shifted.diagonal(dim1=-2, dim2=-1).add_(shift)
    return shifted
