"""The offers of a user's model and loss, from their classes and from trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.losses import BCEPerExample, MSEPerExample
from tasks.task import evaluating

CONVEX = (nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss, MSEPerExample, BCEPerExample)
SQUARES = (nn.MSELoss, MSEPerExample)
MODULES: Mapping[Any, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.mse_loss: nn.MSELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


def offers_of(
    model: nn.Module, loss_fn: nn.Module, inputs: Tensor, targets: Tensor
) -> frozenset[str]:
    """The offers of a model and a loss, as far as they work on a few examples.

    `hessian` needs a twice differentiable loss. `ggn`, `sampled` and `jacobian` need torch's own
    classification and squared losses, whose distribution and curvature by the outputs are known; a
    user's own loss, a subclass included, offers none of them. `sampled` excludes weights, label
    smoothing and ignored targets, which change the distribution. `per_example` needs a loss equal
    to the mean over single examples, and no layer that normalises by the batch.
    """
    offers = _of_layers(model)
    twice = _twice_differentiable(model, loss_fn, inputs, targets)
    if twice:
        offers |= {"hessian"}
    if type(loss_fn) not in CONVEX:
        return frozenset(offers)
    if twice:
        offers |= {"ggn"} | ({"jacobian"} if isinstance(loss_fn, SQUARES) else set())
    if _is_plain(loss_fn, targets):
        offers |= {"sampled"}
    if _is_mean_over_examples(model, loss_fn, inputs, targets):
        offers |= {"per_example"}
    return frozenset(offers)


def reasons(model: nn.Module, loss_fn: nn.Module, offers: frozenset[str]) -> dict[str, str]:
    """The reasons of the missing offers, with the changes that would provide them."""
    kind = "a function" if hasattr(loss_fn, "function") else f"a {type(loss_fn).__name__}"
    own = (
        f"the loss is {kind}; nn.CrossEntropyLoss(), nn.MSELoss() or nn.BCEWithLogitsLoss() gives "
        "it"
    )
    known = type(loss_fn) in CONVEX
    once = "an operation of the model or the loss has no second derivative"
    weighted = (
        "weight, pos_weight, label_smoothing and ignored targets make the loss no likelihood; "
        "leave them out"
    )
    messages = {
        "hessian": once,
        "ggn": once if known else own,
        "jacobian": once
        if isinstance(loss_fn, SQUARES)
        else "the loss is no sum of squares; nn.MSELoss() is",
        "sampled": weighted if known else own,
        "per_example": "the loss is no mean over examples, for which batch normalisation is a "
        "reason"
        if known
        else own,
        "layers": "the model has no nn.Linear and no nn.Conv2d",
        "matrices": "the model has fewer than two trainable matrices beside its embeddings",
    }
    return {offer: message for offer, message in messages.items() if offer not in offers}


def _of_layers(model: nn.Module) -> set[str]:
    """The offers `layers` and `matrices`; all matrices but embeddings and the output are hidden."""
    modules = list(model.modules())
    captured = any(isinstance(module, nn.Linear | nn.Conv2d) for module in modules)
    embeddings = {id(module.weight) for module in modules if isinstance(module, nn.Embedding)}
    matrices = [
        p for p in model.parameters() if p.requires_grad and p.ndim > 1 and id(p) not in embeddings
    ]
    return ({"layers"} if captured else set()) | ({"matrices"} if len(matrices) > 1 else set())


def _twice_differentiable(
    model: nn.Module, loss_fn: nn.Module, inputs: Tensor, targets: Tensor
) -> bool:
    """Whether a Hessian product exists; some of torch's operations have a first derivative only."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            loss = loss_fn(model(inputs), targets)
            slopes = torch.autograd.grad(
                loss, parameters, create_graph=True, materialize_grads=True
            )
            total = torch.stack([(slope * slope.detach()).sum() for slope in slopes]).sum()
            if total.requires_grad:
                # autograd.grad would skip a failing node that leads to no parameter
                total.backward()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _is_plain(loss_fn: nn.Module, targets: Tensor) -> bool:
    """Whether a loss is a negative log-likelihood of every target, without weights."""
    if isinstance(loss_fn, nn.CrossEntropyLoss):
        ignored = not targets.is_floating_point() and bool((targets == loss_fn.ignore_index).any())
        return (
            loss_fn.weight is None
            and loss_fn.label_smoothing == 0
            and loss_fn.ignore_index == -100
            and not ignored
        )
    return getattr(loss_fn, "weight", None) is None and getattr(loss_fn, "pos_weight", None) is None


def _is_mean_over_examples(
    model: nn.Module, loss_fn: nn.Module, inputs: Tensor, targets: Tensor
) -> bool:
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        return False
    try:
        with evaluating(model), torch.no_grad():
            whole = loss_fn(model(inputs), targets)
            parts = zip(inputs.split(1), targets.split(1), strict=True)
            single = torch.stack([loss_fn(model(x), t) for x, t in parts])
    except (RuntimeError, ValueError, IndexError):
        return False  # the model takes no single example
    total = single.sum() if getattr(loss_fn, "reduction", "mean") == "sum" else single.mean()
    return torch.allclose(total, whole, rtol=1e-3, atol=1e-6)
