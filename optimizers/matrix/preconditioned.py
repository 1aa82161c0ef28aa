"""Base of the matrix methods: roles, stacks of equal shape, fallback, refusals, telemetry."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimizers.errors import UnsupportedError
from optimizers.fallback import FALLBACKS, scheduled_rate
from optimizers.layers.roles import Role, model_roles, roles
from optimizers.matrix.layout import Layout, Piece
from optimizers.matrix.stacks import Stack
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phase

Part = slice | list[int]


class Preconditioned(Method):
    """A rule for the matrices of all groups, and a fallback for all other parameters.

    The layout selects the rule's parameters by role (hidden matrix, embedding, head, vector) and
    size. Names and order of the parameters in the objective's model determine the roles; before the
    first step, the names and order given to the constructor. Equal shapes are stacked and updated
    together. A gradient that is not finite changes neither parameters nor state; an update that is
    not finite leaves the parameters unchanged. Both are counted as failures.

    A subclass defines `update`, the direction for a stack's gradients, and `floats`, the size of
    its state.
    """

    needs = frozenset({"matrices"})
    rule: ClassVar[str]
    staggered: bool = False
    period: int = 1

    def __init__(
        self,
        params: Iterable[Any],
        options: Mapping[str, Any],
        layout: Layout,
        fallback: str,
        max_gib: float | None,
    ) -> None:
        require_range("lr", options["lr"])
        require_range("weight_decay", options["weight_decay"])
        require_range("fallback_lr", options["fallback_lr"])
        require_choice("fallback", fallback, FALLBACKS)
        if max_gib is not None:
            require_range("max_gib", max_gib, open_low=True)
        self.layout = layout
        self.fallback = fallback
        self.max_gib = max_gib
        self._pieces: dict[nn.Parameter, list[Piece]] = {}
        self._places: dict[Piece, int] = {}
        self._stacks: list[Stack] = []
        self._plain: list[tuple[dict[str, Any], list[nn.Parameter]]] = []
        self._arranged: list[bool] | None = None
        super().__init__(params, dict(options))
        if layout.vectors:
            self.needs = frozenset()
        by_name = roles(list(zip(self.names(), self.parameters(), strict=True)))
        self._assign(dict(zip(self.parameters(), by_name.values(), strict=True)))

    # -- what a method gives -----------------------------------------------------------------------

    @abstractmethod
    def update(self, stack: Stack, gradient: Tensor) -> Tensor | None:
        """The direction to subtract for gradients (k, *shape), or None before the first update.

        The method's state is updated here.
        """

    @abstractmethod
    def floats(self, shape: tuple[int, ...]) -> int:
        """The size of the state, in numbers, for a tensor of this shape."""

    def scale(self, shape: tuple[int, ...]) -> float:
        """The factor of the learning rate for a tensor of this shape."""
        return 1.0

    def age(self, stack: Stack) -> int:
        """Steps since the stack's matrices were refreshed."""
        return 0

    # -- the step ----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Update matrices by the rule, the rest by the fallback; return the loss before it."""
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        self._arrange(objective)
        with phase("precondition"):
            updates = [(stack, self.update(stack, stack.gradient())) for stack in self._stacks]
        self._move([(stack, update) for stack, update in updates if update is not None])
        for stack in self._stacks:
            stack.count()
        for group, parameters in self._plain:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            options = {**group, "lr": scheduled_rate(group)}
            FALLBACKS[self.fallback](
                parameters, gradients, [self.state[p] for p in parameters], options
            )
        return loss

    def _move(self, updates: list[tuple[Stack, Tensor]]) -> None:
        sums = [update.sum().to(updates[0][1]) for _, update in updates]
        if sums and not bool(torch.isfinite(torch.stack(sums).sum())):
            self.failures["step"] += 1
            return
        together: dict[tuple[float, float], tuple[list[Tensor], list[Tensor]]] = {}
        for stack, update in updates:
            rate = stack.group["lr"] * self.scale(stack.shape)
            decay = stack.group["lr"] * stack.group["weight_decay"]
            targets, directions = together.setdefault((rate, decay), ([], []))
            moved = stack.targets()
            targets += moved
            directions += stack.shaped(update, moved)
        for (rate, decay), (targets, directions) in together.items():
            if decay:
                torch._foreach_mul_(targets, 1 - decay)
            torch._foreach_add_(targets, directions, alpha=-rate)

    def due(self, stack: Stack, since: int) -> Part | None:
        """The pieces due for a refresh `since` steps after the first one, or None.

        Without staggering all pieces are due once a period. With staggering each step refreshes
        its share of the pieces, in the model's order, and the first step all pieces.
        """
        if since % self.period == 0 and (since == 0 or not self.staggered):
            return slice(0, len(stack))
        if not self.staggered:
            return None
        total, turn = len(self._places), since % self.period
        mine = [self._places[piece] * self.period // total == turn for piece in stack.pieces]
        chosen = [index for index, due in enumerate(mine) if due]
        if chosen and chosen[-1] - chosen[0] == len(chosen) - 1:
            return slice(chosen[0], chosen[-1] + 1)  # a view instead of a copy
        return chosen or None

    # -- which parameter goes where ----------------------------------------------------------------

    def _assign(self, role_of: Mapping[nn.Parameter, Role]) -> None:
        """Assign every parameter's shape by its role.

        Raises:
            UnsupportedError: nothing for the rule, or more state than `max_gib`.
        """
        mine = set(self.parameters())
        pieces = {p: self.layout.pieces(p, role) for p, role in role_of.items() if p in mine}
        self._pieces = {parameter: blocks for parameter, blocks in pieces.items() if blocks}
        self._places = {
            piece: place for place, piece in enumerate(itertools.chain(*self._pieces.values()))
        }
        self._arranged = None
        if not self._pieces:
            wanted = [
                str(role)
                for role in (*self.layout.roles, *([Role.VECTOR] if self.layout.vectors else []))
            ]
            raise UnsupportedError(
                f"{type(self).__name__} is for matrices (of the roles {', '.join(wanted)}, a side "
                f"of at most {self.layout.max_dimension}); the model has none"
            )
        self._require_memory()

    def _require_memory(self) -> None:
        width = {parameter: max(4, parameter.element_size()) for parameter in self._pieces}
        needed = {
            parameter: width[parameter] * sum(self.floats(piece.shape) for piece in pieces)
            for parameter, pieces in self._pieces.items()
        }
        total = sum(needed.values()) / 2**30
        if self.max_gib is not None and total > self.max_gib:
            largest = max(needed, key=lambda parameter: needed[parameter])
            raise UnsupportedError(
                f"{type(self).__name__} would keep {total:,.2g} GiB of state, the limit is "
                f"max_gib={self.max_gib:g}; {needed[largest] / 2**30:,.2g} GiB of it are for a "
                f"parameter of shape {tuple(largest.shape)}. Pass a block_size (1024, say) to cut "
                "long sides into blocks, or a smaller max_dimension to leave them out"
            )

    def _arrange(self, objective: Objective) -> None:
        """Stack the pieces with gradients, again whenever other parameters have gradients."""
        present = [parameter.grad is not None for parameter in self.parameters()]
        if present == self._arranged:
            return
        if self._arranged is None:
            self._assign_by_model(objective)
        used = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        self._plain, self._stacks = [], []
        for group, parameters in zip(self.param_groups, used, strict=True):
            plain = [parameter for parameter in parameters if parameter not in self._pieces]
            if plain:
                self._plain.append((group, plain))
            self._stacks += self._stacked(group, parameters)
        self._arranged = present

    def _stacked(
        self, group: dict[str, Any], parameters: Iterable[nn.Parameter]
    ) -> Iterator[Stack]:
        """The pieces of a group's parameters as stacks of one shape, type, device and age."""
        alike: dict[Any, list[Piece]] = {}
        for parameter in parameters:
            for piece in self._pieces.get(parameter, []):
                age = self.state[parameter].get("step", 0)
                key = piece.shape, parameter.dtype, parameter.device, age
                alike.setdefault(key, []).append(piece)
        for pieces in alike.values():
            yield Stack(pieces, self.layout.sides(pieces[0].shape), group, self.state)

    def _assign_by_model(self, objective: Objective) -> None:
        own = roles(list(zip(self.names(), self.parameters(), strict=True)))
        by_name = dict(zip(self.parameters(), own.values(), strict=True))
        by_model = model_roles(objective.model)
        self._assign(
            by_model
            | {parameter: role for parameter, role in by_name.items() if parameter not in by_model}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with its first learning rate noted for the fallback's schedule."""
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("initial_lr", self.param_groups[-1]["lr"])
        self._arranged = None

    def layer_coverage(self) -> dict[str, str]:
        """The rule of each parameter: the method's, `identity` (no matrix) or the fallback."""
        return {
            name: self._rule_of(parameter)
            for name, parameter in zip(self.names(), self.parameters(), strict=True)
        }

    def _rule_of(self, parameter: nn.Parameter) -> str:
        pieces = self._pieces.get(parameter, [])
        if not pieces:
            return self.fallback
        return self.rule if any(self.layout.sides(piece.shape) for piece in pieces) else "identity"

    # -- state -------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state whose tensors keep their own precision instead of the parameters'."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self.parameters(), strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor) and key != "step":
                    self.state[parameter][key] = value.to(parameter.device, copy=True)
        self._stacks, self._arranged = [], None

    def telemetry(self) -> dict[str, float]:
        """`preconditioned`, `age` and `condition` of the matrices, beside the failures."""
        parameters = self.parameters()
        share = sum(p.numel() for p in parameters if self._rule_of(p) == self.rule) / sum(
            p.numel() for p in parameters
        )
        conditions = [
            float(value.max()) for stack in self._stacks for value in stack.condition.values()
        ]
        numbers = super().telemetry() | {"preconditioned": share}
        numbers["age"] = float(max((self.age(stack) for stack in self._stacks), default=0))
        return numbers | ({"condition": max(conditions)} if conditions else {})

    def _count_failures(self, name: str, good: Tensor) -> None:
        failed = int((~good).sum())
        if failed:
            self.failures[name] += failed
