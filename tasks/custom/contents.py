"""The contents of a user's file: model, loss, metrics, batch size."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tasks.custom.offers import MODULES
from tasks.custom.source import Source, seeded
from tasks.task import Direction

Metric = Callable[[Tensor, Tensor], Any]
Names = Mapping[str, Any]

USUAL_BATCH = 128
SYNONYMS = {
    "model": ("net", "network", "Net", "module"),
    "loss": ("criterion", "loss_fn", "loss_function", "objective"),
    "data": ("dataset", "train_loader", "loader"),
}


OPTIONAL = {
    "batch_size": (int,),
    "metric": (FunctionType,),
    "metrics": (dict,),
    "direction": (str,),
}
USED = frozenset({*SYNONYMS, *OPTIONAL})


class FunctionLoss(nn.Module):
    """A function of (outputs, targets) as a module."""

    def __init__(self, function: Metric) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The function's value for outputs and targets `(N, ...)`."""
        loss: Tensor = self.function(outputs, targets)
        return loss


def required(names: Names, name: str, source: Source) -> Any:
    """The value that the file binds to a name, or to the capitalised name.

    Raises:
        BrokenFileError: the file does not bind the name; the message names a similar binding.
    """
    for spelling in (name, name.capitalize()):
        if names.get(spelling) is not None:
            return names[spelling]
    candidates = _candidates(names, name)
    hint = f"; it has {candidates[0]}: write {name} = {candidates[0]}" if candidates else ""
    line = source.line_of(candidates[0]) if candidates else None
    return source.refuse(f"the file does not say what {name} is{hint}", name, line=line)


def _candidates(names: Names, name: str) -> list[str]:
    """The file's names that may stand for a missing one, the most likely first."""
    similar = [key for key in SYNONYMS[name] if key in names] or get_close_matches(name, names, n=1)
    if similar or name != "model":
        return similar
    return [key for key, value in names.items() if _is_own_module_class(value, names["__name__"])]


def built(model_or_maker: Any, source: Source) -> nn.Module:
    """A new model, with weights from torch's, numpy's and Python's global generators."""
    if isinstance(model_or_maker, nn.Module):
        return copy.deepcopy(model_or_maker)
    with source.blaming("model()", "model"), seeded(torch.initial_seed()):
        model = model_or_maker()
    if not isinstance(model, nn.Module):
        source.refuse(f"model() gives {kind_of(model)}, not an nn.Module", "model")
    return model


def loss_of(given: Any, source: Source) -> nn.Module:
    """A loss as a module; torch's functions become their modules, with known derivatives."""
    given = MODULES.get(given, given) if callable(given) else given
    if inspect.isclass(given) and issubclass(given, nn.Module):
        with source.blaming(f"{given.__name__}()", "loss"):
            given = given()
    if isinstance(given, nn.Module):
        if any(parameter.requires_grad for parameter in given.parameters()):
            source.refuse("loss has trainable parameters, which belong in the model", "loss")
        return copy.deepcopy(given)
    if not callable(given):
        source.refuse(f"loss is {kind_of(given)}", "loss")
    return FunctionLoss(given)


def metrics_of(names: Names, source: Source) -> tuple[dict[str, Metric], Direction]:
    """The metrics by name, the main one first, and their better direction."""
    several = names.get("metrics")
    if several is not None and not isinstance(several, Mapping | ModuleType):  # imported ones pass
        source.refuse(
            f"metrics is {kind_of(several)}, not a dictionary; one function is called metric",
            "metrics",
        )
    metrics: dict[str, Any] = dict(several) if isinstance(several, Mapping) else {}
    single = names.get("metric")
    if single is not None:
        metrics = {getattr(single, "__name__", "metric"): single, **metrics}
    for name, metric in metrics.items():
        if not callable(metric):
            source.refuse(f"{name} is {kind_of(metric)}, not a function", "metric")
    direction = names.get("direction")
    if metrics and direction not in ("min", "max"):
        source.refuse(
            f'direction must be "min" or "max" beside a metric, got {direction!r}', "metric"
        )
    return {str(name): metric for name, metric in metrics.items()}, direction or "min"


def refuse_misspelt(names: Names, source: Source) -> None:
    """Refuse a misspelt optional name, which would be ignored.

    Raises:
        BrokenFileError: for example, the file binds `batchsize` to a number and not `batch_size`.
    """
    for known, kinds in OPTIONAL.items():
        meant = {
            name.lower(): name
            for name in source.lines
            if name not in USED and type(names.get(name)) in kinds
        }
        if names.get(known) is None and (
            close := get_close_matches(known, meant, n=1, cutoff=0.85)
        ):
            name = meant[close[0]]
            source.refuse(
                f"{name} is not read; write {known} = {name}", known, line=source.line_of(name)
            )


def batch_size_of(names: Names, of_loader: int | None, source: Source) -> int | None:
    """The batch size of the file, of its loader, or the usual one; None is the full batch."""
    size = names.get("batch_size", of_loader or USUAL_BATCH)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        source.refuse(f"batch_size is {size!r}", "batch_size")
    if isinstance(names.get("steps"), int):
        source.refuse("steps belongs on the command line", "steps")
    return size


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the target's output is the largest, `(N,)`, or the share of positions where it is."""
    correct = (outputs.argmax(1) == targets).double()
    return correct.flatten(1).mean(1) if correct.ndim > 1 else correct


def kind_of(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None (is a return missing?)" if value is None else f"a {type(value).__name__}"


def _is_own_module_class(value: Any, module: str) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module
