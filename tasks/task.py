"""A task: a model, its data, its loss and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from tasks.checks import require_positive

Batch = tuple[Tensor, Tensor]
Direction = Literal["min", "max"]
SPLITS = ("train", "val", "test")


class Task(ABC):
    """A training problem: `model(seed)`, `loss_fn`, `batches`, `evaluate`.

    Every argument of a subclass's constructor is a key of its YAML in configs/task/. `offers` names
    the capabilities of loss and model beyond a gradient (an optimizer's `needs` must be among
    them):

    - `hessian`: the loss is twice differentiable;
    - `ggn`: the loss is a convex function of the model's outputs, so the Gauss-Newton matrix is
      positive semi-definite;
    - `jacobian`: the loss is a sum of squared residuals;
    - `sampled`: the outputs are the parameters of a predictive distribution from which targets can
      be drawn;
    - `per_example`: an example's loss does not depend on the other examples of its batch (no batch
      normalisation);
    - `layers`: the model has Linear or Conv2d layers whose inputs and output gradients can be
      captured;
    - `matrices`: the model has at least one hidden weight matrix, neither an embedding nor the
      output layer.

    The class declares the offers at its defaults; an instance may offer less (an option may add
    batch normalisation).

    Args:
        steps: the default length of a run, in optimizer steps.
        eval_every: the number of steps between two evaluations.
        target: the value of `metric` on the validation split at which the task is solved, or None.

    Raises:
        ValueError: `steps` or `eval_every` is below one.
    """

    offers: frozenset[str] = frozenset()
    metric: str
    direction: Direction
    dtype: ClassVar[torch.dtype] = torch.float32

    loss_fn: nn.Module
    l2: float = 0.0

    def __init__(self, *, steps: int, eval_every: int, target: float | None = None) -> None:
        require_positive(steps=steps, eval_every=eval_every)
        self.steps = steps
        self.eval_every = eval_every
        self.target = target
        self.device = torch.device("cpu")
        self.precision = self.dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the data, and every later model, to a device and a floating-point type."""
        self.device = torch.device(device)
        self.precision = dtype or self.dtype
        self.loss_fn = self.loss_fn.to(self.device)
        return self

    def model(self, seed: int) -> nn.Module:
        """A new model, whose weights are a function of the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = self.build()
        return model.to(device=self.device, dtype=self.precision)

    @abstractmethod
    def build(self) -> nn.Module:
        """Construct the model with initial weights from torch's global CPU generator."""

    @abstractmethod
    def batches(self, split: str, seed: int, start: int = 0) -> Iterator[Batch]:
        """Mini-batches on the device: endless for `train`, one ordered pass for other splits.

        The batch of a step is a function of `seed` and the step's number alone, so that a run can
        resume anywhere.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The metrics of a model over a whole split, `metric` and `loss` among them.

        The model's mode and state do not change.
        """

    @property
    def steps_per_epoch(self) -> float:
        """The number of steps in one pass over the training data."""
        return 1.0


class DataTask(Task):
    """A task on a data set in memory: tensors on the run's device, indexed there.

    A subclass sets `self.splits`, a dictionary from split to `(inputs, targets)`, before calling
    `super().__init__`, and defines in `measure` the values of each example in an evaluation.

    Args:
        batch_size: examples in a training batch; None, or more than the training set has, is the
            full batch.
    """

    splits: dict[str, Batch]
    evaluation_batch: ClassVar[int] = 250

    def __init__(
        self, *, steps: int, eval_every: int, batch_size: int | None, target: float | None = None
    ) -> None:
        super().__init__(steps=steps, eval_every=eval_every, target=target)
        full = self.size("train")
        self.batch_size = full if batch_size is None else min(batch_size, full)
        require_positive(batch_size=self.batch_size)

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Per-example values, `loss` and `metric` among them, each of shape `(len(outputs),)`."""

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """A training batch after random changes; seed and step alone determine `generator`."""
        return inputs

    def order(self, generator: torch.Generator) -> Tensor:
        """The order `(size,)` of an epoch's examples; seed and epoch determine `generator`."""
        return torch.randperm(self.size("train"), generator=generator)

    def size(self, split: str) -> int:
        """The number of examples in a split."""
        return len(self._split(split)[0])

    @property
    def steps_per_epoch(self) -> float:
        """The number of whole mini-batches in the training set."""
        return self.size("train") // self.batch_size

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the splits, and every later model, to a device and a floating-point type."""
        super().to(device, dtype)
        self.splits = {
            split: (self._place(inputs), self._place(targets))
            for split, (inputs, targets) in self.splits.items()
        }
        return self

    def batches(self, split: str, seed: int, start: int = 0) -> Iterator[Batch]:
        """Mini-batches `(inputs, targets)`: shuffled for `train`, in order for other splits."""
        if split != "train":
            return self._ordered_batches(split, self.batch_size)
        if self.batch_size == self.size("train"):
            return self._full_batches(seed, start)
        return self._mini_batches(seed, start)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The means of the measured values over a split, by name."""
        totals: dict[str, Tensor] = {}
        with evaluating(model), torch.no_grad():
            for inputs, targets in self._ordered_batches(split, self.evaluation_batch):
                for name, values in self.measure(model(inputs), targets).items():
                    totals[name] = totals.get(name, 0.0) + values.double().sum()
        return {name: float(total) / self.size(split) for name, total in totals.items()}

    def _full_batches(self, seed: int, start: int) -> Iterator[Batch]:
        """The stored tensors themselves, without a copy or a change of the sums' order."""
        inputs, targets = self._split("train")
        for step in count(start):
            yield self.augment(inputs, generator_for(seed, step, stream=1)), targets

    def _mini_batches(self, seed: int, start: int) -> Iterator[Batch]:
        inputs, targets = self._split("train")
        per_epoch = int(self.steps_per_epoch)
        order: Tensor | None = None
        for step in count(start):
            epoch, position = divmod(step, per_epoch)
            if order is None or position == 0:
                order = self.order(generator_for(seed, epoch, stream=0)).to(self.device)
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield self.augment(inputs[chosen], generator_for(seed, step, stream=1)), targets[chosen]

    def _ordered_batches(self, split: str, size: int) -> Iterator[Batch]:
        inputs, targets = self._split(split)
        for begin in range(0, len(inputs), size):
            yield inputs[begin : begin + size], targets[begin : begin + size]

    def _split(self, split: str) -> Batch:
        require_split(split)
        return self.splits[split]

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(
            self.device, self.precision if tensor.is_floating_point() else tensor.dtype
        )


def require_split(split: str) -> None:
    """Raise ValueError for a name that is not one of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and restore every module's mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def generator_for(seed: int, index: int, stream: int = 0) -> torch.Generator:
    """A CPU generator that is a function of its arguments alone."""
    # odd constants make different arguments give different seeds
    mixed = (
        seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB
    ) % 2**63
    return torch.Generator().manual_seed(mixed)
