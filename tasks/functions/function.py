"""Base of the functions: a parameter vector as the model, residuals or a value as its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from tasks.losses import MSEPerExample
from tasks.task import Batch, Task, require_split

Interval = tuple[float, float]
VALUE_OFFERS = frozenset({"hessian", "per_example"})


class MeanValue(nn.Module):
    """The mean `(1/N) sum_n f_n` of the outputs, for a model that computes the value itself.

    Targets are ignored.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the outputs `(N,)`, a scalar."""
        return outputs.mean()


class FunctionTask(Task):
    """Minimise `f(x) = |r(x)|^2`, a sum of squared residuals, or another function `f`.

    `build` returns a module with one parameter `x`, of shape `(n,)`. It maps inputs of shape `(N,
    1)`, whose values it ignores, to N equal rows of residuals, `(N, residuals)`, or, without
    residuals, to N equal values `f(x)`, `(N,)`. The task has no data: every split is the function
    itself, in float64.

    A function without residuals has no Gauss-Newton matrix, Jacobian or predictive distribution: it
    offers `hessian` and `per_example` alone.

    The metric `gap` is `f(x) - minimum`, computed without a subclass's noise. It is negative at a
    point below `minimum`.

    Args:
        dimension: n.
        residuals: the number of residuals; None for a function that is no sum of squares.
        batch_size: rows in a batch; more than one matters only for random `targets`.
    """

    offers = frozenset({"hessian", "ggn", "jacobian", "sampled", "per_example"})
    metric = "gap"
    direction = "min"
    dtype = torch.float64

    minimum: float = 0.0

    def __init__(
        self,
        dimension: int,
        residuals: int | None,
        *,
        steps: int,
        eval_every: int,
        target: float | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__(steps=steps, eval_every=eval_every, target=target)
        self.dimension = dimension
        self.batch_size = batch_size
        self.outputs_shape = () if residuals is None else (residuals,)
        self.loss_fn = MeanValue() if residuals is None else MSEPerExample()
        if residuals is None:
            self.offers = VALUE_OFFERS

    @property
    def domain(self) -> tuple[Interval, Interval] | None:
        """The rectangle of a picture, `((x_low, x_high), (y_low, y_high))`; None unless n is 2."""
        return None

    @property
    def minimizers(self) -> Tensor:
        """The known global minimizers, `(k, n)`; k is 0 without any."""
        return self._place(torch.empty(0, self.dimension))

    def values(self, points: Tensor) -> Tensor:
        """The noiseless `f` (not the gap) at every row of `(k, n)`: `(k,)`, without a graph.

        Raises:
            ValueError: `points` is not of shape `(k, n)`.
        """
        if points.ndim != 2 or points.shape[1] != self.dimension:
            raise ValueError(
                f"points must have the shape (k, {self.dimension}), got {tuple(points.shape)}"
            )
        model, (inputs, targets) = self.model(0), self._exact_batch()

        def value(x: Tensor) -> Tensor:
            loss: Tensor = self.loss_fn(functional_call(model, {"x": x}, (inputs,)), targets)
            return loss

        with torch.no_grad():
            parts = [vmap(value)(part) for part in self._place(points).split(4096) if len(part)]
        return torch.cat(parts) if parts else self._place(torch.empty(0))

    def targets(self, seed: int, step: int) -> Tensor:
        """The targets of a step, `(batch_size, residuals)`; for zeros the loss is the function."""
        return torch.zeros(self.batch_size, *self.outputs_shape, dtype=torch.float64)

    def batches(self, split: str, seed: int, start: int = 0) -> Iterator[Batch]:
        """Batches of ignored inputs `(batch_size, 1)` and targets; one exact batch off training."""
        require_split(split)
        return (
            self._training_batches(seed, start) if split == "train" else iter([self._exact_batch()])
        )

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """`gap` and `loss` of the exact function at the model's point."""
        require_split(split)
        inputs, targets = self._exact_batch()
        with torch.no_grad():
            value = float(self.loss_fn(model(inputs), targets))
        return {"gap": value - self.minimum, "loss": value}

    def _training_batches(self, seed: int, start: int) -> Iterator[Batch]:
        inputs = self._place(torch.zeros(self.batch_size, 1))
        for step in count(start):
            yield inputs, self._place(self.targets(seed, step))

    def _exact_batch(self) -> Batch:
        return self._place(torch.zeros(1, 1)), self._place(torch.zeros(1, *self.outputs_shape))

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.precision)
