"""Kronecker-factored curvature of a layer: its factors from captured tensors, factored damping, preconditioning.

A Linear or Conv2d layer computes s = W abar, abar the input with a one appended for the bias. Its block of the Fisher
(or Gauss-Newton) matrix is approximated by A (x) G with A = E[abar abar'], G = E[g g'], g the gradient of one example's
loss by s (Martens and Grosse, 2015, eq. 1; for convolutions Grosse and Martens, 2016, eq. 14).
"""

from __future__ import annotations

from math import inf, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers.linalg.decompositions import inverse_positive

KroneckerLayer = nn.Linear | nn.Conv2d


def supports(module: nn.Module) -> bool:
    """Whether a layer's gradient is one matrix product per position: Linear, and Conv2d without groups."""
    if isinstance(module, nn.Linear):
        return module.weight.requires_grad
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or module.padding_mode != "zeros":
        return False
    uneven = module.padding == "same" and any(d * (k - 1) % 2 for d, k in _zip(module.dilation, module.kernel_size))
    return module.weight.requires_grad and not uneven


def has_trained_bias(module: nn.Module) -> bool:
    """Whether the layer's matrix has a last column for the bias."""
    bias = module.bias
    return isinstance(bias, nn.Parameter) and bias.requires_grad


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """The rows abar: one per position (example, token, or patch of a convolution), with a one appended for the bias."""
    inputs = inputs.to(_dtype(module))
    if isinstance(module, nn.Conv2d):
        patches = F.unfold(
            inputs, module.kernel_size, dilation=module.dilation, padding=_padding(module), stride=module.stride
        )
        rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    else:
        rows = inputs.reshape(-1, inputs.shape[-1])
    if not has_trained_bias(module):
        return rows
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def gradient_rows(module: nn.Module, gradients: Tensor) -> Tensor:
    """The rows g, in the order of `input_rows`."""
    gradients = gradients.to(_dtype(module))
    if isinstance(module, nn.Conv2d):
        return gradients.flatten(2).transpose(1, 2).reshape(-1, gradients.shape[1])
    return gradients.reshape(-1, gradients.shape[-1])


def input_factor(module: nn.Module, inputs: Tensor, terms: int) -> Tensor:
    """A: the sum over positions, the mean over the `terms` of the loss. Shape (in + bias, in + bias)."""
    rows = input_rows(module, inputs)
    return rows.T @ rows / terms


def gradient_factor(module: nn.Module, gradients: Tensor, terms: int, scale: float) -> Tensor:
    """G: the mean over positions of g g', g = captured gradient * terms / scale. Shape (out, out)."""
    rows = gradient_rows(module, gradients)
    return rows.T @ rows * ((terms / scale) ** 2 / len(rows))


def weight_gradient(module: KroneckerLayer) -> Tensor:
    """The gradient of weight and bias as one matrix (out, in + bias)."""
    assert module.weight.grad is not None
    matrix = module.weight.grad.flatten(1)
    if not has_trained_bias(module):
        return matrix
    assert module.bias is not None
    assert module.bias.grad is not None
    return torch.cat([matrix, module.bias.grad[:, None]], dim=1)


def split_matrix(module: KroneckerLayer, matrix: Tensor) -> list[Tensor]:
    """The inverse of `weight_gradient`: the parts of a matrix (out, in + bias) that belong to weight and bias."""
    if not has_trained_bias(module):
        return [matrix.view_as(module.weight)]
    return [matrix[:, :-1].reshape(module.weight.shape), matrix[:, -1]]


def damped_inverses(a: Tensor, g: Tensor, damping: float) -> tuple[Tensor, Tensor] | None:
    """Inverses of A + pi sqrt(damping) I and G + sqrt(damping) / pi I, pi^2 the ratio of the factors' mean eigenvalues.

    Factored Tikhonov damping (Martens and Grosse, 2015, section 6.3, trace norm). None when a factor has no inverse.
    """
    mean_a, mean_g = float(a.diagonal().mean()), float(g.diagonal().mean())
    ratio = mean_a / mean_g if mean_g else 1.0
    pi = sqrt(ratio) if 0 < ratio < inf else 1.0
    a_inverse = inverse_positive(a + pi * sqrt(damping) * torch.eye(len(a), dtype=a.dtype, device=a.device))
    g_inverse = inverse_positive(g + sqrt(damping) / pi * torch.eye(len(g), dtype=g.dtype, device=g.device))
    return None if a_inverse is None or g_inverse is None else (a_inverse, g_inverse)


def _dtype(module: nn.Module) -> torch.dtype:
    """The precision of the factors: the weight's, also where autocast ran the layer in a lower one."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.dtype


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    if isinstance(module.padding, tuple):
        return module.padding
    same = module.padding == "same"
    return tuple(d * (k - 1) // 2 if same else 0 for d, k in _zip(module.dilation, module.kernel_size))


def _zip(dilation: tuple[int, ...], kernel_size: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(dilation, kernel_size, strict=True))
