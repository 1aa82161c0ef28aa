"""The residual networks of the CIFAR experiments."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_choice, require_positive
from tasks.vision.classification import ImageClassification

SHORTCUTS = ("A", "B")


class ResNet(ImageClassification):
    """A residual network for small images, of depth 6n+2: three stages of n blocks.

    A block is `x -> relu(shortcut(x) + F(x))` with two 3x3 convolutions and batch normalisation as
    F. The stages have `width`, `2 width` and `4 width` channels, and the later two halve the image
    at their beginning; global average pooling and a linear head follow. He, Zhang, Ren and Sun,
    "Deep residual learning", 2015 (arXiv 1512.03385), section 4.2: depth 20 and width 16 on
    CIFAR-10 have 269,722 parameters.

    Batch normalisation makes an example's loss depend on its batch: the task offers no per-example
    gradients.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        depth: 8, 14, 20, 32, 44, 56, ... (6n+2).
        width: channels of the first stage.
        shortcut: where the shape changes, `A` skips pixels and adds zero channels (no parameters,
            the paper's choice), `B` is a 1x1 convolution.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        depth: int = 8,
        width: int = 8,
        shortcut: str = "A",
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 600,
        eval_every: int = 100,
        target: float | None = None,
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n+2 (8, 14, 20, 32, 56, ...), got {depth}")
        require_positive(width=width)
        require_choice(SHORTCUTS, shortcut=shortcut)
        self.depth = depth
        self.width = width
        self.shortcut = shortcut
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
        """Three stages of blocks, global average pooling and a linear head."""
        channels = self.width
        layers: list[nn.Module] = [*convolution(self.image_shape[0], channels), nn.ReLU()]
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Block(channels, self.width * 2**stage, stride, self.shortcut))
                channels = self.width * 2**stage
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, self.classes)
        )


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *convolution(inputs, outputs, stride=stride), nn.ReLU(), *convolution(outputs, outputs)
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs and shortcut == "A":
            self.shortcut = Subsample(outputs - inputs)
        elif inputs != outputs:
            self.shortcut = nn.Sequential(*convolution(inputs, outputs, kernel=1, stride=stride))

    def forward(self, inputs: Tensor) -> Tensor:
        """Images `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        return F.relu(self.shortcut(inputs) + self.residual(inputs))


class Subsample(nn.Module):
    """Every second pixel, with `extra` channels of zeros added."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, inputs: Tensor) -> Tensor:
        """Images `(N, C, H, W)` to `(N, C + extra, H / 2, W / 2)`."""
        return F.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.extra))


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution with He's initialisation, and batch normalisation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return [layer, nn.BatchNorm2d(outputs)]
