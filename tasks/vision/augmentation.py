"""Random crops and flips of a batch of images, in one gather on the images' device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PADDING = 4


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels at random and mirror half of the images.

    Args:
        images: `(N, channels, height, width)`; pixels beyond the edges are zero, the mean of
            normalised inputs.
        generator: a CPU generator.

    Returns:
        Images of the same shape.
    """
    count, channels, height, width = images.shape
    shift = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = shift[0] + torch.arange(height)
    columns = shift[1] + torch.where(flip, torch.arange(width - 1, -1, -1), torch.arange(width))
    device = images.device
    return F.pad(images, (PADDING,) * 4)[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows.to(device)[:, None, :, None],
        columns.to(device)[:, None, None, :],
    ]
