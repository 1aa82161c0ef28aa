"""DeepOBS's fully connected network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tasks.task import Batch
from tasks.vision.classification import brightness
from tasks.vision.initialisation import truncated_normal_
from tasks.vision.mlp import MLP


class DeepOBSMLP(MLP):
    """DeepOBS's mlp: 784-1000-500-100-10 with ReLU on pixels between 0 and 1.

    Schneider, Balles and Hennig, "DeepOBS: a deep learning optimizer benchmark suite", 2019 (arXiv
    1903.05499); release 1.1.2 of its software determines details that the paper leaves open.

    Weights are drawn from a normal distribution of deviation 0.03 cut off at 0.06, biases are zero.
    With the published widths, on 28x28 grey pixels: 1,336,610 parameters. `full` is the published
    problem `fmnist_mlp`, 100 epochs of 390 steps.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        hidden: the widths of the hidden layers, at least one.
    """

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        hidden: Sequence[int] = (1000, 500, 100),
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 700,
        eval_every: int = 70,
        target: float | None = None,
    ) -> None:
        super().__init__(
            data=data,
            hidden=hidden,
            activation="relu",
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
        """The fully connected network with truncated normal weights."""
        model = super().build()
        truncated_normal_(model, deviation=0.03, bias=0.0)
        return model
