"""A fully connected classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from tasks.checks import positive_widths, require_choice
from tasks.vision.classification import ImageClassification

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}


class MLP(ImageClassification):
    """The plainest deep network: `z = W_L a(... a(W_1 x + b_1) ...) + b_L` on flattened pixels.

    Every weight is a matrix between two vectors, so that every method of the suite applies, those
    with per-example gradients included. The default is 784-256-10 on Fashion-MNIST (Xiao, Rasul and
    Vollgraf 2017, arXiv 1708.07747), with torch's initialisation.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        hidden: the widths of the hidden layers, at least one.
        activation: `relu`, `tanh`, `sigmoid` or `gelu`; the last three make the loss twice
            differentiable everywhere.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        hidden: Sequence[int] = (256,),
        activation: str = "relu",
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 1000,
        eval_every: int = 50,
        target: float | None = None,
    ) -> None:
        self.hidden = positive_widths("hidden", hidden)
        require_choice(ACTIVATIONS, activation=activation)
        self.activation = ACTIVATIONS[activation]
        super().__init__(
            data=data,
            val_size=val_size,
            test_size=test_size,
            image_size=image_size,
            augmentation=augmentation,
            batch_size=batch_size,
            steps=steps,
            eval_every=eval_every,
            target=target,
        )

    def build(self) -> nn.Module:
        """The fully connected network on flattened pixels."""
        widths = [math.prod(self.image_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), self.activation()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], self.classes))
