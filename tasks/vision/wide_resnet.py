"""The wide residual networks of the CIFAR and SVHN experiments."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_at_least, require_choice, require_positive
from tasks.vision.classification import ImageClassification
from tasks.vision.initialisation import glorot_

INITIALISATIONS = ("he", "glorot")


class WideResNet(ImageClassification):
    """WRN-d-k: three stages of n = (d - 4) / 6 blocks of two 3x3 convolutions.

        x <- s + conv(relu(norm(conv(relu(norm(x))))))

    with s = x, or a 1x1 convolution of relu(norm(x)) where the shape changes. The stages have `k
    width`, `2 k width` and `4 k width` channels; the later two halve the image at their beginning.
    A last norm with ReLU, global average pooling and a linear head follow.
    Zagoruyko and Komodakis, "Wide residual networks", 2016 (arXiv 1605.07146), without dropout.
    With width 16, three colours and ten classes WRN-16-4 has 2,748,890 parameters, WRN-40-4
    8,949,210 and WRN-28-10 36,479,194.

    DeepOBS's `svhn_wrn164` is this network with `init=glorot`, depth 16 and widening 4, for 160
    epochs on SVHN, given as an image folder; its `cifar100_wrn404` has depth 40. Difference: `l2`
    covers all parameters, in DeepOBS neither biases nor norms.

    Batch normalisation makes an example's loss depend on its batch: the task offers no per-example
    gradients.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        depth: d, one of 10, 16, 22, 28, 34, 40, ... (6n+4).
        widening: k.
        width: channels of the first convolution.
        init: initialisation of the convolutions, `he` (normal, by the fan out, the authors' choice)
            or `glorot` (uniform).
        l2: the factor of `|theta|^2 / 2` in the training loss.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        depth: int = 10,
        widening: int = 2,
        width: int = 8,
        init: str = "he",
        l2: float = 0.0005,
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 420,
        eval_every: int = 70,
        target: float | None = None,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n+4 (10, 16, 22, 28, 40, ...), got {depth}")
        require_positive(widening=widening, width=width)
        require_choice(INITIALISATIONS, init=init)
        require_at_least(0, l2=l2)
        self.depth = depth
        self.widening = widening
        self.width = width
        self.init = init
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

    def build(self) -> nn.Module:
        """Three stages of blocks, a last norm, global average pooling and a linear head."""
        channels = self.width
        layers: list[nn.Module] = [convolution(self.image_shape[0], channels)]
        for stage in range(3):
            wide = self.width * self.widening * 2**stage
            for block in range((self.depth - 4) // 6):
                layers.append(
                    WideBlock(channels, wide, stride=2 if stage > 0 and block == 0 else 1)
                )
                channels = wide
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(channels, self.classes))
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                glorot_(layer, "uniform")
            if isinstance(layer, nn.Conv2d) and self.init == "he":
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Conv2d):
                glorot_(layer, "uniform")
        return model


class WideBlock(nn.Module):
    """Two convolutions, each after norm and ReLU, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(inputs)
        self.first = convolution(inputs, outputs, stride=stride)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.second = convolution(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else convolution(inputs, outputs, kernel=1, stride=stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`, rounded up."""
        activated = F.relu(self.first_norm(inputs))
        hidden = F.relu(self.second_norm(self.first(activated)))
        shortcut: Tensor = inputs if self.shortcut is None else self.shortcut(activated)
        residual: Tensor = self.second(hidden)
        return shortcut + residual


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without biases that preserves the size, or halves it."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
