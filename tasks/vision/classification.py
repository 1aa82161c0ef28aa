"""Base of the image classifiers: data, loss and metrics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.data.images import load_images
from tasks.data.splits import three_way
from tasks.task import Batch, DataTask
from tasks.vision.augmentation import crop_and_flip


class ImageClassification(DataTask):
    """Classify images `(N, channels, height, width)` by logits `(N, classes)` and cross-entropy.

    Inputs are normalised by the mean and deviation of each channel over the training split, unless
    a subclass scales them in another way. The metric is `accuracy`.

    Args:
        data: `fashion_mnist_small` (10,000 + 2,000 images, in the repository), `digits`,
            `fashion_mnist`, `mnist`, `cifar10`, or the path of an image folder,
            `train/<class>/<file>` and `test/<class>/<file>` or `<class>/<file>`.
        val_size: the number of training images that are held out for validation.
        test_size: the number of test images, the first ones; None is all.
        image_size: the side in pixels after resizing; None for no change.
        augmentation: crop at random (4 pixels of padding) and flip left-right the images of a
            training batch.

    Raises:
        ValueError: an argument does not fit the data.
        DataMissingError: the data set is not in the data directory.
    """

    metric = "accuracy"
    direction = "max"

    def __init__(
        self,
        *,
        data: str,
        val_size: int,
        test_size: int | None,
        image_size: int | None,
        augmentation: bool,
        batch_size: int | None,
        steps: int,
        eval_every: int,
        target: float | None,
    ) -> None:
        images = load_images(data, image_size)
        self.classes = images.classes
        self.augmentation = augmentation
        self.loss_fn = nn.CrossEntropyLoss()
        self.splits = self.scaled(
            three_way(images.train, images.test, val_size, test_size), images.peak
        )
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.splits["train"][0].shape[1:]
        return channels, height, width

    def scaled(self, splits: dict[str, Batch], peak: int) -> dict[str, Batch]:
        """The network's inputs for pixels between 0 and `peak`."""
        return normalised(splits)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The images of a training batch, randomly cropped and flipped with `augmentation`."""
        return crop_and_flip(inputs, generator) if self.augmentation else inputs

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` and `accuracy` of each image, `(N,)`."""
        loss = F.cross_entropy(outputs, targets, reduction="none")
        return {"loss": loss, "accuracy": outputs.argmax(dim=1) == targets}


def normalised(splits: dict[str, Batch]) -> dict[str, Batch]:
    """Pixels as floats with mean 0 and deviation 1 in each channel of the training split."""
    floats = {split: (inputs.float(), labels) for split, (inputs, labels) in splits.items()}
    deviation, mean = torch.std_mean(floats["train"][0], dim=(0, 2, 3), keepdim=True)
    for inputs, _ in floats.values():
        inputs.sub_(mean).div_(deviation.clamp(min=1e-6))
    return floats


def brightness(splits: dict[str, Batch], peak: int) -> dict[str, Batch]:
    """Pixels as floats from 0, black, to 1, full brightness."""
    return {
        split: (inputs.float().div_(peak), labels) for split, (inputs, labels) in splits.items()
    }
