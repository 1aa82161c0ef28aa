"""Digits as curves of 40 points, which distinguish networks and methods within seconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_choice, require_positive
from tasks.data.mnist1d import CLASSES, LENGTH, mnist_1d
from tasks.data.splits import three_way
from tasks.task import DataTask

WIDTHS = {"linear": 1, "dense": 100, "convolutional": 25, "recurrent": 6}


class MNIST1D(DataTask):
    """Classify signals `(N, 40)` into ten digits, with the cross-entropy of logits `(N, 10)`.

    The metric is `accuracy`. Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", 2020
    (arXiv 2011.14439). A digit is a curve, moved, stretched and sheared under noise: networks with
    locality or order as a prior are far better. Published test accuracies are 32 % for `linear`,
    68 % for `dense`, 94 % for `convolutional` and 91 % for `recurrent`, and 32, 68, 56 and 57 %
    when `shuffled`. The networks are the published ones, in torch's default initialisation:

    - `linear`: logistic regression, 410 parameters;
    - `dense`: `h = relu(A x)`, `h + relu(B h)`, a linear head; width 100: 15,210 parameters;
    - `convolutional`: three convolutions of stride 2 with ReLU, kernels of 5, 3 and 3, a linear
      head; 25 channels: 5,210;
    - `recurrent`: a GRU in both directions, a linear head on all its states; width 6: 5,134.

    The data follow the published recipe, see `tasks.data.mnist1d`. Difference: `val_size` of the
    4000 training signals are held out for validation.

    Args:
        model: `linear`, `dense`, `convolutional` or `recurrent`.
        width: hidden units, channels or states; None is the published number. `linear` has none.
        samples: the number of signals, a fifth of them for testing.
        shuffled: permute the 40 points of all signals alike.
        data_seed: the seed of the signals; 42 with 5000 samples is the published set.
        val_size: the number of training signals that are held out for validation.
        batch_size: None is the full batch.

    Raises:
        ValueError: an argument is out of its range or none of its choices.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})
    metric = "accuracy"
    direction = "max"

    def __init__(
        self,
        model: str = "dense",
        width: int | None = None,
        samples: int = 5000,
        shuffled: bool = False,
        data_seed: int = 42,
        val_size: int = 500,
        batch_size: int | None = 100,
        steps: int = 2000,
        eval_every: int = 100,
        target: float | None = None,
    ) -> None:
        require_choice(WIDTHS, model=model)
        self.network = model
        self.width = WIDTHS[model] if width is None else width
        require_positive(width=self.width)
        if model == "linear":
            self.offers = type(self).offers - {"matrices"}
        self.loss_fn = nn.CrossEntropyLoss()
        self.splits = three_way(*mnist_1d(samples, data_seed, shuffled), val_size, None)
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The chosen network."""
        return NETWORKS[self.network](self.width)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` and `accuracy` of each signal, `(N,)`."""
        loss = F.cross_entropy(outputs, targets, reduction="none")
        return {"loss": loss, "accuracy": outputs.argmax(dim=1) == targets}


class SkippingMLP(nn.Module):
    """Two hidden layers, the second added to the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(LENGTH, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits `(N, 10)` of signals `(N, 40)`."""
        hidden = F.relu(self.first(inputs))
        logits: Tensor = self.head(hidden + F.relu(self.second(hidden)))
        return logits


class BothWays(nn.Module):
    """GRUs in both directions with a linear head on all their states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(1, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width * LENGTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits `(N, 10)` of signals `(N, 40)`."""
        states: Tensor = self.recurrent(inputs[:, :, None])[0]
        logits: Tensor = self.head(torch.flatten(states, 1))
        return logits


def linear(width: int) -> nn.Module:
    """Logistic regression."""
    return nn.Linear(LENGTH, CLASSES)


def convolutional(channels: int) -> nn.Module:
    """Convolutions that halve the signal to 19, 10 and 5 points, and a linear head."""
    return nn.Sequential(
        nn.Unflatten(1, (1, LENGTH)),
        nn.Conv1d(1, channels, 5, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv1d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv1d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * channels, CLASSES),
    )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "linear": linear,
    "dense": SkippingMLP,
    "convolutional": convolutional,
    "recurrent": BothWays,
}
