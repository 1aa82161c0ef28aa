"""A user's model, loss and data tried together on a few examples, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tasks.custom.contents import kind_of
from tasks.custom.offers import SQUARES
from tasks.custom.source import Source
from tasks.data.splits import Pair


def try_gradient(
    model: nn.Module, loss_fn: nn.Module, examples: Pair, splits: Mapping[str, Pair], source: Source
) -> None:
    """One evaluation and one gradient on a few examples.

    The class numbers of all splits are looked at.

    Raises:
        BrokenFileError: the model has nothing to train, or one of the two raises, gives no single finite
            number that can be differentiated, or does not fit the data.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        source.refuse(f"the model, {type(model).__name__}, has no trainable parameters", "model")
    inputs, targets = examples
    outputs = _outputs(model, inputs, source)
    _require_fitting_targets(loss_fn, outputs, targets, source)
    if are_class_numbers(loss_fn, targets):
        _require_known_classes(loss_fn, outputs, splits, source)
    shapes = f"outputs of shape {tuple(outputs.shape)}, targets of shape {tuple(targets.shape)} and {targets.dtype}"
    with source.blaming(f"loss(outputs, targets), {shapes},", "loss"):
        loss = loss_fn(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        source.refuse(f"loss gives {kind_of(loss)}, not one number", "loss")
    if not loss.requires_grad:
        source.refuse(
            "loss cannot be differentiated: .item(), .detach(), argmax or numpy cuts it off", "loss"
        )
    if not torch.isfinite(loss):
        source.refuse(f"loss is {loss.item()} at the initial weights", "loss")
    with source.blaming("the gradient of loss", "loss"):
        loss.backward()


def _require_known_classes(
    loss_fn: nn.Module, outputs: Tensor, splits: Mapping[str, Pair], source: Source
) -> None:
    """Refuse class numbers that the model has no output for."""
    count = outputs.shape[1] if outputs.ndim > 1 else 1
    for split, (_, targets) in splits.items():
        known = targets[targets != loss_fn.ignore_index]
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < count:
            found = f"from {int(known.min())} to {int(known.max())}"
            source.refuse(
                f"the {split} targets go {found}, and the model has {count} outputs", "data"
            )


def are_class_numbers(loss_fn: nn.Module, targets: Tensor) -> bool:
    """Whether a loss reads these targets as the numbers of classes."""
    return isinstance(loss_fn, nn.CrossEntropyLoss) and not targets.is_floating_point()


def _outputs(model: nn.Module, inputs: Tensor, source: Source) -> Tensor:
    with source.blaming(
        f"model(inputs), inputs of shape {tuple(inputs.shape)} and {inputs.dtype},", "model"
    ):
        outputs = model(inputs)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != len(inputs):
        line = source.line_of_function(type(model).forward) or source.line_of("model")
        source.refuse(
            f"model(inputs) gives {kind_of(outputs)} for {len(inputs)} examples",
            "outputs",
            line=line,
        )
    return outputs


def _require_fitting_targets(
    loss_fn: nn.Module, outputs: Tensor, targets: Tensor, source: Source
) -> None:
    """Refuse targets of a shape or type that torch's losses do not take, or take in another sense than is meant."""
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
    if (
        isinstance(loss_fn, SQUARES) and outputs.shape != targets.shape
    ):  # torch would broadcast them
        source.refuse(
            f"a squared error needs equal shapes, got {shapes}; targets[:, None] may help", "data"
        )
    classes = isinstance(loss_fn, nn.CrossEntropyLoss)
    if classes and targets.is_floating_point() and targets.shape != outputs.shape:
        source.refuse(
            f"the targets are {targets.dtype}, and classes are whole numbers: targets.long()",
            "data",
        )
    column = targets.ndim == 2 and targets.shape[1] == 1 and outputs.shape[1:] != targets.shape[1:]
    if classes and column and not targets.is_floating_point():
        source.refuse(f"class numbers need one dimension, got {shapes}: targets[:, 0]", "data")
    if isinstance(loss_fn, nn.BCEWithLogitsLoss | nn.MSELoss) and not targets.is_floating_point():
        kind = type(loss_fn).__name__
        source.refuse(
            f"the targets are {targets.dtype}, and {kind} wants numbers: targets.float()", "data"
        )
