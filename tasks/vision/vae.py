"""A variational autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_choice, require_positive
from tasks.data.images import load_images
from tasks.data.splits import three_way
from tasks.task import SPLITS, Batch, DataTask, generator_for
from tasks.vision.classification import brightness
from tasks.vision.convolutional_vae import ConvolutionalVAE

LIKELIHOODS = ("gaussian", "bernoulli")


class VAE(DataTask):
    """Encode an image as a distribution, decode a draw of it: maximise the evidence lower bound.

        q(z|x) = N(m, diag(e^v)),   z = m + e^(v/2) eps,
        loss = -log p(x|z) + KL(q(z|x) | N(0, 1)), averaged over the images,
        KL = sum_i (e^{v_i} + m_i^2 - 1 - v_i) / 2

    Kingma and Welling, "Auto-encoding variational Bayes", 2013 (arXiv 1312.6114), equation 10 with
    one draw. The model's outputs are `(x', m, v)` side by side, `(N, pixels + 2 latent)`. The loss
    is a convex function of them: hence `ggn`. It is not the negative log-likelihood of targets, as
    the divergence has no targets: hence no `sampled`.

    The noise eps is a part of the batch, the last `latent` columns of its inputs. The model is
    therefore a function: all evaluations within a step use the same noise, other steps (and the
    same image in another epoch) use other noise, and each validation or test image has its own. An
    example's loss is independent of the others: hence `per_example`.

    The network, `ConvolutionalVAE`, is that of DeepOBS (Schneider, Balles and Hennig 2019, arXiv
    1903.05499; release 1.1.2), whose problem `fmnist_vae` is `full`: 100 epochs of 781 steps.

    Args:
        data: a data set or an image folder, see `ImageClassification`; sides are multiples of 4.
        likelihood: `gaussian`, the squared error `|x - x'|^2` of pixels in [0, 1] (variance 1/2,
            without its constant), as in DeepOBS, or `bernoulli`, the cross-entropy of logits x'.
        latent: the dimension of the code.
        channels: channels of the convolutions; published are 64.
        dropout: the probability of dropping after each convolution but the last; published is 0.2.
        val_size: the number of training images that are held out for validation.
        test_size: the number of test images, the first ones; None is all.
        image_size: the side in pixels after resizing; None for no change.
        batch_size: None is the full batch.

    Raises:
        ValueError: an argument does not fit the data.
        DataMissingError: the data set is not in the data directory.
    """

    offers = frozenset({"hessian", "ggn", "per_example", "layers", "matrices"})
    metric = "negative_elbo"
    direction = "min"
    loss_fn: NegativeELBO

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        likelihood: str = "gaussian",
        latent: int = 8,
        channels: int = 16,
        dropout: float = 0.0,
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        batch_size: int | None = 64,
        steps: int = 1400,
        eval_every: int = 140,
        target: float | None = None,
    ) -> None:
        require_choice(LIKELIHOODS, likelihood=likelihood)
        require_positive(latent=latent, channels=channels)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.likelihood, self.latent = likelihood, latent
        self.channels, self.dropout = channels, dropout
        images = load_images(data, image_size)
        _, *shape = images.train[0].shape
        self.image_shape = shape[0], shape[1], shape[2]
        if shape[1] % 4 or shape[2] % 4:
            raise ValueError(
                f"image_size must be a multiple of 4, got images of {shape[1]} x {shape[2]} pixels"
            )
        self.loss_fn = NegativeELBO(latent, likelihood)
        parts = three_way(images.train, images.test, val_size, test_size)
        self.splits = _with_noise(brightness(parts, images.peak), latent)
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The convolutional encoder and decoder."""
        return ConvolutionalVAE(
            self.image_shape, self.latent, self.channels, self.dropout, self.likelihood
        )

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The same images with the noise of one step."""
        noise = torch.randn(len(inputs), self.latent, generator=generator)
        return torch.cat([inputs[:, : -self.latent], noise.to(inputs)], dim=1)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss`, `negative_elbo`, `reconstruction` and `divergence` of each image, `(N,)`."""
        reconstruction, divergence = self.loss_fn.parts(outputs, targets)
        bound = reconstruction + divergence
        return {
            "loss": bound,
            "negative_elbo": bound,
            "reconstruction": reconstruction,
            "divergence": divergence,
        }


class NegativeELBO(nn.Module):
    """The loss `(1/N) sum_n -log p(x_n | z_n) + KL_n`.

    Args:
        latent: the dimension of m and of v.
        likelihood: `gaussian`, x' are pixels, or `bernoulli`, x' are logits.
    """

    reduction = "example_mean"

    def __init__(self, latent: int, likelihood: str) -> None:
        super().__init__()
        self.latent = latent
        self.likelihood = likelihood

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar, of outputs `(N, pixels + 2 latent)` and targets `(N, pixels)`."""
        reconstruction, divergence = self.parts(outputs, targets)
        return (reconstruction + divergence).mean()

    def parts(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both terms of each example, `(N,)`, in nats (less a constant for `gaussian`)."""
        pixels, mean, log_variance = outputs.split(
            [targets.shape[1], self.latent, self.latent], dim=1
        )
        if self.likelihood == "bernoulli":
            reconstruction = F.binary_cross_entropy_with_logits(pixels, targets, reduction="none")
        else:
            reconstruction = (pixels - targets).square()
        divergence = (log_variance.exp() + mean.square() - 1 - log_variance) / 2
        return reconstruction.sum(dim=1), divergence.sum(dim=1)


def _with_noise(splits: dict[str, Batch], latent: int) -> dict[str, Batch]:
    """Inputs of pixels and an image's own noise, `(N, pixels + latent)`, and targets of pixels."""
    noisy: dict[str, Batch] = {}
    for stream, split in enumerate(SPLITS):
        pixels = splits[split][0].flatten(1)
        noise = torch.randn(len(pixels), latent, generator=generator_for(0, 0, stream))
        noisy[split] = (torch.cat([pixels, noise], dim=1), pixels)
    return noisy
