"""The window of the last gradients, and the matrix of their inner products."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.linalg.flat import flatten, unflatten
from optimizers.low_rank.rows import PRECISIONS, Rows
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phase, phased


class Windowed(Method):
    """A preconditioner of the last vectors v_t (n,), applied to the newest.

    The vectors are the rows of a ring buffer G (window, n). Its Gram matrix G G' is stored in
    float64: a new row costs one product with G. A subclass defines the vector of a gradient
    (`_entry`), the weights of the rows in the preconditioned vector (`_solve`), and the step's
    direction (`_direction`).

    A parameter without a gradient has gradient zero and does not move.
    """

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        window: int,
        precision: str,
        max_gib: float,
    ) -> None:
        require_range("lr", defaults["lr"])
        require_range("momentum", defaults["momentum"], high=1)
        require_range("weight_decay", defaults["weight_decay"])
        require_range("window", window, low=1, whole=True)
        require_choice("precision", precision, PRECISIONS)
        require_range("max_gib", max_gib, open_low=True)
        self.window = window
        self.diagnostics: dict[str, float] = {}
        super().__init__(params, {**defaults, "step": 0})
        self.rows = Rows(self, "window", window, precision)
        self.mean = Rows(self, "momentum_buffer", 1)
        self._require_fitting(precision, max_gib)

    def _require_fitting(self, precision: str, limit: float) -> None:
        params = self.parameters()
        size = sum(p.numel() for p in params)
        item = (PRECISIONS[precision] or params[0].dtype).itemsize
        bytes_of_row = item * size
        if bytes_of_row * self.window > limit * 2**30:
            fitting = int(limit * 2**30 // bytes_of_row)
            smaller = (
                f"set window={fitting}" if fitting else "this model is too large for any window"
            )
            rounded = " or precision=bfloat16" if item > 2 else ""
            raise UnsupportedError(
                f"{type(self).__name__} keeps the last {self.window:,} gradients: {size:,} "
                f"parameters need {bytes_of_row * self.window / 2**30:,.2f} GiB, the limit is "
                f"max_gib={limit:g}; {smaller}{rounded}, or raise max_gib"
            )

    def telemetry(self) -> dict[str, float]:
        """The subclass's numbers of the last step, beside the common ones."""
        return {**super().telemetry(), **self.diagnostics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state whose tensors keep their own precision instead of the parameters'."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self.parameters(), strict=True):
            for key, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][key] = value.to(parameter.device, copy=True)

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Add the newest vector to the window, move by its preconditioned form; return the loss."""
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        params = self.parameters()
        gradient = flatten(torch.zeros_like(p) if p.grad is None else p.grad for p in params)
        entry = self._entry(gradient)
        vector = self.rows.rounded(entry)
        gram = self._with(vector)
        with phase("inverse"):
            weights = None if gram is None else self._solve(gram)
        if gram is None or weights is None:
            self.failures["window"] += 1
            return loss
        self._push(entry, vector, gram)
        with phase("precondition"):
            direction = self._direction(self.rows.combined(weights).to(gradient.dtype))
        self._move(direction)
        return loss

    # -- the window --------------------------------------------------------------------------------

    @property
    def _slot(self) -> int:
        """The row that the next vector takes."""
        return int(self.param_groups[0]["step"]) % self.window

    @property
    def _filled(self) -> int:
        """The number of rows with this step's vector."""
        return min(int(self.param_groups[0]["step"]) + 1, self.window)

    @phased("curvature")
    def _with(self, vector: Tensor) -> Tensor | None:
        """The Gram matrix (window, window) with the vector in its slot, or None if not finite."""
        state = self.state[self.parameters()[0]]
        if "gram" not in state:
            state["gram"] = torch.zeros(
                self.window, self.window, dtype=torch.float64, device=vector.device
            )
        products = self.rows.times(vector).double()
        products[self._slot] = vector.double() @ vector.double()
        if not bool(torch.isfinite(products.sum())):
            return None
        gram: Tensor = state["gram"].clone()
        gram[self._slot] = gram[:, self._slot] = products
        return gram

    @phased("curvature")
    def _push(self, entry: Tensor, vector: Tensor, gram: Tensor) -> None:
        """Write the newest vector into the window."""
        self.rows.matrix()[self._slot] = vector
        self.state[self.parameters()[0]]["gram"].copy_(gram)

    # -- what a subclass defines -------------------------------------------------------------------

    def _entry(self, gradient: Tensor) -> Tensor:
        """The vector that enters the window: the gradient itself."""
        return gradient

    @abstractmethod
    def _solve(self, gram: Tensor) -> Tensor | None:
        """The weights w (window,): G'w is the preconditioned form of row `_slot` of G."""

    def _direction(self, preconditioned: Tensor) -> Tensor:
        """The step's direction, to be subtracted: the preconditioned vector itself."""
        return preconditioned

    # -- the move ----------------------------------------------------------------------------------

    def _averaged(self, vector: Tensor) -> Tensor:
        """The running average of vectors, from zero, with one more; `_remember` stores it."""
        rate = self.param_groups[0]["momentum"]
        return torch.lerp(vector, self.mean.matrix()[0], rate) if rate else vector

    def _remember(self, mean: Tensor) -> None:
        if self.param_groups[0]["momentum"]:
            self.mean.matrix()[0] = mean

    def _move(self, direction: Tensor) -> None:
        parts = dict(zip(self.parameters(), unflatten(direction, self.parameters()), strict=True))
        for group in self.param_groups:
            used = [parameter for parameter in group["params"] if parameter.grad is not None]
            if used and group["weight_decay"]:
                torch._foreach_mul_(used, 1 - group["lr"] * group["weight_decay"])
            if used:
                torch._foreach_add_(
                    used, [parts[parameter] for parameter in used], alpha=-group["lr"]
                )
            group["step"] += 1
