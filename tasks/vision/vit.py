"""A vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_positive
from tasks.vision.classification import ImageClassification
from tasks.vision.initialisation import glorot_

EXPANSION = 4
EPS = 1e-6


class VisionTransformer(ImageClassification):
    """A transformer over the patches of an image.

    Per block `x <- x + attention(norm(x))`, then `x <- x + mlp(norm(x))`. Dosovitskiy et al., "An
    image is worth 16x16 words", 2020 (arXiv 2010.11929): a linear map embeds the patches (a
    convolution whose stride is its kernel), a class token precedes them, learned positions are
    added; the head reads the class token after a last norm. GELU, a hidden layer of four times the
    width, norms with eps 1e-6. The published ViT-B/16 (224 pixels, patch 16, width 768, 12 layers
    and heads, 1000 classes) has 86,567,656 parameters.

    Initialisation: patches' weights have variance `1 / fan_in`, positions deviation 0.02, all other
    matrices Glorot's uniform distribution (queries, keys and values separately); the class token
    and all biases are zero. Difference from the authors' code: there the head is zero too, and only
    the head has a gradient, and curvature, in the first step.

    The CPU's default attention kernel has no second derivative: take curvature products inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Args:
        data, val_size, test_size, image_size, augmentation: see `ImageClassification`.
        patch: pixels a side of a patch; it divides the image's sides.
        layers: the number of blocks.
        heads: attention heads; they divide `width`.
        width: the width of the residual stream.
        dropout: the probability of dropping, after the embeddings and at the end of each branch.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        patch: int = 4,
        layers: int = 3,
        heads: int = 4,
        width: int = 64,
        dropout: float = 0.0,
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        augmentation: bool = False,
        batch_size: int | None = 128,
        steps: int = 700,
        eval_every: int = 70,
        target: float | None = None,
    ) -> None:
        require_positive(patch=patch, layers=layers, heads=heads, width=width)
        if width % heads:
            raise ValueError(f"heads must divide width ({width}), got {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.patch = patch
        self.layers = layers
        self.heads = heads
        self.width = width
        self.dropout = dropout
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
        _, *sides = self.image_shape
        if any(side % patch for side in sides):
            raise ValueError(f"patch must divide the image's sides {tuple(sides)}, got {patch}")

    def build(self) -> nn.Module:
        """The patch embedding, the blocks and the head."""
        channels, height, width = self.image_shape
        blocks = [EncoderBlock(self.width, self.heads, self.dropout) for _ in range(self.layers)]
        patches = (height // self.patch) * (width // self.patch)
        embedding = nn.Conv2d(channels, self.width, self.patch, stride=self.patch)
        return Encoder(embedding, patches, blocks, self.classes, self.dropout)


class Encoder(nn.Module):
    """Images `(N, channels, H, W)` to the logits of their classes, `(N, classes)`."""

    def __init__(
        self,
        embedding: nn.Conv2d,
        patches: int,
        blocks: list[EncoderBlock],
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = embedding.out_channels
        self.embedding = embedding
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + patches, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.head = nn.Linear(width, classes)
        nn.init.kaiming_normal_(embedding.weight, nonlinearity="linear")
        if embedding.bias is not None:
            nn.init.zeros_(embedding.bias)
        glorot_(self.head, "uniform")

    def forward(self, images: Tensor) -> Tensor:
        """The logits `(N, classes)` of images `(N, channels, H, W)`."""
        patches: Tensor = self.embedding(images).flatten(2).transpose(1, 2)
        stream = torch.cat([self.token.expand(len(patches), -1, -1), patches], dim=1)
        stream = self.blocks(self.dropout(stream + self.positions))
        logits: Tensor = self.head(self.norm(stream[:, 0]))
        return logits


class EncoderBlock(nn.Module):
    """Self-attention and a two-layer network, each in a residual branch."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.expand = nn.Linear(width, EXPANSION * width)
        self.contract = nn.Linear(EXPANSION * width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.expand, self.contract):
            glorot_(layer, "uniform")

    def forward(self, stream: Tensor) -> Tensor:
        """The stream `(N, T, width)` after both branches."""
        stream = stream + self.dropout(self.attention(self.attention_norm(stream)))
        output: Tensor = stream + self.dropout(
            self.contract(F.gelu(self.expand(self.mlp_norm(stream))))
        )
        return output


class SelfAttention(nn.Module):
    """Attention of each position to all positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(width, width)
        glorot_(self.contract, "uniform")
        nn.init.zeros_(self.qkv.bias)
        for block in self.qkv.weight.data.split(width):
            nn.init.xavier_uniform_(block)

    def forward(self, stream: Tensor) -> Tensor:
        """The mixed values `(N, T, width)` of a stream of that shape."""
        projected: Tensor = self.qkv(stream)
        queries, keys, values = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        output: Tensor = self.contract(mixed.transpose(1, 2).flatten(2))
        return output
