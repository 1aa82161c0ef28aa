"""Products with the Hessian and with the Gauss-Newton matrix of a mini-batch's loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optimizers.errors import UnsupportedError
from optimizers.layers.capture import hidden_states
from optimizers.linalg.flat import flatten, unflatten
from optimizers.objective.jacobian import pullback
from optimizers.objective.minibatch import Minibatch
from optimizers.phases import phase

Rows = Callable[..., Tensor]  # (vectors, batched=True) -> their products, row by row
Expansion = tuple[Tensor, Tensor, Rows]  # this rank's loss, its flat gradient, its products


def hessian_of(batch: Minibatch, once: bool) -> Expansion:
    """Products by differentiating the gradient's graph, which the first one frees with `once`."""
    params = batch.problem.params
    with torch.enable_grad(), batch.problem.differentiable_kernels():
        loss = batch.loss(batch.span, batch.outputs())
        with phase("backward"):
            gradient = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    curved = _linked(gradient)

    def rows(vectors: Tensor, batched: bool = True) -> Tensor:
        if not curved:
            return torch.zeros_like(vectors)
        chosen = _linked_parts(vectors, params, gradient)
        return pullback(curved, params, chosen, vectors.shape[:-1], batched, keep=not once)

    return loss.detach(), flatten(gradient).detach(), rows


def ggn_of(batch: Minibatch, structural: float) -> Expansion:
    """J v by differentiating u -> J'u twice, then H_out, then J'."""
    problem = batch.problem
    l2, params = problem.own_l2, problem.params
    watched = problem.recurrent if structural else []
    if structural and not watched:
        raise UnsupportedError(
            "structural damping needs a recurrent layer (nn.RNN, nn.GRU or nn.LSTM); set it to 0"
        )
    with torch.enable_grad(), problem.differentiable_kernels():
        with hidden_states(watched) as hidden:
            outputs = batch.outputs()
        free = outputs.detach().requires_grad_()
        loss = batch.data_loss(free, batch.span)
        with phase("backward"):
            (by_outputs,) = torch.autograd.grad(loss, free, create_graph=True)
        heads = [outputs, *hidden]
        # u -> J'u is linear: any u serves for its derivative; the loss's gradient, and zeros for
        # the states, give the gradient by the parameters
        duals = [
            by_outputs.detach().clone().requires_grad_(),
            *(torch.zeros_like(h, requires_grad=True) for h in hidden),
        ]
        with phase("backward"):
            pulled = torch.autograd.grad(
                heads, params, duals, create_graph=True, materialize_grads=True
            )
    linked = _linked(pulled)
    gradient = flatten(pulled).detach() + l2 * flatten(params).detach()
    share = structural * batch.scale / len(batch.inputs)

    def rows(vectors: Tensor, batched: bool = True) -> Tensor:
        chosen = _linked_parts(vectors, params, pulled)
        options = {"retain_graph": True, "materialize_grads": True, "is_grads_batched": batched}
        pushed, *swung = torch.autograd.grad(linked, duals, chosen, **options)
        if by_outputs.requires_grad:
            (curved,) = torch.autograd.grad(by_outputs, free, pushed, **options)
        else:
            curved = torch.zeros_like(pushed)
        upper = [curved, *(share * s for s in swung)]
        return pullback(heads, params, upper, vectors.shape[:-1], batched) + l2 * vectors

    return loss.detach() + problem.regulariser(params).detach(), gradient, rows


def _linked(parts: Sequence[Tensor]) -> list[Tensor]:
    """The parts that depend on something."""
    return [part for part in parts if part.requires_grad]


def _linked_parts(
    vectors: Tensor, params: Sequence[Tensor], parts: Sequence[Tensor]
) -> list[Tensor]:
    """The vectors' components for the parameters whose parts depend on something."""
    components = zip(unflatten(vectors, params), parts, strict=True)
    return [component for component, part in components if part.requires_grad]
