"""The deep autoencoder of comparisons of second-order methods since 2010."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import positive_widths, require_choice
from tasks.data.images import Images, load_images
from tasks.data.splits import three_way
from tasks.losses import BCEPerExample
from tasks.task import Batch, DataTask

INITIALISATIONS = ("sparse", "torch")
ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}
CONNECTIONS = 15


class Autoencoder(DataTask):
    """Reconstruct an image from a narrow linear code: deep, ill-conditioned, no label noise.

    Encoder and mirrored decoder are fully connected with sigmoid units (in Goldfarb, Ren and
    Bahamou 2020, arXiv 2006.08877, rectified linear units with torch's initialisation); the code
    layer is linear. The outputs are logits `z` of pixels `t` in [0, 1], shape `(N, pixels)`, and
    the loss is the cross-entropy summed over the pixels and averaged over the images. The metric is
    the literature's `squared_error`, `sum_j (sigmoid(z_j) - t_j)^2` per image.

    Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", 2006; with
    the sparse initialisation of Martens, "Deep learning via Hessian-free optimization", 2010: 15
    incoming weights of each unit are standard normal, everything else is zero. MNIST with widths
    1000-500-250-30 and CURVES with 400-200-100-50-25-6 are the problems of these papers and of
    Martens and Grosse 2015 (arXiv 1503.05671); `curves_lookalike` replaces CURVES, which is not
    public. The default, scikit-learn's 8x8 digits in full batches, orders methods alike within a
    second.

    Args:
        data: a data set or an image folder, see `ImageClassification`.
        widths: the encoder's layers, the code's width last.
        init: `sparse`, or `torch` for torch's default.
        activation: activation of the hidden units, `sigmoid` or `relu`.
        train_size: the number of training images, the first ones; None is all.
        val_size: the number of these that are held out for validation.
        test_size: the number of test images, the first ones; None is all.
        image_size: the side in pixels after resizing; None for no change.
        batch_size: None is the full batch.

    Raises:
        ValueError: an argument does not fit the data.
        DataMissingError: the data set is not in the data directory.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})
    metric = "squared_error"
    direction = "min"

    def __init__(
        self,
        data: str = "digits",
        widths: Sequence[int] = (60, 30, 10),
        init: str = "sparse",
        activation: str = "sigmoid",
        train_size: int | None = None,
        val_size: int = 200,
        test_size: int | None = None,
        image_size: int | None = None,
        batch_size: int | None = None,
        steps: int = 2000,
        eval_every: int = 50,
        target: float | None = None,
    ) -> None:
        self.widths = positive_widths("widths", widths)
        require_choice(INITIALISATIONS, init=init)
        require_choice(tuple(ACTIVATIONS), activation=activation)
        self.init = init
        self.activation = ACTIVATIONS[activation]
        self.loss_fn = BCEPerExample()
        self.splits = _pixels(load_images(data, image_size), train_size, val_size, test_size)
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The encoder and its mirrored decoder, with the chosen initialisation."""
        pixels = self.splits["train"][0].shape[1]
        widths = [pixels, *self.widths, *reversed(self.widths[:-1]), pixels]
        code = len(self.widths)
        layers: list[nn.Module] = []
        for depth, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            layer = nn.Linear(inputs, outputs)
            if self.init == "sparse":
                sparse_(layer)
            layers.append(layer)
            if depth not in (code, 2 * code):
                layers.append(self.activation())
        return nn.Sequential(*layers)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` and `squared_error` of each image, `(N,)`."""
        loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return {
            "loss": loss.sum(dim=1),
            "squared_error": (outputs.sigmoid() - targets).square().sum(dim=1),
        }


def sparse_(layer: nn.Linear) -> None:
    """Martens' initialisation: normal weights for at most 15 inputs of a unit, zeros elsewhere."""
    chosen = torch.rand_like(layer.weight).argsort(dim=1)[:, :CONNECTIONS]
    with torch.no_grad():
        layer.weight.zero_().scatter_(1, chosen, torch.randn(chosen.shape))
        layer.bias.zero_()


def _pixels(
    images: Images, train_size: int | None, val_size: int, test_size: int | None
) -> dict[str, Batch]:
    """Brightness between 0 and 1, `(N, pixels)`, as inputs and as targets."""
    available = len(images.train[0])
    if train_size is not None and not 0 < train_size <= available:
        raise ValueError(f"train_size must be between 1 and {available}, got {train_size}")
    train = images.train[0][:train_size], images.train[1][:train_size]
    splits: dict[str, Batch] = {}
    for split, (inputs, _) in three_way(train, images.test, val_size, test_size).items():
        brightness = inputs.flatten(1).float().div_(images.peak)
        splits[split] = (brightness, brightness)
    return splits
