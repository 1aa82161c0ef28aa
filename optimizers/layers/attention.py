"""nn.MultiheadAttention whose projections are computed, and recorded, one by one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from math import inf
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.layers.substitute import Record, substituted

PROJECTIONS = ("q", "k", "v")


def decomposed_attention(module: nn.Module, record: Record) -> AbstractContextManager[None]:
    """Record queries, keys and values under (module, "q"), "k" and "v".

    The output layer is called as a module.

    Results and gradients equal torch's to rounding, with masks, dropout and attention weights.
    Inputs without a batch axis or nested, `bias_k`, `bias_v` and `add_zero_attn` are left to torch
    and not recorded.
    """
    layer = cast(nn.MultiheadAttention, module)
    plain = module.forward

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        if not _handled(layer, query) or (is_causal and attn_mask is None):
            options = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            return plain(query, key, value, *options)
        inputs = [x if layer.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (_heads(layer, product) for product in _projected(layer, record, inputs))
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else _mask(q, attn_mask, key_padding_mask)
        mixed, weights = _attention(layer, q, k, v, mask, causal, need_weights)
        return _output(layer, mixed), _averaged(weights, average_attn_weights)

    return substituted(module, nn.MultiheadAttention, forward)


def _handled(layer: nn.MultiheadAttention, query: Tensor) -> bool:
    extended = layer.bias_k is not None or layer.bias_v is not None or layer.add_zero_attn
    return torch.is_grad_enabled() and query.ndim == 3 and not query.is_nested and not extended


def _projected(layer: nn.MultiheadAttention, record: Record, inputs: list[Tensor]) -> list[Tensor]:
    if layer.in_proj_weight is not None:
        weights = list(layer.in_proj_weight.chunk(3))
    else:
        weights = [cast(Tensor, getattr(layer, f"{name}_proj_weight")) for name in PROJECTIONS]
    biases = [None] * 3 if layer.in_proj_bias is None else list(layer.in_proj_bias.chunk(3))
    products = [
        F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True)
    ]
    for name, x, product in zip(PROJECTIONS, inputs, products, strict=True):
        record((layer, name), x, product)
    return products


def _output(layer: nn.MultiheadAttention, mixed: Tensor) -> Tensor:
    """The output layer's result; its place in memory decides which masks a dropout draws."""
    output: Tensor = layer.out_proj(mixed.transpose(1, 2).flatten(2))
    output = output.transpose(0, 1).contiguous()
    return output.transpose(0, 1) if layer.batch_first else output


def _averaged(weights: Tensor | None, average: bool) -> Tensor | None:
    """The attention weights, averaged over the heads where that is asked for."""
    return weights.mean(1) if weights is not None and average else weights


def _heads(layer: nn.MultiheadAttention, product: Tensor) -> Tensor:
    """(N, T, E) to (N, heads, T, E / heads)."""
    return product.view(*product.shape[:2], layer.num_heads, -1).transpose(1, 2)


def _mask(q: Tensor, attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
    """What is added to the logits (N, heads, T, S)."""
    masks = []
    if attention is not None:
        per_head = attention if attention.ndim == 2 else attention.unflatten(0, q.shape[:2])
        masks.append(_additive(per_head, q.dtype))
    if padding is not None:
        masks.append(_additive(padding, q.dtype)[:, None, None, :])
    return sum(masks[1:], start=masks[0]) if masks else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    added: Tensor = torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -inf)
    return added


def _attention(
    layer: nn.MultiheadAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """The mixed values (N, heads, T, E / heads); the weights (N, heads, T, S) if wanted."""
    dropout = layer.dropout if layer.training else 0.0
    if not need_weights:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
    logits = q * q.shape[-1] ** -0.5 @ k.mT
    weights = F.dropout((logits if mask is None else logits + mask).softmax(-1), dropout)
    return weights @ v, weights
