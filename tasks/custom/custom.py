"""A task from a user's Python file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.custom.contents import (
    Metric,
    accuracy,
    batch_size_of,
    built,
    loss_of,
    metrics_of,
    refuse_misspelt,
    required,
)
from tasks.custom.data import batch_of, by_split, splits_of
from tasks.custom.offers import offers_of, reasons
from tasks.custom.source import names_of, open_source
from tasks.custom.trial import are_class_numbers, try_gradient
from tasks.task import DataTask, Direction, evaluating

PACKAGES = Path(__file__).resolve().parents[2]
INSTALLED = PACKAGES / "tasks" / "examples"  # a wheel's; a checkout has them beside its packages
EXAMPLE = (INSTALLED if INSTALLED.is_dir() else PACKAGES / "examples") / "my_task.py"
TRIED = 8  # examples that model and loss are tried on before training


class Custom(DataTask):
    """A user's own model, trained on the user's data with the user's loss.

    The file is an ordinary Python file that binds three names:

    - `model`: a function without arguments, or a class, that returns a new `nn.Module`; its random
      weights follow the run's seed. A module is allowed too: every seed then starts from its
      weights.
    - `loss`: a torch loss, or a function of (outputs, targets) that returns one number.
    - `data`: a pair of tensors or numpy arrays (inputs, targets), a map-style data set or its
      loader (read into memory once), or a dictionary from `train`, `val` and `test` to such pairs.
      Missing splits are held out of the training examples by a fixed shuffle.

    and may bind four more: `metric`, a function of (outputs, targets) over a whole split, or
    `metrics`, a dictionary of them with the main one first; `direction`, `"min"` or `"max"`, which
    a metric needs; `batch_size`, None for the full batch. Without a metric, `accuracy` is the
    metric for class numbers, and the `loss` for other targets.

    The file is run once a process, with the global generators of torch, numpy and Python seeded.
    Model and loss are tried on a few examples before training. Trials also determine the task's
    offers: see `offers_of`.

    Args:
        file: a Python file, relative to the current directory; None is examples/my_task.py.
        digest: the first digits of the SHA-256 of its content, so that an edited file is another
            problem; None is not compared.
        held_out: the share of the examples for each of `val` and `test` that the file lacks.
        batch_size: None is the file's, else that of its training loader, else 128; the number of
            examples, or more, is the full batch.

    Raises:
        BrokenFileError: the file is absent, or its model, loss and data do not fit together.
        ValueError: `held_out` is not between 0 and 0.5, or the file's digest is not `digest`.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})
    lacks: Mapping[str, str] = {}  # why an offer is missing
    metric = "accuracy"
    direction: Direction = "max"

    def __init__(
        self,
        file: str | None = None,
        digest: str | None = None,
        held_out: float = 0.1,
        batch_size: int | None = None,
        steps: int = 1000,
        eval_every: int = 50,
        target: float | None = None,
    ) -> None:
        if not 0 < held_out < 0.5:
            raise ValueError(f"held_out must be above 0 and below 0.5, got {held_out}")
        self.source = open_source(file or str(EXAMPLE))
        if digest not in (None, self.source.digest):
            raise ValueError(
                f"{self.source.typed} has changed since this run was asked for; ask for it again"
            )
        names = names_of(self.source)
        refuse_misspelt(names, self.source)
        self._model = required(names, "model", self.source)
        self.loss_fn = loss_of(required(names, "loss", self.source), self.source)
        data = by_split(required(names, "data", self.source), self.source)
        self.splits = splits_of(data, held_out, self.source)
        self.metrics, self.direction = metrics_of(names, self.source)
        if not self.metrics and are_class_numbers(self.loss_fn, self.splits["train"][1]):
            self.metrics, self.direction = {"accuracy": accuracy}, "max"
        self.metric = next(iter(self.metrics), "loss")
        chosen = (
            batch_size_of(names, batch_of(data), self.source) if batch_size is None else batch_size
        )
        super().__init__(steps=steps, eval_every=eval_every, batch_size=chosen, target=target)
        self._try()

    def build(self) -> nn.Module:
        """The user's model with new weights, or a copy of the user's module."""
        return built(self._model, self.source)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss and the metrics for all of these examples, each as a tensor `(N,)`."""
        measured: dict[str, Tensor] = {}
        judges: dict[str, Metric] = {"loss": self.loss_fn, **self.metrics}
        for name, metric in judges.items():
            with self.source.blaming(
                f"{name}(outputs, targets)", "metric" if name in self.metrics else "loss"
            ):
                value = torch.as_tensor(metric(outputs, targets)).double()
            if value.numel() not in (1, len(outputs)):
                shape = f"shape {tuple(value.shape)} for {len(outputs)} examples"
                self.source.refuse(f"{name} gives a tensor of {shape}", "metric")
            measured[name] = value.flatten().expand(len(outputs))
        return measured

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The loss and the metrics over a whole split, from all outputs at once."""
        inputs, targets = self._split(split)
        with evaluating(model), torch.no_grad():
            outputs = torch.cat([model(part) for part in inputs.split(self.evaluation_batch)])
            return {
                name: float(values.mean())
                for name, values in self.measure(outputs, targets).items()
            }

    def _try(self) -> None:
        model = self.model(0)
        few = {
            split: (self._few(inputs), self._few(targets))
            for split, (inputs, targets) in self.splits.items()
        }
        with torch.random.fork_rng(devices=[]):
            try_gradient(model, self.loss_fn, few["train"], self.splits, self.source)
            inputs, targets = few["val"]
            with evaluating(model), torch.no_grad():
                self.measure(model(inputs), targets)
            self.offers = offers_of(model, self.loss_fn, *few["train"])
            self.lacks = reasons(model, self.loss_fn, self.offers)

    def _few(self, tensor: Tensor) -> Tensor:
        return self._place(tensor[:TRIED])
