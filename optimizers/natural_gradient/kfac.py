"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.flat import flatten, unflatten
from optimizers.method import require_choice, require_range
from optimizers.natural_gradient.blocks import Block, Tensors
from optimizers.natural_gradient.factored import Factored, first_of, require_fitting
from optimizers.natural_gradient.inverses import KEEPING, factors_of
from optimizers.natural_gradient.quadratic import best_combination
from optimizers.natural_gradient.workshare import gathered_flags, hand_out, owners_of
from optimizers.objective import Objective
from optimizers.phases import phased

DAMPING_RULES = ("fixed", "decay", "adaptive")
STEP_RULES = ("lr", "exact")
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
    keeping: tuple[str, ...] = tuple(KEEPING)
    splits: tuple[str, ...] = SPLITS
    distributions: tuple[str, ...] = ("communication", "memory")

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
        require_choice("step_rule", step_rule, STEP_RULES)
        if step_rule == "exact" and momentum_of == "gradient":
            raise ValueError(
                "step_rule=exact has a momentum of its own; take momentum_of=direction"
            )
        require_choice("damping_rule", damping_rule, DAMPING_RULES)
        require_range("damping_decay", damping_decay, high=1, open_low=True)
        require_range("damping_period", damping_period, low=1, whole=True)
        require_range("min_damping", min_damping)
        require_range("curvature_share", curvature_share, high=1, open_low=True)
        inverse = self.keeping[0] if inverse is None else inverse
        require_choice("inverse", inverse, self.keeping)
        require_choice("damping_split", damping_split, self.splits)
        require_choice("distribution", distribution, self.distributions)
        self.decay = decay
        self.step_rule = step_rule
        self.damping_rule = damping_rule
        self.damping_decay = damping_decay
        self.damping_period = damping_period
        self.min_damping = min_damping
        self.rule_of_damping: RatioRule | None = None
        if damping_rule == "adaptive":
            shrink = damping_decay**damping_period
            if not 1e-100 < shrink < 1:
                raise ValueError(
                    "damping_rule=adaptive needs damping_decay below 1 and "
                    "damping_decay^damping_period not "
                    f"vanishing, got {damping_decay} and {damping_period}; take damping_decay=0.95 "
                    f"and damping_period=5"
                )
            self.rule_of_damping = RatioRule(1 / shrink, shrink, smallest=min_damping)
        self.curvature_share = curvature_share
        self.inverses = KEEPING[inverse](damping_split)
        self._ratio = float("nan")
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
        if step_rule == "exact" or damping_rule == "adaptive":
            self.needs = type(self).needs | {"ggn"}

    def telemetry(self) -> dict[str, float]:
        return {
            **super().telemetry(),
            "reduction_ratio": self._ratio,
            "condition": self._condition(),
        }

    # -- the blocks' state -------------------------------------------------------------------------

    def _find_blocks(self, objective: Objective) -> list[Block]:
        blocks = super()._find_blocks(objective)
        require_fitting(self, blocks, self.max_dim or float("inf"), self.max_gib)
        return blocks

    def _fold(self, block: Block, state: dict[str, Any], sums: Tensors, share: float) -> None:
        state["updates"] = state.get("updates", 0.0) + share
        keep = min(1 - share / state["updates"], self.decay**share)
        for name, new in block.factors(sums).items():
            state[name] = (
                new if name not in state else state[name].mul_(keep).add_(new, alpha=1 - keep)
            )

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        group_of = {id(p): group for group in self.param_groups for p in group["params"]}
        ranks, regulariser = objective.ranks, objective.l2 / objective.scale
        states = [self.state[block.parameters[0]] for block in blocks]
        dampings = [group_of[id(block.parameters[0])]["damping"] + regulariser for block in blocks]
        work = list(zip(blocks, states, dampings, strict=True))
        if ranks.size == 1:
            self.inverses.refresh(work, self.failures)
            return
        self._ranks = ranks
        owner = self._owners()
        self.inverses.refresh(
            [part for part in work if owner[id(part[0])] == ranks.rank], self.failures
        )
        held = list(zip(blocks, states, strict=True))
        if self.distribution == "communication":
            self._elsewhere |= hand_out(held, owner, self.inverses, ranks)
            return
        for block, state in held:
            if owner[id(block)] != ranks.rank:
                for name in self.inverses.kept(state):  # loaded from a checkpoint
                    del state[name]
        self._elsewhere |= gathered_flags(
            held, [bool(self.inverses.kept(state)) for state in states], ranks
        )

    def _owners(self) -> dict[int, int]:
        return owners_of(self._blocks or [], self._ranks.size)

    def state_dict(self) -> dict[str, Any]:
        if self._ranks.size == 1 or self.distribution == "communication":
            return super().state_dict()
        held = [
            (block, self.state[block.parameters[0]])
            for block in self._blocks or []
            if self._ready(block)
        ]
        before = [self.inverses.kept(state) for _, state in held]
        hand_out(held, self._owners(), self.inverses, self._ranks)
        whole = super().state_dict()
        whole["state"] = {number: dict(state) for number, state in whole["state"].items()}
        for (_, state), names in zip(held, before, strict=True):
            for name in set(self.inverses.kept(state)) - set(names):
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
        found = [torch.zeros_like(gradient) for gradient in gradients]
        of_mine = (
            [blocks[i] for i in mine],
            [gradients[i] for i in mine],
            [dampings[i] for i in mine],
        )
        solved = super()._solved(*of_mine, objective)
        for number, direction in zip(mine, solved, strict=True):
            found[number] = direction.contiguous()
        ranks.all_reduce_(found)
        return found

    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        return self.inverses.solve(block, state, damping, gradient)

    def _ready(self, block: Block) -> bool:
        return id(block) in self._elsewhere or bool(
            self.inverses.kept(self.state.get(block.parameters[0], {}))
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
        return objective.ggn() if self.step_rule == "exact" and self.curvature_share == 1 else None

    def _deltas(
        self,
        objective: Objective,
        directions: dict[Tensor, Tensor],
        predicted: float,
        curvature: Curvature | None,
    ) -> dict[Tensor, Tensor] | None:
        group = self.param_groups[0]
        judged = self.rule_of_damping is not None and (group["step"] + 1) % self.damping_period == 0
        if self.step_rule == "lr" and not judged:
            deltas = super()._deltas(objective, directions, predicted, curvature)
        elif self.step_rule == "lr":
            held = {
                p: self.state[p]["momentum_buffer"].clone()
                for p in directions
                if "momentum_buffer" in self.state[p]
            }
            deltas = self._judged(
                objective, super()._deltas(objective, directions, predicted, curvature) or {}
            )
            for parameter in (
                directions if deltas is None else ()
            ):  # a refused step leaves no momentum
                buffer = self.state[parameter]["momentum_buffer"]
                buffer.copy_(held.get(parameter, torch.zeros_like(buffer)))
        else:
            deltas = self._modelled(objective, directions, curvature, judged)
        if self.damping_rule == "decay":
            for group in self.param_groups:
                group["damping"] = max(group["damping"] * self.damping_decay, self.min_damping)
        return deltas

    def _judged(
        self, objective: Objective, deltas: dict[Tensor, Tensor]
    ) -> dict[Tensor, Tensor] | None:
        """The same step, its predicted change taken from the exact Fisher matrix and compared with the real one."""
        curvature = objective.ggn()
        step = _flat(objective, deltas)
        image = curvature(step) + objective.scale * self.param_groups[0]["damping"] * step
        change = float(curvature.gradient @ step + step @ image / 2)
        return deltas if self._judge(objective, curvature.loss, step, change) else None

    def _modelled(
        self,
        objective: Objective,
        directions: dict[Tensor, Tensor],
        curvature: Curvature | None,
        judged: bool,
    ) -> dict[Tensor, Tensor] | None:
        """The step alpha U + mu d that minimises the quadratic model.

        What is remembered of it is d.
        """
        part = objective
        if curvature is None:
            part = first_of(objective, self.curvature_share)
            curvature = part.ggn()
        weight, damping = (
            objective.scale / part.scale,
            objective.scale * self.param_groups[0]["damping"],
        )
        damping -= (weight - 1) * objective.l2  # the regulariser is no sum over examples
        exact = curvature

        def product(vector: Tensor) -> Tensor:
            image: Tensor = weight * exact(vector) + damping * vector
            return image

        scheduled: dict[Tensor, float] = {
            p: _scheduled(group)
            for group in self.param_groups
            for p in group["params"]
            if p in directions
        }
        chosen = {p: direction for p, direction in directions.items() if scheduled[p]}
        if not chosen:
            return {}
        choice = [_flat(objective, chosen)]
        last = {p: self.state[p]["last_step"] for p in chosen if "last_step" in self.state[p]}
        if last:
            choice.append(_flat(objective, last))
        found = best_combination(product, objective.gradient(), choice)
        if found is None:
            return None
        coefficients, change = found
        best = torch.stack(
            [c * direction for c, direction in zip(coefficients, choice, strict=True)]
        ).sum(0)
        parts: dict[Tensor, Tensor] = dict(
            zip(objective.params, unflatten(best, objective.params), strict=True)
        )
        deltas = {p: scheduled[p] * parts[p] for p in chosen}
        share = _scheduled(self.param_groups[0])
        loss = curvature.loss if part is objective else None
        # at the minimum q = b.x / 2 and x'Mx = -b.x, so that a share of the step has the change (2
        # s - s^2) q
        if judged and not self._judge(
            objective, loss, _flat(objective, deltas), (2 - share) * share * change
        ):
            return None
        for parameter, delta in deltas.items():
            self.state[parameter]["last_step"] = delta
        return deltas

    @phased("line search")
    def _judge(
        self, objective: Objective, before: Tensor | None, step: Tensor, change: float
    ) -> bool:
        """Adapt the damping to what the step does to the loss; False if that is not a number."""
        assert self.rule_of_damping is not None
        first = float(objective.value() if before is None else before)
        after = float(objective.value(step))
        self._ratio = reduction_ratio(first, after, -change, torch.finfo(step.dtype).eps)
        for group in self.param_groups:
            group["damping"] = self.rule_of_damping(group["damping"], self._ratio)
        return isfinite(after)


def _scheduled(group: dict[str, Any]) -> float:
    """What a schedule has made of the learning rate, as a share of the first one."""
    share: float = group["lr"] / group["initial_lr"] if group["initial_lr"] else 0.0
    return share


def _flat(objective: Objective, parts: Mapping[Tensor, Tensor]) -> Tensor:
    """The parts as one vector in the objective's order, zero for all other parameters."""
    return flatten(parts.get(p, torch.zeros_like(p)) for p in objective.params)
