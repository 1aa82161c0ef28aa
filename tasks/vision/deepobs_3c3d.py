"""DeepOBS's network for small colour images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from tasks.checks import positive_widths, require_at_least
from tasks.vision.classification import ImageClassification
from tasks.vision.initialisation import glorot_

SMALLEST = 9


class Net3c3d(ImageClassification):
    """DeepOBS's 3c3d: three convolutions with ReLU and 3x3 max pooling, three dense layers.

    Schneider, Balles and Hennig, "DeepOBS: a deep learning optimizer benchmark suite", 2019 (arXiv
    1903.05499); release 1.1.2 of its software determines details that the paper leaves open.

    Kernels of 5 and 3 pixels without padding, then of 3 with padding; pooling of stride 2. Glorot
    initialisation, normal in the convolutions and uniform in the dense layers, biases of zero. With
    the published widths, on 28x28 or 32x32 pixels: 895,210 parameters with three colours. `full` is
    the published problem `cifar10_3c3d`, 100 epochs of 312 steps.

    Differences: `l2` covers the biases too; crops move an image by up to 4 pixels instead of 2, and
    brightness, contrast and saturation do not change.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        channels: output channels of the three convolutions.
        hidden: widths of the two hidden dense layers.
        l2: the factor of `|theta|^2 / 2` in the training loss.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        channels: Sequence[int] = (64, 96, 128),
        hidden: Sequence[int] = (512, 256),
        l2: float = 0.002,
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 350,
        eval_every: int = 35,
        target: float | None = None,
    ) -> None:
        self.channels = positive_widths("channels", channels, count=3)
        self.hidden = positive_widths("hidden", hidden, count=2)
        require_at_least(0, l2=l2)
        self.l2 = l2
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
        _, height, width = self.image_shape
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"image_size must be at least {SMALLEST}, got images of {height} x {width} pixels"
            )

    def build(self) -> nn.Module:
        """Three convolutional stages and three dense layers, with Glorot's initialisation."""
        inputs, *sides = self.image_shape
        layers: list[nn.Module] = []
        for outputs, kernel, padding in zip(self.channels, (5, 3, 3), (0, 0, 1), strict=True):
            sides = [side - kernel + 1 + 2 * padding for side in sides]
            layers += [
                nn.Conv2d(inputs, outputs, kernel, padding=padding),
                nn.ReLU(),
                pooling(*sides),
            ]
            inputs, sides = outputs, [(side + 1) // 2 for side in sides]
        widths = [inputs * sides[0] * sides[1], *self.hidden, self.classes]
        layers.append(nn.Flatten())
        for first, second in pairwise(widths):
            layers += [nn.Linear(first, second), nn.ReLU()]
        model = nn.Sequential(*layers[:-1])
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                glorot_(layer, "normal" if isinstance(layer, nn.Conv2d) else "uniform")
        return model


def pooling(height: int, width: int) -> nn.Module:
    """Max pooling of 3x3 pixels with stride 2, which leaves `ceil(side / 2)` pixels of a side.

    The last window of an even side reaches over the edge, for an odd side the first window too
    (TensorFlow's `same`).
    """
    return nn.MaxPool2d(3, 2, padding=(height % 2, width % 2), ceil_mode=True)
