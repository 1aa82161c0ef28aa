"""The role of a parameter: a hidden matrix, an embedding, the output layer, or a vector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from torch import nn

EMBEDDING = re.compile(r"(^|[._])(embed\w*|wte|wpe|tok\w*|pos\w*)([._]|$)")


class Role(StrEnum):
    """The part a parameter plays."""

    HIDDEN = "hidden"
    EMBEDDING = "embedding"
    HEAD = "head"
    VECTOR = "vector"


def roles(named: Sequence[tuple[str, nn.Parameter]]) -> dict[str, Role]:
    """The role of every parameter, in the order of the model.

    One whose name speaks of an embedding is an embedding; the last of the others with two
    dimensions or more is the head (networks register their output layer last); one with fewer than
    two dimensions larger than one is a vector; the others are hidden.
    """
    matrices = [name for name, p in named if p.ndim >= 2 and not EMBEDDING.search(name.lower())]
    return {name: _role(name, parameter, head=matrices[-1:] == [name]) for name, parameter in named}


def model_roles(model: nn.Module) -> dict[nn.Parameter, Role]:
    """The role of every parameter of a model, in its order.

    One that has two names, as an embedding that is the output layer too, has the role of the first;
    but the last name is still the head's, so that no hidden matrix is taken for it.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    by_name = roles(named)
    role_of: dict[nn.Parameter, Role] = {}
    for name, parameter in named:
        role_of.setdefault(parameter, by_name[name])
    return role_of


def _role(name: str, parameter: nn.Parameter, head: bool) -> Role:
    if head:
        return Role.HEAD
    if sum(size > 1 for size in parameter.shape) < 2:
        return Role.VECTOR
    return Role.EMBEDDING if EMBEDDING.search(name.lower()) else Role.HIDDEN
