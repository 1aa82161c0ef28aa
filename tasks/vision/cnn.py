"""A small convolutional classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tasks.checks import positive_widths, require_positive
from tasks.vision.classification import ImageClassification


class CNN(ImageClassification):
    """Two convolutions, each with ReLU and 2x2 max pooling, a hidden layer and a linear head.

    The pattern of LeNet-5 (LeCun et al. 1998) with 3x3 kernels, padding 1 and ReLU. Inputs `(N, C,
    H, W)`, outputs `(N, classes)`; torch's default initialisation. With `batch_norm` an example's
    loss depends on its batch, and the task does not offer `per_example`.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        channels: output channels of the two convolutions.
        hidden: width of the hidden layer.
        batch_norm: normalise the outputs of the convolutions over the batch.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        channels: Sequence[int] = (16, 32),
        hidden: int = 64,
        batch_norm: bool = False,
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 1000,
        eval_every: int = 100,
        target: float | None = None,
    ) -> None:
        self.channels = positive_widths("channels", channels, count=2)
        require_positive(hidden=hidden)
        self.hidden = hidden
        self.batch_norm = batch_norm
        if batch_norm:
            self.offers = self.offers - {"per_example"}
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
        """Two convolutional stages and two dense layers."""
        channels, height, width = self.image_shape
        first, second = self.channels
        return nn.Sequential(
            *self._convolution(channels, first),
            *self._convolution(first, second),
            nn.Flatten(),
            nn.Linear(second * (height // 4) * (width // 4), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.classes),
        )

    def _convolution(self, inputs: int, outputs: int) -> list[nn.Module]:
        normalise: list[nn.Module] = [nn.BatchNorm2d(outputs)] if self.batch_norm else []
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=not self.batch_norm),
            *normalise,
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
