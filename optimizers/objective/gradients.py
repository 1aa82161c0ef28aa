"""Gradients of a mini-batch's loss in `.grad`: added up over parts, summed over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from optimizers.distributed import SingleProcess
from optimizers.objective.minibatch import Minibatch
from optimizers.phases import phase, phased


@phased("backward")
def add_gradient(
    params: Sequence[nn.Parameter], loss: Tensor, edges: Sequence[GradientEdge], keep: bool
) -> Sequence[Tensor | None]:
    """Add to every `.grad` by one backward pass, and return the gradients at the edges."""
    if not edges:
        loss.backward(retain_graph=keep)
        return ()
    wanted: Any = [*params, *edges]
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        loss, wanted, retain_graph=keep, allow_unused=True
    )
    for parameter, gradient in zip(params, gradients, strict=False):
        parameter.grad = (
            gradient if parameter.grad is None or gradient is None else parameter.grad + gradient
        )
    return gradients[len(params) :]


def leave_graph(batch: Minibatch) -> Tensor:
    """Put gradients with their graph in `.grad`, to be differentiated once more; the loss.

    A backward pass through them counts as a Hessian product.
    """
    problem = batch.problem
    with torch.enable_grad(), problem.differentiable_kernels():
        loss = batch.loss(batch.span, batch.outputs())
        with phase("backward"):
            gradients = torch.autograd.grad(
                loss, problem.params, create_graph=True, allow_unused=True
            )
        for parameter, gradient in zip(problem.params, gradients, strict=True):
            parameter.grad = _node(parameter, gradient, clipped=problem.clip is not None)
    filled = [parameter.grad for parameter in problem.params if parameter.grad is not None]
    if filled:
        filled[0].register_hook(lambda _: batch.count("hvp"))
    return loss.detach()


def _node(parameter: nn.Parameter, gradient: Tensor | None, clipped: bool) -> Tensor | None:
    """A gradient that can be differentiated, and clipped in place."""
    if gradient is not None and not gradient.requires_grad:
        return gradient + 0 * parameter  # a constant has a derivative too
    if gradient is not None and clipped:
        return gradient.clone()  # what is clipped in place must be no node of the graph
    return gradient


def all_reduce_gradients(
    params: Sequence[nn.Parameter], ranks: SingleProcess, loss: Tensor
) -> Tensor:
    """Sum the loss, in place, and `.grad` over the ranks.

    A parameter that no rank's loss depends on still has none.
    """
    present = torch.tensor(
        [p.grad is not None for p in params], dtype=torch.float32, device=loss.device
    )
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    ranks.all_reduce_([loss, present, *gradients])
    for parameter, gradient, filled in zip(params, gradients, present.tolist(), strict=True):
        parameter.grad = gradient if filled else None
    return loss
