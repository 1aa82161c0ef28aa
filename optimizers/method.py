"""The base of the optimizers that are written here."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import flatten, require_strided, unflatten
from optimizers.objective import Objective


@dataclass(frozen=True)
class Horizon:
    """How long a training will be: its steps, and how many of them make a pass over the data."""

    steps: int
    steps_per_epoch: float


class Method(torch.optim.Optimizer):
    """An optimizer whose step takes an objective: `loss = optimizer.step(objective)`.

    `needs` names what it asks of the objective beyond loss and gradient; a task that does not offer
    it is refused before training. The class names it for the defaults, an instance may need
    something else. The loss that `step` returns is the one at the point where the step began,
    detached. A loss or gradient that is not finite leaves the parameters as they are: the caller
    sees the value and ends the run.

    Parameters are real and gradients dense; anything else is refused.

    Attributes:
        horizon: how long the training will be, once `expect` has been called.
        stuck: why the last step could not move from where it was, in words; empty where it could,
            or may the next time.
        failures: what went wrong so far and was survived, counted by its name: `non_finite` for a
            refused step.
    """

    needs: frozenset[str] = frozenset()
    stuck: str = ""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.failures: Counter[str] = Counter()
        self.horizon: Horizon | None = None
        super().__init__(params, defaults)
        if any(parameter.is_complex() for parameter in self.parameters()):
            raise UnsupportedError(
                f"{type(self).__name__} takes real parameters; hold real and imaginary parts apart"
            )

    @abstractmethod
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Take one step and return the loss before it."""

    def expect(self, steps: int, steps_per_epoch: float) -> None:
        """Take the number of steps of the training, and of those that make a pass over the data."""
        self.horizon = Horizon(steps, steps_per_epoch)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of all groups, in order."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def names(self) -> list[str]:
        """The parameters' names where they were given, else their numbers."""
        names: list[str] = []
        for group in self.param_groups:
            first = len(names)
            names += group.get("param_names", [str(first + i) for i in range(len(group["params"]))])
        return names

    def whole(self, objective: Objective) -> dict[str, Any]:
        """The one parameter group of a method that sees all parameters as one flat vector."""
        if len(self.param_groups) != 1 or [id(p) for p in self.parameters()] != [
            id(p) for p in objective.params
        ]:
            raise ValueError(
                f"{type(self).__name__} needs all trainable parameters of the model in one group, "
                "in the model's order; pass model.named_parameters()"
            )
        return self.param_groups[0]

    def stored(self, key: str) -> Tensor | None:
        """The flat vector that `keep` stored under a key in the parameters' state.

        None if there is none yet.
        """
        if key not in self.state[self.parameters()[0]]:
            return None
        return flatten(self.state[parameter][key] for parameter in self.parameters())

    def keep(self, key: str, vector: Tensor) -> None:
        """Store a flat vector (n,) in the parameters' state, where checkpoints find it."""
        params = self.parameters()
        for parameter, part in zip(params, unflatten(vector, params), strict=True):
            self.state[parameter][key] = part.clone()

    def finite(self, loss: Tensor, objective: Objective) -> bool:
        """Whether the loss and the gradients that came with it are finite; counted if not."""
        gradients = [parameter.grad for parameter in objective.params if parameter.grad is not None]
        require_strided(gradients)
        fine = bool(torch.isfinite(loss + torch.nn.utils.get_total_norm(gradients)))
        if not fine:
            self.failures["non_finite"] += 1
        return fine

    def telemetry(self) -> dict[str, float]:
        """Numbers of the last step by name, for a reader who asks why a method wins or fails.

        The common names are `damping`, `reduction_ratio` (actual over predicted), `condition` (the
        largest condition number among the preconditioner's damped factors), `age` (steps since the
        preconditioner was refreshed), `preconditioned` (the share of parameters that have one), and
        `failures/...`.
        """
        return {f"failures/{name}": float(count) for name, count in self.failures.items()}


def require_range(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = float("inf"),
    *,
    open_low: bool = False,
    whole: bool = False,
) -> None:
    """Raise ValueError with name and value unless the value is a finite number in [low, high].

    `open_low` leaves out the lower end, `whole` asks for an integer.
    """
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (
        number and isfinite(value) and (low < value if open_low else low <= value) and value <= high
    ):
        interval = (
            f"{'(' if open_low else '['}{low:g}, {high:g}{')' if high == float('inf') else ']'}"
        )
        raise ValueError(
            f"{name} must be {'an integer' if whole else 'a number'} in {interval}, got {value!r}"
        )


def require_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError naming the hyperparameter and its value unless it is one of the words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_words(name: str, value: Any) -> None:
    """Raise ValueError naming the hyperparameter and its value unless it is a list of words."""
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(word, str) for word in value)
    ):
        raise ValueError(f"{name} must be a list of words, got {value!r}")


def require_dense(method: Method, limit: int, instead: str, item: int = 8) -> None:
    """Raise UnsupportedError if a matrix of all parameters is larger than the limit.

    It takes `item` bytes a number. `instead` names methods without such a matrix.
    """
    size = sum(parameter.numel() for parameter in method.parameters())
    if size > limit:
        raise UnsupportedError(
            f"{type(method).__name__} works with dense matrices: {size:,} parameters need "
            f"{item * size**2 / 2**30:,.1f} GiB for each, the limit is max_parameters={limit:,}; "
            f"{instead}"
        )
