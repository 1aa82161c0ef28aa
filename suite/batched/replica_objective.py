"""The objective of one copy, whose loss and gradient are known from a joint evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers import Objective


class Row(Objective):
    """An objective that has been told its loss and gradient.

    Asked a second time, it evaluates by itself.
    """

    __slots__ = ("_told",)

    def tell(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """The loss and its gradient by each parameter, None where it does not depend on it."""
        self._told: tuple[Tensor, Sequence[Tensor | None]] | None = (loss, gradients)

    def count(self) -> None:
        """Count the evaluation, for an update that does not ask for it."""
        self._batch.count_gradient()

    def __call__(self) -> Tensor:
        told = getattr(self, "_told", None)
        if told is None:
            return super().__call__()
        (loss, gradients), self._told = told, None
        if (
            self._batch.problem.norms and self._batch.random_state.host_state is None
        ):  # the joint pass has moved their statistics
            self._batch.random_state.host_state = torch.get_rng_state()
        self._batch.count_gradient()
        for parameter, gradient in zip(self.params, gradients, strict=True):
            parameter.grad = gradient
        return self._end_gradient([loss])
