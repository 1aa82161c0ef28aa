"""One gradient per example of a mini-batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from optimizers.errors import UnsupportedError
from optimizers.objective.jacobian import outputs_at, pullback
from optimizers.objective.minibatch import Minibatch
from optimizers.objective.problem import Problem, weighted_mean
from optimizers.objective.step_state import held_statistics


def require_independent(problem: Problem) -> None:
    """Raise UnsupportedError where examples have no gradients of their own."""
    if problem.coupled:
        raise UnsupportedError(
            "per_example_grads needs independent examples; batch normalisation couples them"
        )
    if weighted_mean(problem.loss_fn):
        raise UnsupportedError(
            "per_example_grads needs a plain mean; class weights or ignored targets couple the "
            "examples"
        )


def example_gradients(batch: Minibatch) -> Tensor:
    """The gradients of this rank's examples, (N, n), each of the loss of one example alone."""
    if batch.problem.recurrent:  # their kernels have no batching rule
        return _looped(batch)
    try:
        return _vectorised(batch)
    except RuntimeError:  # random masks, or another operator without a batching rule
        return _looped(batch)


def _vectorised(batch: Minibatch) -> Tensor:
    problem = batch.problem
    values = (parameter.detach() for parameter in problem.params)
    frozen = dict(zip(problem.names, values, strict=True))
    inputs, targets = (
        batch.cut(whole, batch.span) for whole in (batch.inputs, batch.all_targets())
    )

    def loss(params: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        output = outputs_at(problem.model, params, example[None])
        result: Tensor = problem.loss_fn(output, target[None])
        return result

    with problem.differentiable_kernels(), held_statistics(problem.norms):
        grads = vmap(grad(loss), in_dims=(None, 0, 0), randomness="error")(frozen, inputs, targets)
    return torch.cat([grads[name].reshape(len(inputs), -1) for name in problem.names], dim=1)


def _looped(batch: Minibatch) -> Tensor:
    problem = batch.problem
    kernels, statistics = problem.differentiable_kernels(), held_statistics(problem.norms)
    with torch.enable_grad(), kernels, statistics:
        outputs, targets = batch.outputs(), batch.cut(batch.all_targets(), batch.span)
        if batch.random_state.random:  # one set of masks for the whole batch
            parts = zip(outputs.split(1), targets.split(1), strict=True)
        else:  # a backward pass of one example costs less than one of the batch
            examples = batch.own_inputs().split(1)
            parts = zip(map(problem.model, examples), targets.split(1), strict=True)
        losses = (problem.loss_fn(output, target) for output, target in parts)
        rows = [
            pullback([loss], problem.params, [torch.ones_like(loss)], (), False) for loss in losses
        ]
    return torch.stack(rows)
