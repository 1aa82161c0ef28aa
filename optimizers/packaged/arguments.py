"""Constructor arguments of pytorch-optimizer's classes, by their declared names and types."""

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
    """The length of the training, and the size of a mini-batch after the first one."""

    horizon: Horizon | None = None
    batch: int | None = None


def _steps(facts: Facts) -> int | None:
    return None if facts.horizon is None else facts.horizon.steps


def _examples(facts: Facts) -> int | None:
    if facts.horizon is None or facts.batch is None:
        return None
    return max(1, round(facts.horizon.steps_per_epoch * facts.batch))


FROM_FACTS: dict[str, Callable[[Facts], int | None]] = {
    "num_iterations": _steps,
    "num_data": _examples,
}


def from_facts(kind: Kind, settings: Mapping[str, Any], facts: Facts) -> dict[str, int | None]:
    """The required arguments that no setting gives; None where the facts do not either."""
    return {
        name: FROM_FACTS[name](facts)
        for name, argument in signature(kind).items()
        if name in FROM_FACTS and argument.default is argument.empty and name not in settings
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
    own, rest = given, {}
    if base is not None:
        own = {name: value for name, value in given.items() if name in signature(kind)}
        rest = {name: value for name, value in given.items() if name not in own}
    _require_complete(kind, own)
    return converted(kind, own, dtype), rest if base is None else converted(base, rest, dtype)


def _require_complete(kind: Kind, own: Mapping[str, Any]) -> None:
    """Raise UnsupportedError for a required argument that neither settings nor facts give."""
    optional = {*own, *FROM_FACTS, *BASES}
    missing = [
        name
        for name, argument in signature(kind).items()
        if _is_required(argument) and name not in optional
    ]
    if missing:
        raise UnsupportedError(
            f"{kind.__name__} of pytorch-optimizer needs {', '.join(missing)}, which a "
            "configuration cannot give"
        )


def wrapped(kind: Kind, settings: Mapping[str, Any]) -> tuple[str | None, Kind | None]:
    """The argument for the optimizer that a class wraps, and the class that the settings name.

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
    values = {
        name: _value(kind, arguments.get(name), name, value) for name, value in settings.items()
    }
    if dtype is torch.float64:
        narrow = [name for name, argument in arguments.items() if argument.default is torch.float32]
        values = {**dict.fromkeys(narrow, dtype), **values}
    return values


def build(
    kind: Kind,
    groups: Sequence[Group],
    settings: Mapping[str, Any],
    base: Kind | None,
    rest: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """Call a class's constructor with the groups, model and wrapped optimizer that it declares."""
    arguments, values = signature(kind), dict(settings)
    own = _declared(arguments, groups)
    if "model" in arguments:
        values["model"] = shell(own)
    key = next((key for key in BASES if key in arguments), None)
    if key is None:
        return kind(**(values | {"params": own} if "params" in arguments else values))
    if base is None:
        return kind(own, **values)  # a default of its own
    if "type[" in str(arguments[key].annotation):
        return kind(**{**values, key: base, "params": own, **rest})
    return kind(**{**values, key: base(own, **rest)})  # an instance and nothing else


def _declared(arguments: Mapping[str, Any], groups: Sequence[Group]) -> list[Group]:
    """Copies of the groups, split where a class declares that it wants them so."""
    copies = [dict(group) for group in groups]
    return [part for group in copies for part in split(group)] if SPLITTING in arguments else copies


def split(group: Group) -> list[Group]:
    """A group as two, hidden matrices and the rest, for optimizers that orthogonalise."""
    names = group.get("param_names") or [str(i) for i in range(len(group["params"]))]
    role = roles(list(zip(names, group["params"], strict=True)))
    parts = []
    for hidden in (True, False):
        chosen = [i for i, name in enumerate(names) if (role[name] is Role.HIDDEN) == hidden]
        if chosen:
            members = {
                "params": [group["params"][i] for i in chosen],
                "param_names": [names[i] for i in chosen],
            }
            parts.append({**group, **members, SPLIT: hidden})
    return parts


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


def _is_required(argument: inspect.Parameter) -> bool:
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
    precision = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(precision, torch.dtype):
        raise ValueError(f"{name} must be a precision such as float32 or bfloat16, got {value!r}")
    return precision


def _member(name: str, value: str, kind: type[Enum]) -> Enum:
    if value.upper() not in kind.__members__:
        raise ValueError(
            f"{name} must be one of {', '.join(kind.__members__).lower()}, got {value!r}"
        )
    return kind[value.upper()]
