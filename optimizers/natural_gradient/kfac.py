"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from optimizers.linalg.curvature import Curvature
from optimizers.method import require_choice, require_range
from optimizers.natural_gradient.blocks import Block, Tensors
from optimizers.natural_gradient.factored import Factored, require_fitting
from optimizers.natural_gradient.inverses import INVERSES, State, factors_of
from optimizers.natural_gradient.step_rules import Changes, damping_rule_of, step_rule_of
from optimizers.natural_gradient.workshare import gathered_flags, hand_out, owners_of
from optimizers.objective import Objective

SPLITS = ("trace", "equal")


class KFAC(Factored):
    r"""Kronecker-factored approximate curvature (Martens and Grosse, 2015, arXiv 1503.05671).

    The Fisher matrix of a layer with input abar and output gradient g is approximated by A (x) G, A
    = E[abar abar'], G = E[g g'] under targets drawn from the model (convolutions: Grosse and
    Martens, 2016, arXiv 1602.01407; shared weights: Eschenhagen et al., 2023, arXiv 2311.00636;
    scale and shift of a normalisation: the exact 2 x 2 block of each channel). The gradient W' of a
    layer becomes U = (G + sqrt(damping) / pi I)^{-1} W' (A + pi sqrt(damping) I)^{-1}.

    Step rule `lr`: U is shortened so that its predicted change nu^2 lr^2 sum U.W' stays below
    `kl_clip`, goes through heavy-ball momentum, b = momentum b + nu U, and theta -= lr b. Step rule
    `exact` (section 7 of the paper): theta += alpha U + mu d, d the last step, alpha and mu
    minimising the quadratic model with the exact Fisher matrix by two products with it; `momentum`
    and `kl_clip` are not used then, a schedule of `lr` scales the step, and nothing needs tuning.

    Damping rule `fixed`; `decay`: damping *= damping_decay in every step, down to `min_damping`; or
    `adaptive` (section 6.5, after Levenberg and Marquardt): every `damping_period` steps it shrinks
    or grows by damping_decay^period as the model predicted the loss well or badly. A regulariser in
    the loss adds its curvature to the damping.

    Parameters without a block (those of unknown layers) are updated by `fallback`;
    `layer_coverage()` lists both.

    Cost: 1 gradient a step; a statistics update 1 more backward pass and (in^2 + out^2)
    multiplications a position, an inverse in^3 + out^3; `exact` 1 more gradient's graph and 2
    products with the Fisher matrix. State per layer: 2 (in^2 + out^2) + in out floats.

    Differences from the paper: one damping for inverse and model, where the paper adapts a second
    one (gamma).

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        momentum: the share that is kept of the last steps.
        momentum_of: `direction`: b above; `gradient`: W' is replaced by M = momentum M + (1 -
            momentum) W', and theta -= lr nu U; rates of that are 1 / (1 - momentum) times as large.
        damping: lambda, for a loss that is summed over outputs and averaged over examples.
        kl_clip: the largest predicted change of the loss's quadratic form in a step; None for no
            clip.
        decay: of the factors' exponential averages, at most (the average is plain in the first
            steps).
        statistics_period, inverse_period: the number of steps between two updates of factors and of
            inverses.
        first_inverses: the number of first steps that each renew the inverses, whose factors still
            change much then.
        fisher: `sampled` (the true Fisher by one drawn target), `exact` (summed over all outputs)
            or `empirical`.
        step_rule: `lr` or `exact`.
        damping_rule: `fixed`, `decay` or `adaptive`.
        damping_decay, damping_period, min_damping: see above.
        curvature_share: the share of the mini-batch whose exact Fisher matrix the quadratic model
            takes.
        statistics_share: the share of the mini-batch that the factors are estimated on.
        shared_weights: `expand` (positions count as examples) or `reduce` (they are summed within
            an example).
        inverse: `cholesky` (None is the same), or `eigen` for (A (x) G + damping I)^{-1} without
            the factored damping's cross terms.
        damping_split: pi^2 above, `trace`: the ratio of the factors' mean eigenvalues; `equal`: 1,
            which damps more where one factor is small and the other has large eigenvalues.
        distribution: with several ranks each computes the inverses of its share of the blocks;
            `communication` gives them to all, `memory` lets each rank keep its own and sums the
            directions in every step.
        staggered: spread statistics and inverses over the steps of their periods.
        averaging: of the iterates, xi: the average is what `eval()` puts in place of the
            parameters; 0 for none.
        batch_growth: the number of mini-batches joined for step k is batch_growth^k, at most
            `max_batches`.
        max_dim: the size above which only a factor's diagonal is kept; None for no limit.
        max_gib: the factors' largest total size.
        skip: names, or parts of names, of parameters that are left to the fallback.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for parameters that cannot be preconditioned.
        fallback_lr: its learning rate; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the factors would need more than `max_gib`.
    """

    rule = "kfac"
    inverse_choices: tuple[str, ...] = tuple(INVERSES)
    split_choices: tuple[str, ...] = SPLITS
    distribution_choices: tuple[str, ...] = ("communication", "memory")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        momentum_of: str = "direction",
        damping: float = 0.03,
        kl_clip: float | None = 1e-3,
        decay: float = 0.95,
        statistics_period: int = 5,
        inverse_period: int = 20,
        first_inverses: int = 1,
        fisher: str = "sampled",
        step_rule: str = "lr",
        damping_rule: str = "fixed",
        damping_decay: float = 0.95,
        damping_period: int = 5,
        min_damping: float = 1e-8,
        curvature_share: float = 1.0,
        statistics_share: float = 1.0,
        shared_weights: str = "expand",
        inverse: str | None = None,
        damping_split: str = "trace",
        distribution: str = "communication",
        staggered: bool = False,
        averaging: float = 0.0,
        batch_growth: float = 1.0,
        max_batches: int = 16,
        max_dim: int | None = None,
        max_gib: float = 8.0,
        skip: Sequence[str] = (),
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 1e-3,
    ) -> None:
        if kl_clip is not None:
            require_range("kl_clip", kl_clip, open_low=True)
        require_range("decay", decay, high=1)
        self.damping_rule = damping_rule_of(
            damping_rule, damping_decay, damping_period, min_damping
        )
        self.step_rule = step_rule_of(step_rule, self.damping_rule, curvature_share, momentum_of)
        inverse = self.inverse_choices[0] if inverse is None else inverse
        require_choice("inverse", inverse, self.inverse_choices)
        require_choice("damping_split", damping_split, self.split_choices)
        require_choice("distribution", distribution, self.distribution_choices)
        self.decay = decay
        self.inverses = INVERSES[inverse](damping_split)
        self.distribution = distribution
        self._ranks: SingleProcess = SINGLE_PROCESS
        self._elsewhere: set[int] = set()  # blocks whose inverse some rank holds
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
            inverse_period=inverse_period,
            first_inverses=first_inverses,
            momentum_of=momentum_of,
            fisher=fisher,
            statistics_share=statistics_share,
            shared_weights=shared_weights,
            staggered=staggered,
            averaging=averaging,
            batch_growth=batch_growth,
            max_batches=max_batches,
            max_dim=max_dim,
            max_gib=max_gib,
            skip=skip,
            fallback=fallback,
        )
        self.needs = type(self).needs | self.step_rule.needs | self.damping_rule.needs

    def telemetry(self) -> dict[str, float]:
        """Those of the base, `reduction_ratio` and the factors' `condition`."""
        return {
            **super().telemetry(),
            "reduction_ratio": self.damping_rule.ratio,
            "condition": self._condition(),
        }

    # -- the blocks' state -------------------------------------------------------------------------

    def _find_blocks(self, objective: Objective) -> list[Block]:
        blocks = super()._find_blocks(objective)
        require_fitting(self, blocks, self.max_dim or float("inf"), self.max_gib)
        return blocks

    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        state["updates"] = state.get("updates", 0.0) + share
        keep = min(1 - share / state["updates"], self.decay**share)
        for name, new in block.factors(sums).items():
            state[name] = (
                new if name not in state else state[name].mul_(keep).add_(new, alpha=1 - keep)
            )

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        dampings = self._dampings(blocks, objective)
        states = [self.state[block.parameters[0]] for block in blocks]
        work = list(zip(blocks, states, dampings, strict=True))
        if objective.ranks.size == 1:
            self.inverses.refresh(work, self.failures)
            return
        self._ranks = objective.ranks
        owner = self._owners()
        own = [part for part in work if owner[id(part[0])] == self._ranks.rank]
        self.inverses.refresh(own, self.failures)
        held = list(zip(blocks, states, strict=True))
        if self.distribution == "communication":
            self._elsewhere |= hand_out(held, owner, self.inverses, self._ranks)
        else:
            self._elsewhere |= self._dropped(held, owner)

    def _dropped(self, held: Sequence[tuple[Block, State]], owner: dict[int, int]) -> set[int]:
        """Drop the inverses of other ranks' blocks, which a checkpoint brings.

        Returns the `id`s of the blocks with an inverse on some rank.
        """
        for block, state in held:
            if owner[id(block)] != self._ranks.rank:
                for name in self.inverses.stored(state):
                    del state[name]
        flags = [bool(self.inverses.stored(state)) for _, state in held]
        return gathered_flags(held, flags, self._ranks)

    def _owners(self) -> dict[int, int]:
        return owners_of(self._blocks or [], self._ranks.size)

    def state_dict(self) -> dict[str, Any]:
        """The whole state on every rank, the inverses that other ranks hold included."""
        if self._ranks.size == 1 or self.distribution == "communication":
            return super().state_dict()
        held = [
            (block, self.state[block.parameters[0]])
            for block in self._blocks or []
            if self._ready(block)
        ]
        before = [self.inverses.stored(state) for _, state in held]
        hand_out(held, self._owners(), self.inverses, self._ranks)
        whole = super().state_dict()
        whole["state"] = {number: dict(state) for number, state in whole["state"].items()}
        for (_, state), names in zip(held, before, strict=True):
            for name in set(self.inverses.stored(state)) - set(names):
                del state[name]
        return whole

    def _solved(
        self,
        blocks: Sequence[Block],
        gradients: Sequence[Tensor],
        dampings: Sequence[float],
        objective: Objective,
    ) -> list[Tensor]:
        ranks = objective.ranks
        if ranks.size == 1 or self.distribution == "communication":
            return super()._solved(blocks, gradients, dampings, objective)
        owner = self._owners()
        mine = [number for number, block in enumerate(blocks) if owner[id(block)] == ranks.rank]
        directions = [torch.zeros_like(gradient) for gradient in gradients]
        of_mine = (
            [blocks[i] for i in mine],
            [gradients[i] for i in mine],
            [dampings[i] for i in mine],
        )
        solved = super()._solved(*of_mine, objective)
        for number, direction in zip(mine, solved, strict=True):
            directions[number] = direction.contiguous()
        ranks.all_reduce_(directions)
        return directions

    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        return self.inverses.solve(block, state, damping, gradient)

    def _ready(self, block: Block) -> bool:
        return id(block) in self._elsewhere or bool(
            self.inverses.stored(self.state.get(block.parameters[0], {}))
        )

    def _condition(self) -> float:
        """The largest condition number among the damped factors."""
        numbers = [0.0]
        for block in self._blocks or []:
            factors = factors_of(self.state[block.parameters[0]])
            for damped in (self._damped(block, factors) if factors else {}).values():
                values = torch.linalg.eigvalsh(damped) if block.is_dense(damped) else damped
                numbers.append(float((values.amax(-1) / values.amin(-1)).max()))
        return max(numbers)

    def _damped(self, block: Block, factors: Tensors) -> Tensors:
        return block.damped(factors, self.param_groups[0]["damping"], self.inverses.split)

    # -- the step ----------------------------------------------------------------------------------

    def _curvature(self, objective: Objective) -> Curvature | None:
        return self.step_rule.curvature(objective)

    def _changes(
        self,
        objective: Objective,
        directions: Changes,
        predicted: float,
        curvature: Curvature | None,
    ) -> Changes | None:
        changes = self.step_rule.changes(self, objective, directions, predicted, curvature)
        self.damping_rule.after_step(self.param_groups)
        return changes
