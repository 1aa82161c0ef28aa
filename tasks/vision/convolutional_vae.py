"""The network of DeepOBS's variational autoencoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.vision.initialisation import Layer, glorot_

KERNEL = 4
SLOPE = 0.3
HIDDEN = 24


class ConvolutionalVAE(nn.Module):
    """Images and noise to pixels, means and log variances, `(N, pixels + 2 latent)`.

    Inputs are `(N, pixels + latent)`. Encoder: three 4x4 convolutions with leaky ReLU of slope 0.3,
    the first two of stride 2, and two linear maps for the means m and the log variances v. Decoder,
    for m + e^(v/2) noise: dense layers of 24 and (H/4) (W/4) units with leaky ReLU, the latter as
    an image, three transposed 4x4 convolutions with ReLU, the first of stride 2, and a dense layer
    to all pixels. Sizes are halved, doubled or unchanged (TensorFlow's `same`). Glorot's uniform
    initialisation, biases of zero. 28x28 grey pixels, 64 channels and 8 latent dimensions make
    10,151,489 parameters, 9,835,280 of them in the last layer.

    Args:
        image_shape: channels, height and width; the latter two are multiples of 4.
        latent: the dimension of the code.
        channels: channels of the convolutions.
        dropout: the probability of dropping after the encoder's convolutions and the decoder's
            first two.
        likelihood: `gaussian` ends in a sigmoid, `bernoulli` in logits.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent: int,
        channels: int,
        dropout: float,
        likelihood: str,
    ) -> None:
        super().__init__()
        colours, height, width = image_shape
        small = (height // 4, width // 4)
        self.latent = latent
        self.encoder = nn.Sequential(
            nn.Unflatten(1, image_shape),
            *_encoding(nn.Conv2d(colours, channels, KERNEL, stride=2, padding=1), dropout),
            *_encoding(nn.Conv2d(channels, channels, KERNEL, stride=2, padding=1), dropout),
            nn.ZeroPad2d((1, 2, 1, 2)),
            *_encoding(nn.Conv2d(channels, channels, KERNEL), dropout),
            nn.Flatten(),
        )
        self.mean = nn.Linear(channels * small[0] * small[1], latent)
        self.log_variance = nn.Linear(channels * small[0] * small[1], latent)
        self.decoder = nn.Sequential(
            *(nn.Linear(latent, HIDDEN), nn.LeakyReLU(SLOPE)),
            *(nn.Linear(HIDDEN, small[0] * small[1]), nn.LeakyReLU(SLOPE)),
            nn.Unflatten(1, (1, *small)),
            *(
                nn.ConvTranspose2d(1, channels, KERNEL, stride=2, padding=1),
                nn.ReLU(),
                nn.Dropout(dropout),
            ),
            *(KeepingSize(channels), nn.ReLU(), nn.Dropout(dropout)),
            *(KeepingSize(channels), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(channels * (2 * small[0]) * (2 * small[1]), colours * height * width),
            nn.Sigmoid() if likelihood == "gaussian" else nn.Identity(),
        )
        for layer in self.modules():
            if isinstance(layer, Layer):
                glorot_(layer, "uniform")

    def forward(self, inputs: Tensor) -> Tensor:
        """Pixels, means and log variances `(N, pixels + 2 latent)` for images and noise."""
        images, noise = inputs[:, : -self.latent], inputs[:, -self.latent :]
        features = self.encoder(images)
        mean, log_variance = self.mean(features), self.log_variance(features)
        code = mean + torch.exp(log_variance / 2) * noise
        return torch.cat([self.decoder(code), mean, log_variance], dim=1)


class KeepingSize(nn.ConvTranspose2d):
    """A transposed 4x4 convolution of stride 1, cropped to the size of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, KERNEL, padding=1)

    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Images `(N, channels, H, W)` to the same shape."""
        # the padding drops the first row and column, and one of the last two of either
        return super().forward(inputs, output_size)[:, :, :-1, :-1]


def _encoding(layer: nn.Conv2d, dropout: float) -> tuple[nn.Module, ...]:
    return layer, nn.LeakyReLU(SLOPE), nn.Dropout(dropout)
