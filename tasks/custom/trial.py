"""A trial of a user's model, loss and data on a few examples before training."""

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
    """Compute one loss and one gradient on a few examples, and check all splits' class numbers.

    Raises:
        BrokenFileError: the model has no trainable parameters, model or loss raises or does not fit
            the data, or the loss is not a single finite number with a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        source.refuse(f"the model, {type(model).__name__}, has no trainable parameters", "model")
    inputs, targets = examples
    outputs = _outputs(model, inputs, source)
    _require_fitting_targets(loss_fn, outputs, targets, source)
    if are_class_numbers(loss_fn, targets):
        _require_known_classes(loss_fn, outputs, splits, source)
    shapes = (
        f"outputs of shape {tuple(outputs.shape)}, targets of shape {tuple(targets.shape)} and "
        f"{targets.dtype}"
    )
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
    """Refuse class numbers for which the model has no output."""
    count = outputs.shape[1] if outputs.ndim > 1 else 1
    for split, (_, targets) in splits.items():
        known = targets[targets != loss_fn.ignore_index]
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < count:
            source.refuse(
                f"the {split} targets go from {int(known.min())} to {int(known.max())}, and the "
                f"model has {count} outputs",
                "data",
            )


def are_class_numbers(loss_fn: nn.Module, targets: Tensor) -> bool:
    """Whether a loss reads these targets as class numbers."""
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
    """Refuse targets of a shape or type that torch's losses reject or misread."""
    shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
    if isinstance(loss_fn, SQUARES) and outputs.shape != targets.shape:
        # torch would broadcast them
        source.refuse(
            f"a squared error needs equal shapes, got {shapes}; targets[:, None] may help", "data"
        )
    if isinstance(loss_fn, nn.CrossEntropyLoss):
        _require_fitting_classes(outputs, targets, shapes, source)
    if isinstance(loss_fn, nn.BCEWithLogitsLoss | nn.MSELoss) and not targets.is_floating_point():
        kind = type(loss_fn).__name__
        source.refuse(
            f"the targets are {targets.dtype}, and {kind} wants numbers: targets.float()", "data"
        )


def _require_fitting_classes(outputs: Tensor, targets: Tensor, shapes: str, source: Source) -> None:
    """Refuse classes that are neither whole numbers of one dimension nor probabilities."""
    if targets.is_floating_point():
        if targets.shape != outputs.shape:
            source.refuse(
                f"the targets are {targets.dtype}, and classes are whole numbers: targets.long()",
                "data",
            )
        return
    column = targets.ndim == 2 and targets.shape[1] == 1 and outputs.shape[1:] != targets.shape[1:]
    if column:
        source.refuse(f"class numbers need one dimension, got {shapes}: targets[:, 0]", "data")
