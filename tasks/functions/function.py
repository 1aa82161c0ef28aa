"""What the functions share: a parameter vector as the model, residuals as its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor, nn

from tasks.losses import MSEPerExample
from tasks.task import Batch, Task, require_split


class FunctionTask(Task):
    """Minimise `f(x) = |r(x)|^2`, whose smallest value is zero.

    `build` gives a module that holds `x` and maps inputs of shape `(N, 1)`, whose values it ignores, to N equal rows
    of residuals, `(N, residuals)`. There is no data, so every split is the function itself, in float64.

    The metric `gap` is `f(x)` minus the minimum (zero), computed without the noise that a subclass may add.

    Args:
        residuals: how many residuals there are.
        batch_size: rows in a batch; more than one matters only where `targets` is random.
    """

    offers = frozenset({"hessian", "ggn", "jacobian", "sampled", "per_example"})
    metric = "gap"
    direction = "min"
    dtype = torch.float64

    def __init__(
        self, residuals: int, *, steps: int, eval_every: int, target: float | None = None, batch_size: int = 1
    ) -> None:
        super().__init__(steps=steps, eval_every=eval_every, target=target)
        self.residuals = residuals
        self.batch_size = batch_size
        self.loss_fn = MSEPerExample()

    def targets(self, seed: int, step: int) -> Tensor:
        """The targets of a step, `(batch_size, residuals)`; zeros make the loss the function itself."""
        return torch.zeros(self.batch_size, self.residuals, dtype=torch.float64)

    def batches(self, split: str, seed: int, start: int = 0) -> Iterator[Batch]:
        require_split(split)
        return self._training_batches(seed, start) if split == "train" else iter([self._exact_batch()])

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        require_split(split)
        inputs, targets = self._exact_batch()
        with torch.no_grad():
            value = float(self.loss_fn(model(inputs), targets))
        return {"gap": value, "loss": value}

    def _training_batches(self, seed: int, start: int) -> Iterator[Batch]:
        inputs = self._place(torch.zeros(self.batch_size, 1))
        for step in count(start):
            yield inputs, self._place(self.targets(seed, step))

    def _exact_batch(self) -> Batch:
        return self._place(torch.zeros(1, 1)), self._place(torch.zeros(1, self.residuals))

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.precision)
