"""What the names of a user's file stand for: model, loss, metrics, batch size."""

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
        loss: Tensor = self.function(outputs, targets)
        return loss


def required(names: Names, name: str, source: Source) -> Any:
    """What the file binds to a name, or to the same in capitals.

    Raises:
        BrokenFileError: nothing; where the file has something that may be meant, the message says how to
            name it.
    """
    for known in (name, name.capitalize()):
        if names.get(known) is not None:
            return names[known]
    candidates = [key for key in SYNONYMS[name] if key in names] or get_close_matches(
        name, names, n=1
    )
    if name == "model" and not candidates:
        candidates = [
            key for key, value in names.items() if _is_own_module_class(value, names["__name__"])
        ]
    hint = f"; it has {candidates[0]}: write {name} = {candidates[0]}" if candidates else ""
    line = source.line_of(candidates[0]) if candidates else None
    return source.refuse(f"the file does not say what {name} is{hint}", name, line=line)


def built(made: Any, source: Source) -> nn.Module:
    """A new model, its weights drawn from torch's, numpy's and Python's global generators."""
    if isinstance(made, nn.Module):
        return copy.deepcopy(made)
    with source.blaming("model()", "model"), seeded(torch.initial_seed()):
        model = made()
    if not isinstance(model, nn.Module):
        source.refuse(f"model() gives {kind_of(model)}, not an nn.Module", "model")
    return model


def loss_of(given: Any, source: Source) -> nn.Module:
    """A loss as a module.

    Torch's functions become the modules they belong to, whose derivatives are known.
    """
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
    """The metrics by name, the one that judges first, and its better end.

    None where the file has none.
    """
    several = names.get("metrics")
    if several is not None and not isinstance(several, Mapping | ModuleType):  # imported ones pass
        source.refuse(
            f"metrics is {kind_of(several)}, not a dictionary; one function is called metric",
            "metrics",
        )
    found: dict[str, Any] = dict(several) if isinstance(several, Mapping) else {}
    single = names.get("metric")
    if single is not None:
        found = {getattr(single, "__name__", "metric"): single, **found}
    for name, metric in found.items():
        if not callable(metric):
            source.refuse(f"{name} is {kind_of(metric)}, not a function", "metric")
    direction = names.get("direction")
    if found and direction not in ("min", "max"):
        source.refuse(
            f'direction must be "min" or "max" beside a metric, got {direction!r}', "metric"
        )
    return {str(name): metric for name, metric in found.items()}, direction or "min"


def refuse_misspelt(names: Names, source: Source) -> None:
    """Refuse a name that is all but one that may be given: it would be passed over.

    Raises:
        BrokenFileError: the file binds, say, `batchsize` to a number and does not bind `batch_size`.
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
            found = meant[close[0]]
            source.refuse(
                f"{found} is not read; write {known} = {found}", known, line=source.line_of(found)
            )


def batch_size_of(names: Names, of_loader: int | None, source: Source) -> int | None:
    """The file's batch size, else its training loader's, else the usual one.

    None is the full batch.
    """
    size = names.get("batch_size", of_loader or USUAL_BATCH)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        source.refuse(f"batch_size is {size!r}", "batch_size")
    if isinstance(names.get("steps"), int):
        source.refuse("steps belongs on the command line", "steps")
    return size


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest output is the target's, `(N,)`.

    Over positions, where there are several, their share.
    """
    correct = (outputs.argmax(1) == targets).double()
    return correct.flatten(1).mean(1) if correct.ndim > 1 else correct


def kind_of(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None (is a return missing?)" if value is None else f"a {type(value).__name__}"


def _is_own_module_class(value: Any, module: str) -> bool:
    return inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module
