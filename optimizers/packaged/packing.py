"""An optimizer's state in types that checkpoints may hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from optimizers.packaged.catalogue import PACKAGE

MARK = "packed"  # the key of a dictionary that stands for something else
PLAIN = (bool, int, str, Tensor, torch.dtype, torch.device, type(None))


def pack(value: Any) -> Any:
    """The same state without what `torch.load(weights_only=True)` refuses.

    Queues, members of enumerations and the package's own helper objects become dictionaries;
    functions are left out, the optimizer that the state is loaded into has its own.
    """
    if isinstance(value, Enum):
        return {MARK: _path(type(value)), "member": value.name}
    if isinstance(value, float):
        return float(value)  # numpy's numbers are of a class of their own
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping | deque | list | tuple):
        return _packed_items(value)
    if type(value).__module__.startswith(PACKAGE):
        return {MARK: _path(type(value)), "fields": pack(vars(value))}
    return value


def _packed_items(value: Any) -> Any:
    """A collection with its items packed."""
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items() if not _is_function(item)}
    if isinstance(value, deque):
        return {MARK: "deque", "items": [pack(item) for item in value], "longest": value.maxlen}
    return type(value)(pack(item) for item in value)


def unpack(value: Any) -> Any:
    """What was packed.

    Raises:
        ValueError: an object of a class outside the package.
    """
    if isinstance(value, Mapping):
        return (
            _restored(value)
            if MARK in value
            else {key: unpack(item) for key, item in value.items()}
        )
    if isinstance(value, list | tuple):
        return type(value)(unpack(item) for item in value)
    return value


def narrowed(state: Any, saved: Any) -> Any:
    """A loaded state in its saved precisions, which torch casts to the parameters'."""
    if isinstance(saved, Tensor) and isinstance(state, Tensor):
        same = saved.dtype == state.dtype or not saved.is_floating_point()
        return state if same else saved.to(device=state.device, copy=True)
    if isinstance(saved, Mapping) and isinstance(state, dict):
        return {
            key: narrowed(item, saved[key]) if key in saved else item for key, item in state.items()
        }
    return state


def _restored(value: Mapping[str, Any]) -> Any:
    path = value[MARK]
    if "items" in value:
        return deque((unpack(item) for item in value["items"]), maxlen=value["longest"])
    if not path.startswith(f"{PACKAGE}."):
        raise ValueError(f"the checkpoint holds an object of {path}, which is not of {PACKAGE}")
    module, _, name = path.rpartition(".")
    kind = getattr(import_module(module), name)
    if "member" in value:
        return kind[value["member"]]
    restored = object.__new__(kind)
    vars(restored).update(unpack(value["fields"]))
    return restored


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type | Tensor) and hasattr(value, "__code__")


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
