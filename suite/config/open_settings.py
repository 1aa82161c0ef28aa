"""Settings that a YAML leaves open.

Keys of an empty mapping, and which of many optimizers a `name` stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from suite.config import overrides, registry
from suite.errors import ConfigError

BELOW = re.compile(r"(?P<group>\w+)\.(?P<key>\w+)\.[\w.]+=")


def opened(arguments: Sequence[str]) -> list[str]:
    """The arguments, with Hydra's sign for a new key before those that go into an empty mapping.

    `optimizer=pytorch_optimizer optimizer.settings.k=5` is meant as it stands, though the YAML has
    no `k`.
    """
    return [
        f"++{argument}" if _is_open(argument, arguments) else argument for argument in arguments
    ]


def label(optimizer: str, node: Mapping[str, Any]) -> str:
    """What results and reports call an optimizer.

    Its YAML's name, and the `name` it is told if it is one of many.
    """
    name = node.get("name")
    return (
        f"{optimizer}_{re.sub(r'[^a-z0-9]+', '_', name.lower())}"
        if isinstance(name, str)
        else optimizer
    )


def _is_open(argument: str, arguments: Sequence[str]) -> bool:
    found = BELOW.match(argument)
    if found is None:
        return False
    names = overrides.chosen(found["group"], arguments) if found["group"] in registry.GROUPS else []
    return any(_node(found["group"], name).get(found["key"]) == {} for name in names)


def _node(group: str, name: str) -> dict[str, object]:
    try:
        return registry.read(group, name)
    except ConfigError:
        return {}
