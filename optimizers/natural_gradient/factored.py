"""The step of layer-wise natural-gradient methods: blocks, statistics, fallback, move."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.averaging import Averaging
from optimizers.errors import UnsupportedError
from optimizers.fallback import FALLBACKS, scheduled_rate
from optimizers.layers.capture import Captured
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.flat import unflatten
from optimizers.method import Method, require_choice, require_range, require_words
from optimizers.natural_gradient.blocks import Block, Measure, Tensors
from optimizers.natural_gradient.model_blocks import blocks_of
from optimizers.objective import Objective
from optimizers.phases import phase, phased

Evidence = tuple[Objective, list[Captured], float]  # a part, its passes, its share of an update

FISHERS = ("sampled", "exact", "empirical")
SHARING = ("expand", "reduce")
MOMENTA = ("direction", "gradient")


class Factored(Averaging):
    """A preconditioner for each layer's block of the Fisher matrix, which a subclass defines.

    A step: the gradient; every `statistics_period` steps what the layers see under the Fisher
    matrix's targets, with which the state of each block is updated; every `inverse_period` steps,
    and in each of the first `first_inverses`, the blocks' inverses; then the move. Parameters
    without a block are updated by the named fallback. With `staggered` each step takes its share of
    both: statistics of 1 / statistics_period of the mini-batch, and the inverses of 1 /
    inverse_period of the blocks.

    A subclass defines `rule` (its word in `layer_coverage`), `_update_statistics`, `_refresh` and
    `_direction`.
    """

    rule: str
    needs = frozenset({"layers", "sampled"})
    parallel = True  # what layers record is summed over the ranks

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        *,
        statistics_period: int,
        inverse_period: int,
        first_inverses: int = 1,
        momentum_of: str = "direction",
        fisher: str,
        statistics_share: float,
        shared_weights: str,
        staggered: bool,
        averaging: float,
        batch_growth: float,
        max_batches: int,
        max_dim: int | None,
        max_gib: float,
        skip: Sequence[str],
        fallback: str,
    ) -> None:
        require_range("lr", defaults["lr"])
        require_range("momentum", defaults["momentum"], high=1)
        require_range("damping", defaults["damping"], open_low=True)
        require_range("weight_decay", defaults["weight_decay"])
        require_range("fallback_lr", defaults["fallback_lr"])
        require_range("statistics_period", statistics_period, low=1, whole=True)
        require_range("inverse_period", inverse_period, low=1, whole=True)
        require_range("first_inverses", first_inverses, low=1, whole=True)
        require_range("statistics_share", statistics_share, high=1, open_low=True)
        require_range("averaging", averaging, high=1)
        require_range("batch_growth", batch_growth, low=1)
        require_range("max_batches", max_batches, low=1, whole=True)
        if max_dim is not None:
            require_range("max_dim", max_dim, low=1, whole=True)
        require_range("max_gib", max_gib, open_low=True)
        require_words("skip", skip)
        require_choice("fisher", fisher, FISHERS)
        require_choice("shared_weights", shared_weights, SHARING)
        require_choice("fallback", fallback, FALLBACKS)
        require_choice("momentum_of", momentum_of, MOMENTA)
        self.statistics_period = statistics_period
        self.inverse_period = inverse_period
        self.first_inverses = first_inverses
        self.momentum_of = momentum_of
        self.fisher = fisher
        self.statistics_share = statistics_share
        self.shared_weights = shared_weights
        self.staggered = staggered
        self.averaging = averaging
        self.batch_growth = batch_growth
        self.max_batches = max_batches
        self.max_dim = max_dim
        self.max_gib = max_gib
        self.skip = tuple(skip)
        self.fallback = fallback
        self._blocks: list[Block] | None = None
        super().__init__(params, {**defaults, "step": 0, "refreshed": 0})
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Move along F^{-1} g, F the damped block-diagonal Fisher matrix."""
        self.train()
        if self._blocks is None:
            self._blocks = self._find_blocks(objective)
        step = self.param_groups[0]["step"]
        joined = self._joined(step)
        if joined > 1:
            objective = objective.joined(joined)
        curvature = self._curvature(objective)
        loss, seen = self._evaluate(objective, step, curvature)
        if not self.finite(loss, objective):
            return loss
        for part, passes, share in seen:
            self._observe(part, passes, share)
        due = self._due(step)
        if due:
            with phase("inverse"):
                self._refresh(due, objective)
            with phase("curvature"):
                for part, passes, share in seen:
                    self._re_estimate(due, part, passes, share)
            self.param_groups[0]["refreshed"] = step
        self._move(objective, curvature)
        for group in self.param_groups:
            group["step"] += 1
        return loss

    def _joined(self, step: int) -> int:
        """The number of mini-batches that make up a step's."""
        try:
            return int(min(self.batch_growth**step, self.max_batches))
        except OverflowError:
            return self.max_batches

    def layer_coverage(self) -> dict[str, str]:
        """The rule that updates each named parameter: the method's or the fallback's.

        The rules are known after the first step.
        """
        covered = {
            id(p) for block in self._blocks or [] if self._ready(block) for p in block.parameters
        }
        return {
            name: self.rule if id(parameter) in covered else self.fallback
            for name, parameter in zip(self.names(), self.parameters(), strict=True)
        }

    def telemetry(self) -> dict[str, float]:
        """`damping`, `age` of the inverses and the `preconditioned` share of the parameters."""
        group, params = self.param_groups[0], self.parameters()
        covered = [
            p.numel()
            for block in self._blocks or []
            if self._ready(block)
            for p in block.parameters
        ]
        return {
            **super().telemetry(),
            "damping": group["damping"],
            "age": float(group["step"] - 1 - group["refreshed"]),
            "preconditioned": sum(covered) / sum(parameter.numel() for parameter in params),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state, whose tensors keep their own precision."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self.parameters(), strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and key != "step":
                    self.state[parameter][key] = value.to(parameter.device, copy=True)

    # -- what a subclass defines -------------------------------------------------------------------

    @abstractmethod
    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        """Take the sums over a mini-batch into a block's state; `share` of a whole update."""

    @abstractmethod
    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        """Renew what is inverted or decomposed."""

    @abstractmethod
    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        """The preconditioned gradient of a block, both as its matrix, for the canonical loss."""

    @abstractmethod
    def _ready(self, block: Block) -> bool:
        """Whether the block has what `_direction` needs."""

    def _curvature(self, objective: Objective) -> Curvature | None:
        """The curvature of the step's length, with loss and gradient; None for methods without."""
        return None

    def _sums(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        """What a mini-batch adds to a block's state."""
        return block.sums(passes, measure)

    def _re_estimate(
        self, blocks: Sequence[Block], seen: Objective, passes: list[Captured], share: float
    ) -> None:
        """Take from a mini-batch what has to be measured again after a renewal, if anything."""

    # -- statistics --------------------------------------------------------------------------------

    def _find_blocks(self, objective: Objective) -> list[Block]:
        if not isinstance(objective, Objective):
            raise TypeError(
                f"{type(self).__name__}.step takes no closure of one's own, but "
                "Objective(model, loss_fn, inputs, targets): it asks for the model's layers"
            )
        skipped = {
            id(p)
            for name, p in objective.model.named_parameters()
            if any(word in name for word in self.skip)
        }
        group_of = {
            id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]
        }
        return blocks_of(
            objective.model, {key: group for key, group in group_of.items() if key not in skipped}
        )

    def _evaluate(
        self, objective: Objective, step: int, curvature: Curvature | None
    ) -> tuple[Tensor, list[Evidence]]:
        """Fill `.grad`; the loss, and what layers saw, if statistics are due."""
        assert self._blocks is not None
        kinds = tuple({type(module) for block in self._blocks for module in block.modules})
        part, share = self._statistics_part(objective, step)
        if part is objective and curvature is None:
            loss, passes = objective.scores(kinds, self.fisher)
            return loss, [(objective, passes, share)]
        loss = objective() if curvature is None else _fill_gradients(objective, curvature)
        if part is None or not bool(torch.isfinite(loss)):
            return loss, []
        with phase("curvature"):
            passes = part.scores(kinds, self.fisher, gradient=False)[1]
        return loss, [(part, passes, share)]

    def _statistics_part(self, objective: Objective, step: int) -> tuple[Objective | None, float]:
        """The part of the mini-batch that gives this step's statistics; its share of an update."""
        if self.staggered and any(self._seen(block) for block in self._blocks or []):
            part = _slice(objective, step, self.statistics_period)
            return part, 0.0 if part is None else len(part.inputs) / len(objective.inputs)
        if step % self.statistics_period:
            return None, 1.0
        if self.statistics_share < 1:
            return first_of(objective, self.statistics_share), 1.0
        return objective, 1.0

    @phased("curvature")
    def _observe(self, seen: Objective, passes: list[Captured], share: float) -> None:
        assert self._blocks is not None
        measure = self._measure(seen)
        sums_of = [(block, self._sums(block, passes, measure)) for block in self._blocks]
        used = [(block, sums) for block, sums in sums_of if sums is not None]
        seen.ranks.all_reduce_([tensor for _, sums in used for tensor in sums.values()])
        for block, sums in used:
            if all(bool(torch.isfinite(tensor.sum())) for tensor in sums.values()):
                self._update_statistics(block, self.state[block.parameters[0]], sums, share)
            else:
                self.failures["statistics"] += 1

    def _measure(self, seen: Objective) -> Measure:
        return Measure(
            seen.terms, seen.scale, self.shared_weights == "reduce", self.max_dim or float("inf")
        )

    def _seen(self, block: Block) -> bool:
        """Whether there are statistics of the block."""
        return "updates" in self.state.get(block.parameters[0], {})

    def _due(self, step: int) -> list[Block]:
        """The blocks whose inverses are to be renewed in this step."""
        blocks = [block for block in self._blocks or [] if self._seen(block)]
        if step < self.first_inverses:
            return blocks
        if not self.staggered:
            return [] if step % self.inverse_period else blocks
        turn, count = step % self.inverse_period, len(blocks)
        return [
            block
            for number, block in enumerate(blocks)
            if not self._ready(block) or number * self.inverse_period // count == turn
        ]

    # -- the move ----------------------------------------------------------------------------------

    def _move(self, objective: Objective, curvature: Curvature | None) -> None:
        """Step along the preconditioned gradients; the fallback for all parameters without one."""
        prepared = self._directions(objective)
        changes = None if prepared is None else self._changes(objective, *prepared, curvature)
        if changes is None:
            self.failures["step"] += 1
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in changes:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(changes[parameter])
            self._fall_back(group, changes)
        if self.averaging:
            self.average_iterates(self.param_groups[0]["step"] + 1)

    def _fall_back(self, group: dict[str, Any], changes: dict[Tensor, Tensor]) -> None:
        """Update a group's parameters that have a gradient and no change of their own."""
        rest = [p for p in group["params"] if p not in changes and p.grad is not None]
        if rest:
            options = {**group, "lr": scheduled_rate(group)}
            states = [self.state[parameter] for parameter in rest]
            gradients = [_gradient(parameter) for parameter in rest]
            FALLBACKS[self.fallback](rest, gradients, states, options)

    def _changes(
        self,
        objective: Objective,
        directions: dict[Tensor, Tensor],
        predicted: float,
        curvature: Curvature | None,
    ) -> dict[Tensor, Tensor] | None:
        """The changes of the parameters that have a direction; None refuses the step.

        `predicted` is sum lr^2 U.W' over them.
        """
        return self.heavy_ball(directions, predicted)

    def heavy_ball(
        self, directions: dict[Tensor, Tensor], predicted: float
    ) -> dict[Tensor, Tensor]:
        """-lr b, b the heavy-ball momentum of the clipped directions.

        With `momentum_of=gradient` b is the clipped direction itself.
        """
        changes = {}
        for group in self.param_groups:
            shrink = _clip(group["kl_clip"], predicted)
            for parameter in group["params"]:
                if parameter in directions:
                    changes[parameter] = -group["lr"] * self._step(
                        parameter, directions[parameter], group, shrink
                    )
        return changes

    @phased("precondition")
    def _directions(self, objective: Objective) -> tuple[dict[Tensor, Tensor], float] | None:
        """The preconditioned gradients, and sum lr^2 U.W', their predicted change.

        None if that is not a number. With `momentum_of=gradient` the gradients' averages are
        preconditioned.
        """
        ready = self._ready_blocks()
        group_of = self._group_of()
        inputs = {p: self._filtered(p, group_of[id(p)]) for b in ready for p in b.parameters}
        gradients = [
            block.matrix([inputs[p] for p in block.parameters]) / objective.scale for block in ready
        ]
        solved = self._solved(ready, gradients, self._dampings(ready, objective), objective)
        directions: dict[Tensor, Tensor] = {}
        predicted = torch.zeros((), device=objective.params[0].device)
        for block, gradient, direction in zip(ready, gradients, solved, strict=True):
            rate = group_of[id(block.parameters[0])]["lr"]
            predicted = predicted + rate**2 * (direction * gradient).sum()
            directions.update(zip(block.parameters, block.tensors(direction), strict=True))
        if not bool(torch.isfinite(predicted)):
            return None
        if self.momentum_of == "gradient":
            for parameter, average in inputs.items():
                self.state[parameter]["momentum_buffer"] = average
        return directions, float(predicted)

    def _ready_blocks(self) -> list[Block]:
        """The blocks with a preconditioner whose parameters all have a gradient."""
        return [block for block in self._blocks or [] if self._ready(block) and _driven(block)]

    def _group_of(self) -> dict[int, dict[str, Any]]:
        """The group of each parameter, by the parameter's `id`."""
        return {id(p): group for group in self.param_groups for p in group["params"]}

    def _dampings(self, blocks: Sequence[Block], objective: Objective) -> list[float]:
        """The damping of each block, the regulariser's curvature included."""
        group_of, regulariser = self._group_of(), objective.l2 / objective.scale
        return [group_of[id(block.parameters[0])]["damping"] + regulariser for block in blocks]

    def _solved(
        self,
        blocks: Sequence[Block],
        gradients: Sequence[Tensor],
        dampings: Sequence[float],
        objective: Objective,
    ) -> list[Tensor]:
        """The directions of the blocks, each as its matrix."""
        states = [self.state[block.parameters[0]] for block in blocks]
        return [
            self._direction(*each) for each in zip(blocks, states, gradients, dampings, strict=True)
        ]

    def _filtered(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """What is preconditioned: the gradient, or its exponential average."""
        gradient = _gradient(parameter)
        if self.momentum_of == "direction":
            return gradient
        average: Tensor = self.state[parameter].get("momentum_buffer", torch.zeros_like(gradient))
        return average.lerp(gradient, 1 - group["momentum"])

    def _step(
        self, parameter: Tensor, direction: Tensor, group: dict[str, Any], shrink: float
    ) -> Tensor:
        if self.momentum_of == "gradient":
            return shrink * direction
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = (
            state["momentum_buffer"].mul_(group["momentum"]).add_(direction, alpha=shrink)
        )
        return buffer


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _driven(block: Block) -> bool:
    """Whether all parameters of a block have a gradient."""
    return all(parameter.grad is not None for parameter in block.parameters)


def _fill_gradients(objective: Objective, curvature: Curvature) -> Tensor:
    """Put the gradient that came with a curvature into `.grad`; the loss that came with it."""
    parts = unflatten(curvature.gradient, objective.params)
    for parameter, gradient in zip(objective.params, parts, strict=True):
        parameter.grad = gradient
    return curvature.loss


def first_of(objective: Objective, share: float) -> Objective:
    """A share of the mini-batch: its first examples, one for every rank at least."""
    size = len(objective.inputs)
    count = min(size, max(objective.ranks.size, round(share * size)))
    return objective.subset(torch.arange(count, device=objective.inputs.device))


def _slice(objective: Objective, step: int, count: int) -> Objective | None:
    """The turn's part of a mini-batch, of `count` about equal ones; None where it is empty.

    Each has an example for every rank at least, so that there are fewer of them in a small batch.
    """
    size, turn = len(objective.inputs), step % count
    parts = max(1, min(count, size // objective.ranks.size))
    first, last = (k * parts // count * size // parts for k in (turn, turn + 1))
    if first == last:
        return None
    return objective.subset(torch.arange(first, last, device=objective.inputs.device))


def _clip(kl_clip: float | None, predicted: float) -> float:
    return 1.0 if kl_clip is None or predicted <= kl_clip else (kl_clip / predicted) ** 0.5


def require_fitting(method: Method, blocks: Sequence[Block], largest: float, limit: float) -> None:
    """Raise UnsupportedError, with a remedy, if the blocks' state is more than `limit` GiB."""
    sizes = {block.name: block.state_bytes(largest) for block in blocks}
    total = sum(sizes.values()) / 2**30
    if total > limit:
        worst = max(sizes, key=lambda name: sizes[name])
        smaller = min(
            1024, max(max(b.matrix(b.parameters).shape[-2:]) for b in blocks if b.name == worst) - 1
        )
        raise UnsupportedError(
            f"{type(method).__name__} would keep {total:,.3g} GiB of factors, "
            f"{sizes[worst] / 2**30:,.3g} GiB of them for {worst}; the limit is max_gib={limit:g}. "
            f"Keep large factors as diagonals with max_dim={smaller}, or leave layers to the "
            f"fallback with skip=[{worst}]"
        )
