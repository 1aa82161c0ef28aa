"""DeepOBS's small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tasks.checks import positive_widths, require_positive
from tasks.task import Batch
from tasks.vision.classification import ImageClassification, brightness
from tasks.vision.initialisation import truncated_normal_


class Net2c2d(ImageClassification):
    """DeepOBS's 2c2d: two 5x5 convolutions with ReLU and max pooling, two dense layers.

    Schneider, Balles and Hennig, "DeepOBS: a deep learning optimizer benchmark suite", 2019 (arXiv
    1903.05499); release 1.1.2 of its software determines details that the paper leaves open.

    The pooling is 2x2. Weights are drawn from a normal distribution of deviation 0.05 cut off at
    0.1, biases are 0.05. Pixels lie between 0 and 1. With the published widths, on 28x28 grey
    pixels: 3,274,634
    parameters. `full` is the published problem `fmnist_2c2d`, 100 epochs of 390 steps.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        channels: output channels of the two convolutions.
        hidden: width of the hidden layer.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        channels: Sequence[int] = (32, 64),
        hidden: int = 1024,
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 350,
        eval_every: int = 35,
        target: float | None = None,
    ) -> None:
        self.channels = positive_widths("channels", channels, count=2)
        require_positive(hidden=hidden)
        self.hidden = hidden
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

    def scaled(self, splits: dict[str, Batch], peak: int) -> dict[str, Batch]:
        """Pixels between 0 and 1."""
        return brightness(splits, peak)

    def build(self) -> nn.Module:
        """Two convolutional stages and two dense layers, with truncated normal weights."""
        inputs, height, width = self.image_shape
        layers: list[nn.Module] = []
        for outputs in self.channels:
            layers += [
                nn.Conv2d(inputs, outputs, 5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
            inputs, height, width = outputs, (height + 1) // 2, (width + 1) // 2
        flat = inputs * height * width
        layers += [
            nn.Flatten(),
            nn.Linear(flat, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.classes),
        ]
        model = nn.Sequential(*layers)
        truncated_normal_(model, deviation=0.05, bias=0.05)
        return model
