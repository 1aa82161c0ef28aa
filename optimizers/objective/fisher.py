"""Inputs and output gradients of layers under the targets of a Fisher matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from optimizers.layers.capture import Captured, capture, edges_of, snapshot, with_gradients
from optimizers.objective.gradients import add_gradient
from optimizers.objective.minibatch import Minibatch
from optimizers.phases import phase


def layer_scores(
    batch: Minibatch, kinds: Sequence[type[nn.Module]], fisher: str, gradient: bool
) -> tuple[list[Tensor], list[list[Captured]]]:
    """The loss of each part, and what layers see of it with each root of the Fisher matrix.

    With `gradient` the loss's is added to `.grad`.
    """
    targets = batch.sampled() if fisher == "sampled" else batch
    losses, records = [], []
    with torch.enable_grad(), batch.evaluation():
        for part in batch.parts():
            # open for the backward passes too: a checkpointed layer has to be computed again as it
            # was
            with capture(batch.problem.model, kinds, watch=False) as recording:
                outputs = batch.forward(part)
                captured = snapshot(recording)
                loss = batch.loss(part, outputs)
                losses.append(loss.detach())
                if gradient and fisher == "empirical":
                    records.append([_with_gradient(batch, loss, captured)])
                    continue
                if gradient:
                    add_gradient(batch.problem.params, loss, (), keep=True)
                roots = list(fisher_roots(targets, part, outputs, fisher))
                records.append(_passes(captured, outputs, roots))
    return losses, records


def _with_gradient(batch: Minibatch, loss: Tensor, captured: Captured) -> Captured:
    edges = edges_of(captured)
    return with_gradients(captured, add_gradient(batch.problem.params, loss, edges, keep=False))


def _passes(captured: Captured, outputs: Tensor, roots: Sequence[Tensor]) -> list[Captured]:
    """A backward pass to the layers' outputs for each root; the last one frees the graph."""
    edges = edges_of(captured)
    records = []
    for left, root in enumerate(roots, start=1 - len(roots)):
        options = {"retain_graph": left < 0, "allow_unused": True}
        with phase("curvature"):
            gradients = torch.autograd.grad(outputs, edges, root, **options) if edges else ()
        records.append(with_gradients(captured, gradients))
    return records


def fisher_roots(batch: Minibatch, part: slice, outputs: Tensor, fisher: str) -> Iterator[Tensor]:
    """The gradients by a part's outputs that stand for a Fisher matrix."""
    if fisher == "exact":
        family = batch.problem.known_family("scores")
        weight = batch.scale / batch.terms
        return (weight * root for root in family.roots(outputs.detach()))
    free = outputs.detach().requires_grad_()
    return iter(torch.autograd.grad(batch.data_loss(free, part), free))
