"""Diagonal preconditioners for conjugate gradients on a Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optimizers.linalg.flat import flatten
from optimizers.objective import Objective

Diagonal = Callable[[Objective], Tensor]
CHUNK = 8  # per-example gradients in memory at a time


def fisher_diagonal(objective: Objective) -> Tensor:
    """One draw of the Fisher's diagonal (n,): M g^2 for targets drawn from the model.

    The estimate is unbiased: the M terms of the loss are independent with mean zero (Chapelle and
    Erhan, 2011, "Improved preconditioner for Hessian free optimization"; the estimate of Sophia-G).
    Cost: one gradient.
    """
    sampled = objective.sampled()
    _, gradient = sampled.value_and_gradient()
    drawn = gradient - objective.l2 * _theta(objective)
    return drawn.square() * (sampled.terms / sampled.scale) + objective.l2


def empirical_diagonal(objective: Objective) -> Tensor:
    """The mean over examples of the squared gradients (n,), as in Martens (2010, section 4.7).

    Cost: a gradient of each example, a few at a time: 8 n floats are in memory rather than N n.
    """
    theta, scale = _theta(objective), objective.scale
    total = torch.zeros_like(theta)
    for index in torch.arange(len(objective.inputs), device=objective.inputs.device).split(CHUNK):
        part = objective.subset(index)
        rows = part.per_example_grads() - objective.l2 * theta
        total += (rows / part.scale).square().sum(0)
    return total * (scale / len(objective.inputs)) + objective.l2


def _theta(objective: Objective) -> Tensor:
    return flatten(objective.params).detach()


DIAGONALS: dict[str, Diagonal] = {"fisher": fisher_diagonal, "empirical": empirical_diagonal}
