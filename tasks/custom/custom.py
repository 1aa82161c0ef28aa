"""A task made from a Python file of the user's: which optimizer for my model?"""

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
    """Train a model of your own on data of your own with a loss of your own.

    The file is an ordinary Python file that binds three names:

    - `model`: a function without arguments, or a class, that gives a new `nn.Module`; its random
      weights follow the run's seed. A module itself will do too: then every seed starts from its
      weights.
    - `loss`: a torch loss, or a function of (outputs, targets) that gives one number.
    - `data`: a pair of tensors or numpy arrays (inputs, targets), a map-style data set or its
      loader (which is read into memory once), or a dictionary from `train`, `val` and `test` to
      such pairs. What is missing is held out of the training examples by a shuffle that is always
      the same.

    and may bind four more: `metric`, a function of (outputs, targets) over a whole split, or
    `metrics`, a dictionary of them whose first one judges; `direction`, `"min"` or `"max"`, which a
    metric needs; `batch_size`, None for the full batch. Without a metric, class numbers are judged
    by `accuracy`, everything else by the `loss`.

    The file is run once a process, with the global generators of torch, numpy and Python seeded. It
    is tried on a few examples before anything is trained. What the pair offers is found out: see
    `offers_of`.

    Args:
        file: a Python file, relative to the current directory; None is examples/my_task.py.
        digest: the first digits of the SHA-256 of its content, so that an edited file is another
            problem; None is not compared.
        held_out: the share of the examples that goes into each of `val` and `test` where the file
            does not give them.
        batch_size: None is the file's, else that of its training loader, else 128; the number of
            examples, or more, is the full batch.

    Raises:
        BrokenFileError: the file is absent or does not give a model, a loss and data that fit together.
        ValueError: `held_out` is not between 0 and 0.5, or the file is not the one that `digest`
            was taken of.
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
                f"{self.source.given} has changed since this run was asked for; ask for it again"
            )
        names = names_of(self.source)
        refuse_misspelt(names, self.source)
        self._made = required(names, "model", self.source)
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
        return built(self._made, self.source)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss and the metrics of all of these examples, one row an example where a metric gives as many."""
        found: dict[str, Tensor] = {}
        judges: dict[str, Metric] = {"loss": self.loss_fn, **self.metrics}
        for name, metric in judges.items():
            with self.source.blaming(
                f"{name}(outputs, targets)", "metric" if name in self.metrics else "loss"
            ):
                value = torch.as_tensor(metric(outputs, targets)).double()
            if value.numel() not in (1, len(outputs)):
                what = f"{name} gives a tensor of shape {tuple(value.shape)} for {len(outputs)} examples"
                self.source.refuse(what, "metric")
            found[name] = value.flatten().expand(len(outputs))
        return found

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
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
