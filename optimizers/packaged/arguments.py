"""What an optimizer of pytorch-optimizer is constructed from, by the names and types its constructor declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from optimizers.errors import UnsupportedError
from optimizers.layers.roles import Role, roles
from optimizers.method import Horizon
from optimizers.packaged.catalogue import Kind, find, require_settings, signature

BASES = ("optimizer", "base_optimizer")  # arguments for the optimizer that another one wraps
SPLIT = "use_muon"  # the key of a group that says whether it is orthogonalised
SPLITTING = "adamw_lr"  # the argument of a class that knows this key

Group = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of the training.

    Its length, and the size of a mini-batch once there has been one.
    """

    horizon: Horizon | None = None
    batch: int | None = None


def _steps(facts: Facts) -> int | None:
    return None if facts.horizon is None else facts.horizon.steps


def _examples(facts: Facts) -> int | None:
    if facts.horizon is None or facts.batch is None:
        return None
    return max(1, round(facts.horizon.steps_per_epoch * facts.batch))


TOLD: dict[str, Callable[[Facts], int | None]] = {"num_iterations": _steps, "num_data": _examples}


def told(kind: Kind, settings: Mapping[str, Any], facts: Facts) -> dict[str, int | None]:
    """The arguments a class cannot do without and nobody has set, as far as the training tells them."""
    return {
        name: TOLD[name](facts)
        for name, argument in signature(kind).items()
        if name in TOLD and argument.default is argument.empty and name not in settings
    }


def checked(
    kind: Kind, settings: Mapping[str, Any], dtype: torch.dtype
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a class and of the one it wraps, their values as the constructors want them.

    Raises:
        ValueError: a name that neither has, or a value of the wrong type.
        UnsupportedError: an argument is missing that a configuration cannot give.
    """
    key, base = wrapped(kind, settings)
    given = {name: value for name, value in settings.items() if name != key}
    require_settings(kind, given, *([] if base is None else [base]))
    own = {name: value for name, value in given.items() if base is None or name in signature(kind)}
    rest = {name: value for name, value in given.items() if name not in own}
    missing = [
        n
        for n, a in signature(kind).items()
        if _must_be_given(a) and n not in {*own, *TOLD, *BASES}
    ]
    if missing:
        raise UnsupportedError(
            f"{kind.__name__} of pytorch-optimizer needs {', '.join(missing)}, which a "
            f"configuration cannot give"
        )
    return converted(kind, own, dtype), rest if base is None else converted(base, rest, dtype)


def wrapped(kind: Kind, settings: Mapping[str, Any]) -> tuple[str | None, Kind | None]:
    """The argument by which a class takes the optimizer that it wraps, and the one that the settings name.

    Raises:
        ValueError: the class wraps an optimizer and none is named.
    """
    for key in BASES:
        argument = signature(kind).get(key)
        if argument is None or (key not in settings and _takes_parameters(argument)):
            continue
        if key not in settings:
            where = f"optimizer.settings.{key}=SGD, its settings as optimizer.settings.momentum=0.9"
            raise ValueError(f"{kind.__name__} wraps another optimizer; name it: {where}")
        return key, find(str(settings[key]))
    return None, None


def converted(kind: Kind, settings: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Plain values, as YAML has them, in the types of a constructor's defaults.

    A precision whose default is float32 becomes that of the parameters where these are float64.
    """
    arguments = signature(kind)
    found = {
        name: _value(kind, arguments.get(name), name, value) for name, value in settings.items()
    }
    if dtype is torch.float64:
        narrow = [name for name, argument in arguments.items() if argument.default is torch.float32]
        found = {**dict.fromkeys(narrow, dtype), **found}
    return found


def build(
    kind: Kind,
    groups: Sequence[Group],
    settings: Mapping[str, Any],
    base: Kind | None,
    rest: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """Call the constructor of a class with what it declares.

    Groups, a model, another optimizer, settings.
    """
    arguments, values = signature(kind), dict(settings)
    own = [dict(group) for group in groups]
    if SPLITTING in arguments:
        own = [part for group in own for part in split(group)]
    if "model" in arguments:
        values["model"] = shell(own)
    key = next((key for key in BASES if key in arguments), None)
    if key is not None and base is None:
        return kind(own, **values)  # a default of its own
    if key is not None and base is not None and "type[" not in str(arguments[key].annotation):
        values[key] = base(own, **rest)  # an instance and nothing else
    elif key is not None and base is not None:
        values |= {key: base, "params": own, **rest}
    elif "params" in arguments:
        values["params"] = own
    return kind(**values)


def split(group: Group) -> list[Group]:
    """A group as one of hidden matrices and one of all else, as optimizers that orthogonalise want it."""
    names = group.get("param_names") or [str(i) for i in range(len(group["params"]))]
    role = roles(list(zip(names, group["params"], strict=True)))
    found = []
    for hidden in (True, False):
        chosen = [i for i, name in enumerate(names) if (role[name] is Role.HIDDEN) == hidden]
        if chosen:
            parts = {
                "params": [group["params"][i] for i in chosen],
                "param_names": [names[i] for i in chosen],
            }
            found.append({**group, **parts, SPLIT: hidden})
    return found


def shell(groups: Sequence[Group]) -> nn.Module:
    """A module that holds the parameters under their names and computes nothing."""
    root = nn.Module()
    for number, group in enumerate(groups):
        names = group.get("param_names") or [
            f"group{number}.parameter{i}" for i in range(len(group["params"]))
        ]
        for name, parameter in zip(names, group["params"], strict=True):
            *path, last = name.split(".")
            module = root
            for step in path:
                if step not in dict(module.named_children()):
                    module.add_module(step, nn.Module())
                module = module.get_submodule(step)
            module.register_parameter(last, parameter)
    return root


def _must_be_given(argument: inspect.Parameter) -> bool:
    return argument.default is argument.empty and argument.name not in ("params", "model")


def _takes_parameters(argument: inspect.Parameter) -> bool:
    """Whether the parameters themselves may stand in the place of the optimizer that is wrapped."""
    return "Tensor" in str(argument.annotation)


def _value(kind: Kind, argument: inspect.Parameter | None, name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_value(kind, None, name, item) for item in value)
    if argument is None or not isinstance(value, str):
        return value
    if "dtype" in str(argument.annotation):
        return _precision(name, value)
    if isinstance(argument.default, Enum):
        return _member(name, value, type(argument.default))
    if callable(argument.default) or "Callable" in str(argument.annotation):
        raise ValueError(
            f"{name} of {kind.__name__} is a function, which a configuration cannot give, got "
            f"{value!r}"
        )
    return value


def _precision(name: str, value: str) -> torch.dtype:
    found = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name} must be a precision such as float32 or bfloat16, got {value!r}")
    return found


def _member(name: str, value: str, kind: type[Enum]) -> Enum:
    if value.upper() not in kind.__members__:
        raise ValueError(
            f"{name} must be one of {', '.join(kind.__members__).lower()}, got {value!r}"
        )
    return kind[value.upper()]
