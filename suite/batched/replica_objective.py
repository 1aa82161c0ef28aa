"""The objective of one replica, whose loss and gradient come from a joint evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers import Objective

Gradients = Sequence[Tensor | None]


class ReplicaObjective(Objective):
    """An objective that is given its loss and gradient; asked a second time, it evaluates."""

    __slots__ = ("_given",)

    def give(self, loss: Tensor, gradients: Gradients) -> None:
        """The loss and its gradient by each parameter, None where it does not depend on it."""
        self._given: tuple[Tensor, Gradients] | None = (loss, gradients)

    def count(self) -> None:
        """Count the evaluation, for an update that does not ask for it."""
        self._batch.count_gradient()

    def __call__(self) -> Tensor:
        """Fill `.grad` of every parameter and return the loss, both as they were given."""
        given = getattr(self, "_given", None)
        if given is None:
            return super().__call__()
        (loss, gradients), self._given = given, None
        batch = self._batch
        if batch.problem.norms and batch.random_state.host_state is None:
            # the joint pass has moved their statistics
            batch.random_state.host_state = torch.get_rng_state()
        batch.count_gradient()
        for parameter, gradient in zip(self.params, gradients, strict=True):
            parameter.grad = gradient
        return self._end_gradient([loss])
