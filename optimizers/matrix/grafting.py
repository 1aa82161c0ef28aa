"""Diagonal methods that lend their step length to another direction."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from torch import Tensor

from optimizers.matrix.stacks import Stack

Graft = Callable[[Stack, Tensor], Tensor]


def sgd(stack: Stack, gradient: Tensor) -> Tensor:
    """The gradient itself."""
    return gradient


def adagrad(stack: Stack, gradient: Tensor) -> Tensor:
    """The step G / (sqrt(sum g^2) + 1e-10) of torch.optim.Adagrad."""
    total = stack.zeros("graft_sum", gradient)
    total.addcmul_(gradient, gradient)
    return gradient / total.sqrt().add_(1e-10)


def adam(stack: Stack, gradient: Tensor) -> Tensor:
    """The step G / (sqrt(v) + 1e-8) of torch.optim.Adam with beta1 = 0, v bias-corrected.

    v is the average of g^2 with beta2, or with 0.999 for beta2 = 1, where the factors are sums.
    """
    beta2 = stack.group["beta2"] if stack.group["beta2"] < 1 else 0.999
    average = stack.zeros("graft_square", gradient)
    average.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    return gradient / average.sqrt().div_(sqrt(1 - beta2 ** (stack.step + 1))).add_(1e-8)


GRAFTS: dict[str, Graft] = {"none": sgd, "sgd": sgd, "adagrad": adagrad, "adam": adam}
WITH_STATE = ("adagrad", "adam")
