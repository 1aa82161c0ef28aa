"""A GPT-style character model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_positive
from tasks.language.characters import CharacterModel


class CharTransformer(CharacterModel):
    """A decoder-only transformer.

    Per block `x <- x + attention(norm(x))`, then `x <- x + mlp(norm(x))`. Learned positions, one
    linear layer for queries, keys and values, GELU, a last norm before the head. The initialisation
    is GPT-2's (Radford et al. 2019): normal weights of deviation 0.02, divided by `sqrt(2 layers)`
    in the layers that end a residual branch. `full` has the sizes of nanoGPT's character model.

    The CPU's default attention kernel has no second derivative: take curvature products inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Args:
        path, context, val_size, test_size: see `CharacterModel`.
        layers: the number of blocks.
        heads: attention heads; they divide `width`.
        width: the width of the residual stream.
        dropout: the probability of dropping, after the embeddings, in the attention and at the end
            of each branch.
        tied: share the head's weight with the embedding. A curvature method then captures the head
            without the embedding's part of the gradient.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})

    def __init__(
        self,
        path: str | None = None,
        context: int = 64,
        layers: int = 2,
        heads: int = 2,
        width: int = 64,
        dropout: float = 0.0,
        tied: bool = False,
        val_size: int = 500,
        test_size: int = 500,
        batch_size: int | None = 32,
        steps: int = 1500,
        eval_every: int = 100,
        target: float | None = None,
    ) -> None:
        require_positive(layers=layers, heads=heads, width=width)
        if width % heads:
            raise ValueError(f"heads must divide width ({width}), got {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.layers = layers
        self.heads = heads
        self.width = width
        self.dropout = dropout
        self.tied = tied
        super().__init__(
            path=path,
            context=context,
            val_size=val_size,
            test_size=test_size,
            batch_size=batch_size,
            steps=steps,
            eval_every=eval_every,
            target=target,
        )

    def build(self) -> nn.Module:
        """The embeddings, the blocks and the head, with GPT-2's initialisation."""
        blocks = [
            TransformerBlock(self.width, self.heads, self.dropout) for _ in range(self.layers)
        ]
        model = Transformer(len(self.alphabet), self.context, self.width, blocks, self.dropout)
        _initialise(model, self.layers)
        if self.tied:
            model.head.weight = model.embedding.weight
        return model


class Transformer(nn.Module):
    """Character numbers `(N, T)` to logits `(N, characters, T)`, for T up to `context`."""

    def __init__(
        self,
        characters: int,
        context: int,
        width: int,
        blocks: list[TransformerBlock],
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits `(N, characters, T)` of character numbers `(N, T)`."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        stream = self.dropout(self.embedding(inputs) + self.positions(positions))
        logits: Tensor = self.head(self.norm(self.blocks(stream)))
        return logits.transpose(1, 2)


class TransformerBlock(nn.Module):
    """Causal self-attention and a two-layer network, each in a residual branch."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        """The stream `(N, T, width)` after both branches."""
        stream = stream + self.dropout(self.attention(self.attention_norm(stream)))
        output: Tensor = stream + self.dropout(
            self.contract(F.gelu(self.expand(self.mlp_norm(stream))))
        )
        return output


class CausalAttention(nn.Module):
    """Attention of each position to itself and the earlier positions."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """The mixed values `(N, T, width)` of a stream of that shape."""
        projected: Tensor = self.qkv(stream)
        queries, keys, values = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True
        )
        output: Tensor = self.contract(mixed.transpose(1, 2).flatten(2))
        return output


def _initialise(model: nn.Module, layers: int) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            deviation = 0.02 / math.sqrt(2 * layers) if name.endswith("contract") else 0.02
            nn.init.normal_(module.weight, std=deviation)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
